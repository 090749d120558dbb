"""Recipes of instances through the whole workflow: from round to round, scored, exported and reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as codec

from maskmill.images.instances import InstanceStore
from maskmill.rounds.instance.teaching import merge

pytestmark = pytest.mark.slow


@pytest.fixture
def base(finished: Path) -> Path:
    return finished / "results/recipes/cutler/seed0"


def test_cutler_learns_from_its_own_instances(base: Path) -> None:
    """Reproducible from the files of the round before."""
    stores = list((base / "round2/taught").iterdir())
    assert len(stores) == 2
    for path in stores:
        folders = ("round0/instances", "round1/instances", "round2/taught")
        old, new, taught = (InstanceStore(base / folder / path.name) for folder in folders)
        for image_id in taught.ids:
            expected = merge(old[image_id], new[image_id], 0.2, 0.5)
            np.testing.assert_array_equal(taught[image_id].masks, expected.masks)


def test_instances_of_every_round_are_scored_and_reported(base: Path, finished: Path) -> None:
    cut = json.loads((finished / "results/recipes/cutler/objects.json").read_text())["scores"][0]
    for round in (1, 2):
        scores = json.loads((base / f"round{round}/scores.json").read_text())
        assert scores["objects"][0]["protocol"] == cut["protocol"]
        assert {"corloc", "box_ap50", "mask_ap50", "box_ar100", "mbo"} <= set(scores["objects"][0])
    assert "objects" not in json.loads((base / "round0/scores.json").read_text())
    html = (finished / "results/report.html").read_text()
    assert html.index("Objects, without classes") < html.index("round 2")


def test_instances_of_the_last_round_are_exported(base: Path) -> None:
    coco = json.loads((base / "export/coco.json").read_text())
    stores = [InstanceStore(path) for path in (base / "round2/instances").iterdir()]
    assert len(coco["annotations"]) == sum(len(store[i]) for store in stores for i in store.ids)
    assert all(0 < found["score"] <= 1 for found in coco["annotations"])
    assert codec.area(coco["annotations"][0]["segmentation"]) == coco["annotations"][0]["area"]


def test_masks_of_a_round_of_instances_teach_a_network_of_masks(finished: Path) -> None:
    """As MaskDistill does: a network on photos learns from the masks that the instances were painted as."""
    base = finished / "results/recipes/maskdistill/seed0"
    assert (base / "round1/instances").is_dir()
    assert (base / "round2/masks").is_dir()
    assert not (base / "round2/instances").exists()
