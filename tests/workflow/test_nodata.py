"""A picture whose lower half holds no data gets the masks that its upper half gets alone, and `ignore` below."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from half_scene import CHOSEN, SIDE, STRIDE, Scene, pair
from PIL import Image

from maskmill.rounds._training import Sources
from maskmill.rounds.run import MaskFiles, Round, StudentFiles, predict, train
from maskmill.store.ragged import Ragged

CUTS: dict[str, dict[str, Any]] = {
    "grid": {"method": "grid", "rows": 1, "columns": 3},
    "kmeans": {"method": "kmeans", "segments": 3},
    "ncut": {"method": "ncut", "tau": 0.3},
    "refined": {"method": "grid", "rows": 1, "columns": 3, "refine": {"method": "guided"}},
}


def check(masks: Ragged, alone: Ragged) -> None:
    """The masks of whole and cropped files are the same where there is data; elsewhere they are ignore."""
    rows = SIDE // 2 * 4 // STRIDE
    for image_id in alone.ids:
        mask, valid = masks[image_id], masks.valid(image_id)
        if image_id == "im3":
            assert valid is None
            assert (mask == alone[image_id]).all()
            continue
        assert valid is not None
        assert valid[:rows].all()
        assert not valid[rows:].any()
        assert (mask[:rows] == alone[image_id]).all()
        assert (mask[rows:] == 255).all()
    assert (masks["none"] == 255).all()
    assert alone.valid_rows is None


@pytest.mark.parametrize("paint", [{}, {"refine": {"method": "guided"}}, {"abstain": 0.2}], ids=str)
def test_clusters_of_tokens(tmp_path: Path, paint: dict[str, Any]) -> None:
    whole, cropped = pair(tmp_path)
    masks, alone = whole.tokens_recipe(**paint), cropped.tokens_recipe(**paint)
    check(masks, alone)
    assert len(np.unique(alone["im0"])) >= 3
    assert whole.scores() == cropped.scores()
    store = Ragged(whole.folder / "features/s0.zarr")
    assert store.attrs["mean_cosine"] == Ragged(cropped.folder / "features/s0.zarr").attrs["mean_cosine"]
    half = SIDE // STRIDE // 2
    assert (store["im0"][half:] == store["im0"][half - 1]).all()  # the nearest with data stands in


@pytest.mark.parametrize("name", CUTS)
def test_clusters_of_segments(tmp_path: Path, name: str) -> None:
    whole, cropped = pair(tmp_path)
    masks, alone = whole.regions_recipe(CUTS[name]), cropped.regions_recipe(CUTS[name])
    check(masks, alone)
    assert whole.scores() == cropped.scores()
    cut = Ragged(whole.folder / "cut/s0.zarr", "segments")
    for image_id in cut.ids:
        valid = cut.valid(image_id)
        if valid is not None:
            assert not cut[image_id][~valid].any()


def test_a_student_learns_and_predicts_nothing_where_there_is_no_data(tmp_path: Path) -> None:
    masks: dict[str, Ragged] = {}
    for scene in pair(tmp_path):
        scene.tokens_recipe()
        tokens, student, out = (scene.folder / name for name in ("features/s0.zarr", "s.safetensors", "round1/s0.zarr"))
        section = {"count": 1, "features": ["f"], "steps": 20, "batch_size": 2}
        train(
            Sources({"f": [tokens]}),
            [scene.folder / "masks/s0.zarr"],
            section,
            StudentFiles(student),
            round=Round(1, 0, 3),
        )
        predict(student, {"f": tokens}, MaskFiles(out, scene.folder / "sure/s0.zarr"), section)
        masks[scene.folder.name] = Ragged(out, "masks")
    whole = masks["whole"]
    for image_id in whole.ids:
        valid = whole.valid(image_id)
        assert (whole[image_id] != 255).all() if valid is None else ((whole[image_id] == 255) == ~valid).all()
    assert not whole.valid("none").any()  # type: ignore[union-attr]


def test_an_export_says_ignore_and_counts_only_what_is_shown(tmp_path: Path) -> None:
    whole, cropped = pair(tmp_path)
    shares = {}
    for scene in (whole, cropped):
        scene.tokens_recipe()
        with (scene.exported() / "clusters.csv").open() as file:
            shares[scene.folder.name] = [(row["pixels"], row["share"]) for row in csv.DictReader(file)]
    assert shares["whole"] == shares["cropped"]
    mask = np.asarray(Image.open(whole.folder / "export/masks/im0.png"))
    assert mask.shape == (SIDE, SIDE)
    assert ((mask == 255) == (np.arange(SIDE) >= SIDE // 2)[:, None]).all()


def test_a_scene_without_nodata_has_no_such_array(tmp_path: Path) -> None:
    _, cropped = pair(tmp_path)
    cropped.tokens_recipe()
    assert not list(cropped.folder.rglob("valid"))
    assert isinstance(cropped, Scene)
    assert CHOSEN.stride == STRIDE
