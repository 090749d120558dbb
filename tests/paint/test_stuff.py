"""Stuff between segments: which classes fill what, and the files of the stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.paint.instances import run_instances
from maskmill.paint.run import Beside, run_limits, run_regions, run_segments
from maskmill.paint.stuff import filled, run_stuff
from maskmill.store import codebook
from maskmill.store.artefact import write_table
from maskmill.store.ragged import Ragged, RaggedWriter

STUFF = {"features": "semantic", "clusters": 2, "covered": 0.7}
PARAMS = {"keep_closest": 1.0, "dropped": "ignore", "upsample": 1, "stuff": STUFF}


def test_stuff_lies_between_segments_unless_they_cover_it() -> None:
    """Class 1 is covered by 2 of 4 cells, class 2 by 3 of 4; a region that is ignored covers too."""
    mask = np.array([[5, 5, 0, 0], [5, 255, 5, 0]], np.uint8)
    stuff = np.array([[1, 1, 1, 1], [2, 2, 2, 2]], np.uint8)
    assert filled(mask, stuff, 5, 0.7).tolist() == [[5, 5, 6, 6], [5, 255, 5, 255]]
    assert filled(mask, stuff, 5, 0.75).tolist() == [[5, 5, 6, 6], [5, 255, 5, 7]]  # not more than the limit


def test_unknown_stuff_stays_unknown_and_wide_masks_have_their_own_ignore() -> None:
    assert filled(np.zeros((1, 2), np.uint16), np.array([[1, 255]], np.uint8), 300, 0.7).tolist() == [[301, 65535]]


def write(folder: Path) -> dict[str, Path]:
    """Two images of 4 x 4 tokens: a segment in a corner, stuff in two halves; the second image has no segment."""
    rng = np.random.default_rng(0)
    directions = np.eye(8, dtype=np.float32)
    with (
        RaggedWriter(folder / "s.zarr", "segments", dtype="uint8") as segments,
        RaggedWriter(folder / "t.zarr", "features", depth=8) as tokens,
    ):
        for image_id in ("a", "b"):
            here = np.zeros((4, 4), np.uint8)
            here[:2, :2] = image_id == "a"
            segments.append(image_id, here)
            kinds = (np.arange(4)[:, None] >= 2).repeat(4, 1).astype(int)
            tokens.append(image_id, (directions[kinds] + 0.01 * rng.random((4, 4, 8))).astype(np.float16))
    table = {"image": ["a"], "region": pa.array([1], pa.int32()), "cluster": pa.array([0], pa.int32())}
    write_table(folder / "s.parquet", pa.table(table | {"distance": pa.array([0.1], pa.float32())}))
    codebook.write(folder / "book", codebook.Codebook(np.eye(3, dtype=np.float32), np.ones(3, np.int64), 0.0, True))
    run_limits([folder / "s.parquet"], folder / "book", {"keep_closest": 1.0}, folder / "limits")
    run_stuff([folder / "t.zarr"], {"clusters": 2, "max_fit_points": 100, "kmeans": 1}, 0, folder / "stuff")
    return {name: folder / name for name in ("s.zarr", "s.parquet", "limits", "book", "stuff", "t.zarr")}


def test_a_shard(tmp_path: Path) -> None:
    f = write(tmp_path)
    given = (f["s.zarr"], f["s.parquet"], f["limits"], f["book"], PARAMS)
    run_segments(*given, tmp_path / "m.zarr", Beside(None, f["stuff"], f["t.zarr"]))
    masks = Ragged(tmp_path / "m.zarr")
    assert (masks.attrs["clusters"], masks.attrs["things"]) == (5, 3)
    mask = masks["a"]
    upper, lower = int(mask[0, 3]), int(mask[3, 0])
    assert {upper, lower} == {4, 5}
    assert mask.tolist() == [[1, 1, upper, upper]] * 2 + [[lower] * 4] * 2
    assert (masks["b"] == 255).all()
    run_instances(*given, tmp_path / "i.zarr")
    assert Ragged(tmp_path / "i.zarr", "instances").attrs["clusters"] == 5
    other = PARAMS | {"stuff": STUFF | {"clusters": 3}}
    with pytest.raises(StoreError, match="2 classes of stuff, asked for are 3"):
        run_segments(*given[:4], other, tmp_path / "n.zarr", Beside(None, f["stuff"], f["t.zarr"]))
    with pytest.raises(ConfigError, match=r"paint.stuff: .* give --stuff and --tokens"):
        run_regions(*given, tmp_path / "n.zarr")
    with pytest.raises(NumericsError, match=r"paint.stuff.clusters"):
        run_stuff([f["t.zarr"]], {"clusters": 200, "max_fit_points": 1000}, 0, tmp_path / "more")
