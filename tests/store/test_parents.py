"""What a picture is cut from is known to every store that clusters are fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskmill.cut.run import run as cut
from maskmill.reduce import run as reduce
from maskmill.regions.run import run as regions
from maskmill.store.ragged import Ragged, RaggedWriter

PARENTS = {"slide/p0001": "slide", "photo": None, "slide/p0000": "slide"}


def test_every_stage_keeps_the_parents(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens = np.zeros((6, 8, 5), np.float32)
    tokens[:, :4, 0], tokens[:, 4:, 1] = 4, 4
    features, reduced = tmp_path / "features.zarr", tmp_path / "reduced.zarr"
    with RaggedWriter(features, "features", depth=5) as out:
        for image_id, parent in PARENTS.items():
            out.append(image_id, tokens + rng.normal(0, 0.1, tokens.shape).astype(np.float32), parent=parent)
    cut(features, {"method": "ncut", "features": "a"}, tmp_path / "cut.zarr", 0, 1)
    table, vectors = tmp_path / "regions.parquet", tmp_path / "vectors.zarr"
    regions(tmp_path / "cut.zarr", features, {"features": "a", "pool": "mean"}, table, vectors)
    params = {"method": "pca", "dimensions": 2}
    reduce.fit([features], params, 0, tmp_path / "model.safetensors", 1)
    reduce.transform(features, tmp_path / "model.safetensors", params, reduced, 1)
    for store in map(Ragged, (tmp_path / "cut.zarr", vectors, reduced)):
        assert {image_id: store.parent(i) for i, image_id in enumerate(store.ids)} == PARENTS, store.path
