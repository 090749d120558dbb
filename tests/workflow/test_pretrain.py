"""A backbone that is trained in the workflow: once for all who ask, by content, with any number of channels."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import whole_run
import yaml
from photo_rows import rows_of
from PIL import Image
from safetensors.torch import save_file

from maskmill.backbones import weights_file
from maskmill.backbones.network import import_timm
from maskmill.predict.run import Wanted, predict
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow
PRETRAIN = {
    "method": "dino", "start": "scratch", "steps": 3, "batch_size": 4, "micro_batch": 2, "crop": 64, "local_crop": 32,
    "local_crops": 1, "prototypes": 16, "hidden": 16, "bottleneck": 8,
}  # fmt: skip
RECIPE = {
    "pretrain": PRETRAIN,
    "features": {"semantic": {"backbone": {"pretrain": "resnet18"}, "size": {"square": 64}}},
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 2},
}
TRAINED = {"pretrain_fit", "pretrain_accept"}


def run(folder: Path, programs: Path, **change: Any) -> set[str]:
    """The rules that ran."""
    config = {"images": str(folder / "photos"), "recipes": [str(folder / "own.yaml")], "inputs": {"shard_size": 3}}
    done = whole_run.run(folder, config | change, programs)
    return set(re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout)) - {"all"}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    rows_of(tmp_path / "photos", 6)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def test_a_backbone_of_ones_own(work: Path, programs: Path) -> None:
    ran = run(work, programs)
    assert ran >= {*TRAINED, "features", "report", "export"}
    assert "weights" not in ran  # from scratch: nothing is fetched
    (folder,) = (work / "results/pretrain").iterdir()
    assert folder.name.startswith("resnet18.dino-")
    state, facts = weights_file.read(folder / "weights.safetensors")
    assert facts["architecture"] == "resnet18"
    assert "trained by dino" in facts["about"]
    assert len(json.loads((folder / "monitor.json").read_text())["loss"]) == 3
    assert not list(folder.glob(".*checkpoint"))
    store = next((work / "results/features").glob("*/*.zarr"))
    assert facts["sha256"] in Ragged(store).provenance["inputs"]
    assert state["conv1.weight"].shape == (64, 3, 7, 7)

    assert run(work, programs) == set()
    for file in (work / "photos").iterdir():
        file.touch()
    assert not run(work, programs) & {*TRAINED, "features"}  # the same photos
    assert not run(work, programs, pretrain={"checkpoint_steps": 1, "cache_mib": 1}) & TRAINED
    assert "pretrain_fit" not in (ran := run(work, programs, pretrain={"accept": "better"}))
    assert "pretrain_accept" in ran
    assert run(work, programs, pretrain={"learning_rate": 1e-3}) >= {*TRAINED, "features"}  # another backbone
    assert len(list((work / "results/pretrain").iterdir())) == 2

    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(work / "photos/p000.png")
    assert run(work, programs) >= {*TRAINED, "features"}  # other photos

    latest = max((work / "results/pretrain").glob("*/weights.safetensors"), key=lambda file: file.stat().st_mtime)
    for name, made in (("weights", {"pretrain_accept"}), ("trained", {"pretrain_fit"})):
        gone = latest.with_name(f"{name}.safetensors")
        before = gone.read_bytes()
        gone.unlink()
        assert run(work, programs) == made  # and nothing that was made from it
        assert gone.read_bytes() == before

    segmenter = work / "results/recipes/own/seed0/export/segmenter"
    assert [file.name for file in (segmenter / "weights").iterdir()] == [f"{folder.name}.safetensors"]
    shutil.rmtree(work / "results/pretrain")
    predict([work / "photos"], segmenter, work / "out", Wanted())
    masks = list((work / "out").rglob("p00*.png"))
    assert masks


def test_recipes_share_a_training_and_start_from_weights(work: Path, programs: Path) -> None:
    checkpoint = work / "start.safetensors"
    save_file(import_timm().create_model("resnet18", pretrained=False, num_classes=0).state_dict(), checkpoint)
    body = RECIPE | {"pretrain": PRETRAIN | {"start": "weights"}}
    body["features"] = {"semantic": RECIPE["features"]["semantic"] | {"checkpoint": str(checkpoint)}}
    for name in ("own", "other"):
        clusters = {"cluster": {"method": "kmeans", "clusters": 2 if name == "own" else 3}}
        (work / f"{name}.yaml").write_text(yaml.safe_dump(body | clusters))
    recipes = [str(work / "own.yaml"), str(work / "other.yaml")]
    assert "weights" in run(work, programs, recipes=recipes)
    assert len(list((work / "results/pretrain").iterdir())) == 1
    assert len(list((work / "results/features").iterdir())) == 1


def test_all_channels_of_a_stack_are_learnt_from(tmp_path: Path, programs: Path) -> None:
    (tmp_path / "photos").mkdir()
    draws = np.random.default_rng(0)
    for i in range(5):
        place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
        with rasterio.open(tmp_path / f"photos/s{i}.tif", "w", "GTiff", 70, 70, 5, dtype="uint8", **place) as file:
            file.write(draws.integers(0, 256, (5, 70, 70), dtype=np.uint8))
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    run(tmp_path, programs, inputs={"shard_size": 3, "channels": "all"})
    file = next((tmp_path / "results/pretrain").glob("*/weights.safetensors"))
    state, facts = weights_file.read(file)
    assert state["conv1.weight"].shape == (64, 5, 7, 7)
    assert len(facts["mean"]) == 5
