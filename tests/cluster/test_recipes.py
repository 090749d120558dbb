"""Recipes whose number of clusters comes from the data, end to end through Snakemake."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow


@pytest.mark.skipif(importlib.util.find_spec("igraph") is None, reason="needs the package igraph")
@pytest.mark.parametrize("name", ["leiden", "hdbscan"])
def test_the_number_of_clusters_may_come_from_the_data(name: str, finished: Path) -> None:
    """Two seeds, whose numbers may differ, from clustering to report and export; noise is ignored in masks."""
    results = finished / "results/recipes" / name
    for seed in (0, 1):
        selection = json.loads((results / f"seed{seed}/cluster/selection.json").read_text())
        stores = [Ragged(path, "masks") for path in (results / f"seed{seed}/round0/masks").glob("*.zarr")]
        values = np.unique(np.concatenate([mask.ravel() for store in stores for _, mask in store.images()]))
        assert all(store.attrs["clusters"] == selection["clusters"] >= 2 for store in stores)
        assert set(values[values < 255]) <= set(range(1, selection["clusters"] + 1))
        assert (255 in values) == (name == "hdbscan")
    assert name in (finished / "seeds.html").read_text()
    with (results / "seed0/export/clusters.csv").open(newline="") as file:
        table = list(csv.reader(file))  # ids hold newlines
    assert len(table) == 2 + json.loads((results / "seed0/cluster/selection.json").read_text())["clusters"]
