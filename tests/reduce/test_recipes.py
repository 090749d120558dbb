"""The recipes that reduce by neighbours, end to end through Snakemake on photographs drawn here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from maskmill.store.artefact import read_tensors
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow
RECIPES = ["umap"] + (["hnne"] if importlib.util.find_spec("hnne") else [])


@pytest.mark.parametrize("name", RECIPES)
def test_umap_and_hnne_recipes_reach_the_report(name: str, finished: Path) -> None:
    folder = finished / "results/recipes" / name
    stores = [Ragged(path, "features") for path in sorted(folder.glob("reduce/*.zarr"))]
    assert {store.depth for store in stores} == {8}
    assert sum(map(len, stores)) == 12
    assert len(list(folder.glob("seed0/export/masks/**/*.png"))) == 12
    assert "levels" in read_tensors(folder / "reduce/model.safetensors")[0] or name == "umap"
    assert name in (finished / "results/report.html").read_text()
