"""Tokens as codes in a real run whose stores are not kept: one codec, and the masks are those of `maskmill predict`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whole_run
import yaml
from PIL import Image

from maskmill.numerics.sampling import smallest
from maskmill.predict.run import Wanted, predict
from maskmill.store.manifest import read_shards
from maskmill.store.product import read

pytestmark = pytest.mark.slow

FEATURES = {"semantic": {"backbone": "colour", "stride": 4, "size": {"square": 64}, "dtype": "pq", "pq": {"bytes": 5}}}
TOKENS = {
    "features": FEATURES,
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 3},
}
REGIONS = {
    "features": FEATURES,
    "cut": {"features": "semantic", "method": "grid", "rows": 2, "columns": 2},
    "regions": {"features": "semantic", "pool": "mean"},
    "cluster": {"method": "kmeans", "clusters": 2},
    "rounds": {"count": 1, "steps": 4, "features": ["semantic"]},
}


def draw(file: Path, seed: int) -> None:
    """A photo of four stripes."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (4, 3)).repeat(16, axis=0)[None].repeat(64, axis=0)
    file.parent.mkdir(exist_ok=True)
    Image.fromarray((colours + rng.integers(-9, 9, (64, 64, 3))).clip(0, 255).astype(np.uint8)).save(file)


def run(folder: Path, programs: Path, change: dict[str, Any]) -> list[str]:
    """The rules that ran, one entry a job."""
    recipes = [str(folder / f"{name}.yaml") for name in ("tokens", "regions")]
    config = {"images": str(folder / "photos"), "recipes": recipes, "inputs": {"shard_size": 2}} | change
    done = whole_run.run(folder, config, programs)
    return re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout)


def test_a_run_on_codes(tmp_path: Path, programs: Path) -> None:
    for name in "abcdef":
        draw(tmp_path / f"photos/{name}.png", ord(name))
    for name, recipe in (("tokens", TOKENS), ("regions", REGIONS)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    ran = run(tmp_path, programs, {"features": {"keep": False}})
    assert ran.count("features_pq") == 1
    assert len(set(ran)) > 8
    (file,) = tmp_path.glob("results/features/*/pq.safetensors")
    assert read(file)[0].bytes == 5
    assert not list(tmp_path.glob("results/features/*/*.zarr"))  # deleted after their last reader
    assert set(run(tmp_path, programs, {"features": {"keep": False}})) <= {"all"}
    masks = {path: path.read_bytes() for path in tmp_path.glob("results/recipes/*/seed0/export/masks/*.png")}
    assert len(masks) == 12
    for name in ("tokens", "regions"):
        export = tmp_path / f"results/recipes/{name}/seed0/export"
        wanted = Wanted(overlays=False, threads=1, device="cpu")
        made = predict([tmp_path / "photos"], export / "segmenter", tmp_path / name, wanted)
        assert made.failed == {}
        for path in (export / "masks").glob("*.png"):
            np.testing.assert_array_equal(Image.open(tmp_path / name / path.name), Image.open(path))


def test_an_added_image_codes_no_other_shard_unless_the_codec_sees_it(tmp_path: Path, programs: Path) -> None:
    """Snakemake agrees with tests/dag/test_coded.py."""
    recipe = TOKENS | {"features": {"semantic": FEATURES["semantic"] | {"pq": {"bytes": 5, "images": 3}}}}
    (tmp_path / "tokens.yaml").write_text(yaml.safe_dump(recipe))
    config = {
        "images": str(tmp_path / "photos"),
        "recipes": [str(tmp_path / "tokens.yaml")],
        "inputs": {"shard_size": 2},
        "export": {"masks": False, "coco": False},
    }

    def counted() -> tuple[int, int]:
        done = whole_run.run(tmp_path, config, programs)
        ran = re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout)
        return ran.count("features_pq"), ran.count("features")

    def stores() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("results/features/*/*.zarr")}

    def shards() -> set[str]:
        return {f"{name}.zarr" for name in read_shards(tmp_path / "results/inputs/manifest.parquet")}

    ids = list("abcdefgh")
    for name in ids:
        draw(tmp_path / f"photos/{name}.png", ord(name))
    names = [f"z{i}" for i in range(99)]
    enters = {name: len(ids) in smallest([*ids, name], 3, 0) for name in names}
    outside, inside = (next(name for name in names if enters[name] is wanted) for wanted in (False, True))
    assert counted() == (1, len(shards()))
    before = stores()
    draw(tmp_path / f"photos/{outside}.png", 1)
    fitted, coded = counted()
    assert (fitted, coded) == (0, len(shards() - before.keys()))
    assert 0 < coded < len(shards())
    kept = shards() & before.keys()
    assert {name: stores()[name] for name in kept} == {name: before[name] for name in kept}
    draw(tmp_path / f"photos/{inside}.png", 2)
    assert counted() == (1, len(shards()))
