"""A large GeoTIFF through the workflow by windows, and its squares as photos: the same masks and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whole_run
import yaml
from large_files import write_tiff
from PIL import Image

from maskmill.images.view import View
from maskmill.store.artefact import read_json
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow

SIDE, SQUARE = 4000, 1000
RECIPE = {
    "features": {"semantic": {"backbone": "colour", "stride": 8, "size": {"square": 128}}},
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 3},
}
SCORES = "results/recipes/own/seed0/round0/scores.json"


def draw(folder: Path) -> None:
    """mosaic/, labels/ with one GeoTIFF each, and squares/, square_labels/ of the same pixels as PNGs."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (SIDE // 250, SIDE // 250), dtype=np.uint8).repeat(250, axis=0).repeat(250, axis=1)
    tones = np.array([[40, 60, 200], [90, 200, 60], [220, 60, 50]], np.uint8)
    photo = tones[label] + rng.integers(0, 30, (SIDE, SIDE, 1), dtype=np.uint8)
    tiles = {"blockxsize": 256, "blockysize": 256, "compress": "deflate", "zlevel": 1}
    write_tiff(folder / "mosaic/mosaic.tif", photo, **tiles)
    write_tiff(folder / "labels/mosaic.tif", label, **tiles)
    for name, values in {"squares": photo, "square_labels": label}.items():
        (folder / name).mkdir()
        for top in range(0, SIDE, SQUARE):
            for left in range(0, SIDE, SQUARE):
                part = values[top : top + SQUARE, left : left + SQUARE]
                Image.fromarray(part).save(folder / name / f"{top:04d}-{left:04d}.png", compress_level=1)


def run(folder: Path, name: str, programs: Path, **config: Any) -> dict[tuple[int, int], np.ndarray]:
    """The masks of a run by place."""
    (folder / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    whole_run.run(folder / name, config | {"recipes": [str(folder / "own.yaml")], "preset": []}, programs, SCORES)
    masks: dict[tuple[int, int], np.ndarray] = {}
    rows = read_manifest(folder / name / "results/inputs/manifest.parquet").by_id
    for store in (folder / name / "results/recipes/own/seed0/round0/masks").glob("*.zarr"):
        for image_id, mask in Ragged(store, "masks").images():
            view = rows[image_id].view
            top, left, *_ = (View.of(view).window if view else None) or map(int, image_id.split("-"))
            masks[top, left] = mask
    return masks


def test_a_large_image_has_the_masks_of_its_parts(tmp_path: Path, programs: Path) -> None:
    draw(tmp_path)
    large = {"images": str(tmp_path / "mosaic"), "labels": str(tmp_path / "labels")}
    by_windows = run(tmp_path, "by_windows", programs, **large, inputs={"window": {"size": SQUARE, "overlap": 0}})
    apart = run(tmp_path, "apart", programs, images=str(tmp_path / "squares"), labels=str(tmp_path / "square_labels"))
    assert len(by_windows) == len(apart) == 16
    for place, mask in apart.items():
        np.testing.assert_array_equal(by_windows[place], mask)
    found = [read_json(tmp_path / name / SCORES)["scores"] for name in ("by_windows", "apart")]
    for ours, theirs in zip(*found, strict=True):
        for key in ours.keys() - {"protocol"}:  # it names the pictures
            assert ours[key] == theirs[key], key
    assert found[0][0]["images"] == 16
    logged = (tmp_path / "by_windows/logs/inputs.log").read_text()
    assert "1 image is cut into 16 windows; 0 empty windows are left out" in logged
