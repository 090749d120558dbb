"""Recipes that distil masks into a student ask for what their papers ask for, as published and with preset small."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskmill.recipe.model import Recipe
from maskmill.recipe.resolve import load

RECIPES = Path(__file__).parents[2] / "recipes"
PRESETS = [[], ["small"]]


def recipe(name: str, preset: list[str]) -> Recipe:
    return load({"images": "demo", "recipes": [name], "preset": preset}, RECIPES).recipes[name]


@pytest.mark.parametrize("preset", PRESETS)
def test_comus_keeps_regions_by_cosine_and_only_large_ones(preset: list[str]) -> None:
    comus = recipe("comus", preset)
    assert comus.cluster.settings.distance == "cosine"
    assert comus.regions.settings.min_pixels == 400
    assert comus.paint.settings.dropped == "ignore"


def test_comus_trains_as_published() -> None:
    comus = recipe("comus", [])
    for round in (1, 2):
        params = comus.rounds_at(round).params
        assert (params.schedule, params.learning_rate, params.weight_decay) == ("constant", 6e-5, 0)
        assert (params.crop, params.scale, params.zoom) == (512, (0.5, 2), None)
        assert (params.jitter, params.grey, params.blur) == (0, 0, 0)
        assert params.size.square == 512
    assert comus.rounds_at(1).params.steps == 260
    assert comus.rounds_at(2).params.steps == 945


@pytest.mark.parametrize("preset", PRESETS)
def test_cutler_changes_no_colours_and_fills_holes(preset: list[str]) -> None:
    cutler = recipe("cutler", preset)
    assert cutler.cut is not None
    assert (cutler.cut.settings.refine.method, cutler.cut.settings.fill_holes) == ("crf", True)
    for round in (1, 2, 3):
        params = cutler.rounds_at(round).params
        assert (params.jitter, params.grey, params.blur) == (0, 0, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_maskdistill_scales_its_vectors_and_has_a_crf_of_its_own(preset: list[str]) -> None:
    distill = recipe("maskdistill", preset)
    assert distill.reduce.method == "unit_variance"
    assert distill.reduce.params.normalise
    assert not distill.cluster.params.spherical
    assert distill.rounds_at(1).params.jitter == 0
    for round in (2, 3):
        crf = distill.rounds_at(round).settings.refine.params.model_dump()
        published = {"xy_std": 67, "rgb_std": 3, "compat": 4, "xy_std_smooth": 1, "compat_smooth": 3, "iterations": 10}
        assert crf == published | {"side": 433}  # a VOC photo of 500 x 375 px


def test_maskdistill_turns_whole_photos() -> None:
    for round in (2, 3):
        params = recipe("maskdistill", []).rounds_at(round).params
        assert (params.zoom, params.rotation, params.crop, params.size.square) == ((0.75, 1.25), 5, 512, 512)
        assert (params.jitter, params.grey, params.blur) == (0, 0, 0)
        assert (params.schedule, params.step_factor) == ("step", 0.1)
        assert params.step_at == pytest.approx(41 / 45, abs=1e-3)
