"""The recipes that find objects, and those that see colours, end to end through Snakemake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import whole_run
from PIL import Image
from small_run import configuration, masks

pytestmark = pytest.mark.slow
OBJECTS = ("lost", "tokencut", "maskcut")


@pytest.mark.parametrize("recipe", OBJECTS)
def test_object_discovery_reaches_the_report(recipe: str, finished: Path) -> None:
    """Every object is of class 1, with the score of its own cut."""
    assert recipe in (finished / "results/report.html").read_text()
    export = finished / f"results/recipes/{recipe}/seed0/export"
    coco = json.loads((export / "coco.json").read_text())
    assert [category["id"] for category in coco["categories"]] == [1]
    assert {annotation["category_id"] for annotation in coco["annotations"]} == {1}
    found = {value for mask in export.glob("masks/**/*.png") for value in np.unique(np.asarray(Image.open(mask)))}
    assert found <= {0, 1, 255}
    assert 1 in found


def test_object_discovery_needs_no_tokens_that_are_kept(finished: Path, tmp_path: Path, programs: Path) -> None:
    """Without them, the masks are those of the run that keeps them."""
    work = tmp_path / "work"
    shutil.copytree(finished / "resources", work / "resources")
    config = configuration(finished, *OBJECTS) | {"features": {"keep": False}, "labels": None, "evaluate": {}}
    whole_run.run(work, config, programs)
    assert not list(work.glob("results/features/*/*.zarr"))
    found = masks(work)
    assert {name.split("/")[2] for name in found} == set(OBJECTS)
    assert found.items() <= masks(finished).items()


def test_cuts_by_colour_reach_the_report(finished: Path) -> None:
    """A cut with a second feature set, and one whose tokens come without a network."""
    html = (finished / "results/report.html").read_text()
    assert "coloured" in html
    assert "ncut_color" in html
