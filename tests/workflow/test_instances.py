"""Recipe cutler through the whole workflow: instances from round to round, scored, exported and reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as codec
from small_run import jobs, snakemake

from maskmill.images.instances import InstanceStore
from maskmill.rounds.instance.teaching import merge

pytestmark = pytest.mark.slow
ROUNDS: dict[str, Any] = {
    "count": 2, "steps": 40, "batch_size": 4, "crop": 112, "size": {"short_side": 112}, "width": 32, "keep_score": 0.2,
    "from_round": {2: {"steps": 4, "keep_score": 0.2}},
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "recipes": ["cutler"],
    "preset": ["small"],
    "inputs": {"shard_size": 6},
    "features": {"grouping": {"size": {"square": 112}}},
    "cut": {"refine": "none"},
    "rounds": ROUNDS,
    "evaluate": {"objects": True},
}


def test_cutler_learns_from_its_own_instances(photos: Path, tmp_path: Path) -> None:
    config = SETTINGS | {"images": str(photos / "images"), "labels": str(photos / "labels")}
    done = snakemake(tmp_path, config)
    assert done.returncode == 0, done.stdout + done.stderr
    base = tmp_path / "results/recipes/cutler/seed0"
    for path in (base / "round2/taught").iterdir():  # reproducible from the files of the round before
        folders = ("round0/instances", "round1/instances", "round2/taught")
        old, new, taught = (InstanceStore(base / folder / path.name) for folder in folders)
        for image_id in taught.ids:
            expected = merge(old[image_id], new[image_id], 0.2, 0.5)
            np.testing.assert_array_equal(taught[image_id].masks, expected.masks)
    cut = json.loads((tmp_path / "results/recipes/cutler/objects.json").read_text())["scores"][0]
    for round in (1, 2):
        scores = json.loads((base / f"round{round}/scores.json").read_text())
        assert scores["objects"][0]["protocol"] == cut["protocol"]
        assert {"corloc", "box_ap50", "mask_ap50", "box_ar100", "mbo"} <= set(scores["objects"][0])
    assert "objects" not in json.loads((base / "round0/scores.json").read_text())
    html = (tmp_path / "results/report.html").read_text()
    assert html.index("Objects, without classes") < html.index("round 2")
    coco = json.loads((base / "export/coco.json").read_text())
    stores = [InstanceStore(path) for path in (base / "round2/instances").iterdir()]
    assert len(coco["annotations"]) == sum(len(store[i]) for store in stores for i in store.ids)
    assert all(0 < found["score"] <= 1 for found in coco["annotations"])
    assert codec.area(coco["annotations"][0]["segmentation"]) == coco["annotations"][0]["area"]
    assert "Nothing to be done" in "".join((again := snakemake(tmp_path, config)).stdout + again.stderr)
    # What decides which predictions are kept reruns what learns from them, not the round that made them.
    other = config | {"rounds": ROUNDS | {"keep_score": 0.9, "from_round": {2: {"steps": 4, "keep_score": 0.3}}}}
    planned = jobs(snakemake(tmp_path, other, "--dry-run"))
    assert (planned["rounds_teach"], planned["rounds_train"]) == (2, 1)
    # The masks of the last round teach a network of masks (MaskDistill).
    chained = ROUNDS | {"count": 3, "from_round": ROUNDS["from_round"] | {3: {
        "student": "deeplabv3plus", "encoder": "semantic", "steps": 2, "batch_size": 2, "crop": 64, "start": "fresh",
        "width": 32, "unfrozen": 0, "schedule": "poly"}}}  # fmt: skip
    sets = SETTINGS["features"] | {"semantic": {"backbone": "efficientnet_lite0", "size": {"square": 64}}}
    recipe = tmp_path / "chained.yaml"
    recipe.write_text((Path(__file__).parents[2] / "recipes/cutler.yaml").read_text().replace(
        "cut:      {", "  semantic: {backbone: efficientnet_lite0, size: {square: 64}}\ncut:      {"))  # fmt: skip
    done = snakemake(tmp_path, config | {"recipes": [str(recipe)], "rounds": chained, "features": sets})
    assert done.returncode == 0, done.stdout + done.stderr
    last = tmp_path / "results/recipes/chained/seed0"
    assert (last / "round3/masks").is_dir()
    assert not (last / "round3/instances").exists()
