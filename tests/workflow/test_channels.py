"""GeoTIFFs of five channels through the workflow with `inputs.channels: all`, and through `maskmill predict`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import whole_run
import yaml
from PIL import Image

from maskmill.predict.run import Wanted, predict
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow

RECIPE = {
    "features": {"semantic": {"backbone": "efficientnet_lite0", "size": {"square": 128}}},
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 3},
    "paint": {"refine": "guided"},
}
SEED = "results/recipes/own/seed0"
SIDE = 128


def draw(folder: Path) -> None:
    """Noise in the first three channels, and what there is to see in the other two."""
    folder.mkdir()
    for i in range(5):
        rng = np.random.default_rng(i)
        label = rng.integers(0, 2, (4, 4)).repeat(SIDE // 4, axis=0).repeat(SIDE // 4, axis=1)
        values = rng.integers(900, 1100, (5, SIDE, SIDE))
        values[3] += 4000 * label
        values[4] += 900 * (1 - label)
        place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
        with rasterio.open(folder / f"{i}.tif", "w", "GTiff", SIDE, SIDE, 5, dtype="uint16", **place) as file:
            file.write(values.astype(np.uint16))


def test_five_channels_from_geotiffs_to_new_masks(tmp_path: Path, programs: Path) -> None:
    draw(tmp_path / "scenes")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    config = {
        "images": str(tmp_path / "scenes"), "recipes": [str(tmp_path / "own.yaml")], "preset": [],
        "inputs": {"channels": "all"},
    }  # fmt: skip
    done = whole_run.run(tmp_path / "run", config, programs)
    log = (tmp_path / "run/logs/inputs.log").read_text()
    assert "pictures of 5 channels, all of which the backbones see" in log, done.stderr
    (store,) = (tmp_path / "run/results/features").glob("*/*.zarr")
    assert Ragged(store).attrs["channels"] == 5
    assert len(read_manifest(tmp_path / "run/results/inputs/manifest.parquet").rows) == 5
    assert "the backbones see all 5" in (tmp_path / "run/results/report.html").read_text()

    export = tmp_path / f"run/{SEED}/export"
    made = predict([tmp_path / "scenes"], export / "segmenter", tmp_path / "new", Wanted(device="cpu"))
    assert made.masks == 5
    different = [
        (np.asarray(Image.open(export / f"masks/{i}.png")) != np.asarray(Image.open(tmp_path / f"new/{i}.png"))).mean()
        for i in range(5)
    ]
    assert max(different) == 0
    four = tmp_path / "four.tif"
    with rasterio.open(four, "w", "GTiff", SIDE, SIDE, 4, dtype="uint16") as file:
        file.write(np.zeros((4, SIDE, SIDE), np.uint16))
    refused = predict([four], export / "segmenter", tmp_path / "four", Wanted(device="cpu")).failed
    assert "has 4 channels, the images of the run have 5" in refused[four]
