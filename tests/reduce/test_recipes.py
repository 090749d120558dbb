"""The recipes that reduce by neighbours, end to end through Snakemake on photographs drawn here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from small_run import draw, jobs, snakemake

from maskmill.store.artefact import read_tensors
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow


def test_umap_and_hnne_recipes_reach_the_report_and_stay_done(tmp_path: Path) -> None:
    for i in range(5):
        draw(tmp_path / "images" / f"im{i}.png", i)
    recipes = ["umap"] + (["hnne"] if importlib.util.find_spec("hnne") else [])
    config = {
        "images": str(tmp_path / "images"), "recipes": recipes, "inputs": {"shard_size": 2},
        "features": {"semantic": {"size": {"square": 128}}}, "cluster": {"clusters": 3},
        "report": {"gallery": 4, "typical": 2},
    }  # fmt: skip
    done = snakemake(tmp_path / "run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in recipes:
        folder = tmp_path / "run/results/recipes" / name
        stores = [Ragged(path, "features") for path in sorted(folder.glob("reduce/*.zarr"))]
        assert {store.depth for store in stores} == {8}
        assert sum(map(len, stores)) == 5
        assert list(folder.glob("seed0/export/masks/*.png"))
    assert "levels" in read_tensors(folder / "reduce/model.safetensors")[0] or recipes == ["umap"]
    assert name in (tmp_path / "run/results/report.html").read_text()
    assert "Nothing to be done" in (again := snakemake(tmp_path / "run", config)).stdout + again.stderr
    more = config | {"reduce": {"max_fit_points": 200}}
    assert jobs(snakemake(tmp_path / "run", more, "--dry-run"))["reduce_fit"] == len(recipes)
