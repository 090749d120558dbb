"""Both ends of the flow in parts, as for millions of images: the files are those of the single jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whole_run
import yaml
from fault_run import files
from PIL import Image

pytestmark = pytest.mark.slow

RECIPE = {
    "features": {"semantic": {"backbone": "colour", "stride": 8, "size": {"square": 64}}},
    "cut": {"features": "semantic", "method": "grid", "rows": 2, "columns": 2},
    "regions": {"features": "semantic", "pool": "mean"},
    "cluster": {"method": "kmeans", "clusters": 2},
}
FORMATS = ["coco_panoptic", "voc", "yolo", "mmseg", "cvat", "label_studio"]
PARTS = {"check_files": 3}  # of eight images: three parts


def prepare(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for place in ("photos", "labels"):
        (folder / place).mkdir()
    for name in "abcdefgh":
        label = np.repeat([[0, 1]], 64, axis=0).repeat(32, axis=1).astype(np.uint8)
        photo = (label[..., None] * 200 + rng.integers(0, 40, (64, 64, 3))).astype(np.uint8)
        Image.fromarray(photo).save(folder / f"photos/{name}.png")
        Image.fromarray(label).save(folder / f"labels/{name}.png")
    (folder / "photos/bad.png").write_bytes(b"no image")
    (folder / "own.yaml").write_text(yaml.safe_dump(RECIPE))


def rules(root: Path, work: str, programs: Path, inputs: dict[str, Any], export: dict[str, Any], *options: str) -> Any:
    """[rule of every job that ran], sorted."""
    config = {
        "images": str(root / "photos"), "labels": str(root / "labels"), "recipes": [str(root / "own.yaml")],
        "inputs": {"shard_size": 2} | inputs, "export": {"formats": FORMATS, "photos": "copy"} | export,
    }  # fmt: skip
    done = whole_run.run(root / work, config, programs, *options)
    return sorted(set(re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout)) - {"all"})


def test_both_ends_in_parts(tmp_path: Path, programs: Path) -> None:
    prepare(tmp_path)
    single = rules(tmp_path, "single", programs, {}, {})
    assert not {"inputs_list", "inputs_check", "export_shard"} & set(single)
    # stopped in between, as if killed: the parts that are there are not checked again
    assert rules(tmp_path, "parts", programs, PARTS, {"single_images": 0}, "--until", "inputs_check") == [
        "inputs_check",
        "inputs_list",
    ]
    parts = rules(tmp_path, "parts", programs, PARTS, {"single_images": 0})
    assert set(parts) == {*single, "export_shard"}
    for place in ("results/inputs/manifest.parquet", "results/inputs/rejected.csv", "results/inputs/classes.json",
                  "results/recipes/own/seed0/export"):  # fmt: skip
        one, many = files(tmp_path / "single" / place), files(tmp_path / "parts" / place)
        assert one == many, place
    assert len(list((tmp_path / "parts/results/inputs/checked").iterdir())) == 3
    assert rules(tmp_path, "parts", programs, PARTS, {"single_images": 0}) == []
    # fewer images than a part holds: one job again, which writes the same, so that no list may be left
    assert "inputs_check" not in rules(tmp_path, "parts", programs, {}, {})
    assert not (tmp_path / "parts/results/inputs/listing.parquet").exists()
    assert not list((tmp_path / "parts/results/inputs/checked").iterdir())
    assert files(tmp_path / "parts/results/inputs/manifest.parquet") == files(
        tmp_path / "single/results/inputs/manifest.parquet"
    )
