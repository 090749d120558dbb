"""A run of twelve drawn frames in a folder, from photos to tracks in the export and agreement in the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import whole_run
import yaml
from PIL import Image

from maskmill.store.artefact import read_json, read_table
from maskmill.store.manifest import read_shards

pytestmark = pytest.mark.slow

RECIPE = {
    "features": {"semantic": {"backbone": "colour", "stride": 8, "size": {"square": 96}}},
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 3, "spherical": False},
}


def test_twelve_frames(tmp_path: Path, programs: Path) -> None:
    """A red and a blue square pass each other in front of black."""
    (tmp_path / "film").mkdir()
    for t in range(12):
        photo = np.zeros((96, 96, 3), np.uint8)
        photo[8:40, 5 * t : 5 * t + 32] = 255, 0, 0
        photo[56:88, 64 - 5 * t : 96 - 5 * t] = 0, 0, 255
        Image.fromarray(photo).save(tmp_path / f"film/{t:03d}.png")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    order = {"order": "folder"}
    config = {
        "images": str(tmp_path / "film"), "recipes": [str(tmp_path / "own.yaml")], "inputs": {"shard_size": 5},
        "tracks": order, "evaluate": {"time": order},
    }  # fmt: skip
    whole_run.run(tmp_path, config, programs)
    seed = tmp_path / "results/recipes/own/seed0"
    assert len(read_shards(tmp_path / "results/inputs/manifest.parquet")) > 1
    rows = read_table(seed / "tracks/tracks.parquet").to_pylist()
    long = {row["track"] for row in rows if [r["track"] for r in rows].count(row["track"]) == 12}
    tops = {track: np.mean([row["top"] for row in rows if row["track"] == track]) for track in long}
    assert sum(abs(top - 8) < 5 for top in tops.values()) == 1  # the red one
    assert sum(abs(top - 56) < 5 for top in tops.values()) == 1
    body = json.loads((seed / "export/coco_tracks.json").read_text())
    assert [image["position"] for image in body["images"]] == list(range(12))
    assert sorted(each["track_id"] for each in body["annotations"]) == sorted(row["track"] for row in rows)
    found = read_json(seed / "time.json")
    assert found["warped"] > found["warped_shuffled"]
    assert found["own_features"]
    assert "Frames that follow one another" in (tmp_path / "results/report.html").read_text()
