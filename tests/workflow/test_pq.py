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

from maskmill.predict.run import predict
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


def run(folder: Path, programs: Path, change: dict[str, Any]) -> list[str]:
    """The rules that ran, one entry a job."""
    recipes = [str(folder / f"{name}.yaml") for name in ("tokens", "regions")]
    config = {"images": str(folder / "photos"), "recipes": recipes, "inputs": {"shard_size": 2}} | change
    done = whole_run.run(folder, config, programs)
    return re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout)


def test_a_run_on_codes(tmp_path: Path, programs: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in "abcdef":
        colours = rng.integers(0, 256, (4, 3)).repeat(16, axis=0)[None].repeat(64, axis=0)
        Image.fromarray((colours + rng.integers(-9, 9, (64, 64, 3))).clip(0, 255).astype(np.uint8)).save(
            tmp_path / f"photos/{name}.png"
        )
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
        made = predict([tmp_path / "photos"], export / "segmenter", tmp_path / name, overlays=False, threads=1,
                       device="cpu")  # fmt: skip
        assert made.failed == {}
        for path in (export / "masks").glob("*.png"):
            np.testing.assert_array_equal(Image.open(tmp_path / name / path.name), Image.open(path))
