"""Segments of a photo within crops: places by hand, mirroring, coarser grids, stores by id in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from maskmill.errors import StoreError
from maskmill.pretrain import _segments
from maskmill.pretrain._segments import SegmentStores, at_grid, crop_segments
from maskmill.store.ragged import RaggedWriter


def test_the_whole_photo_at_the_size_of_its_grid_is_the_grid() -> None:
    grid = np.arange(16, dtype=np.uint8).reshape(4, 4)
    found = crop_segments(grid, (0.0, 1.0, 0.0, 1.0), False, 4)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, grid)
    np.testing.assert_array_equal(crop_segments(grid, (0.0, 1.0, 0.0, 1.0), True, 4), grid[:, ::-1])


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 12), st.booleans(),
    st.tuples(*[st.floats(0, 1) for _ in range(4)]),
)  # fmt: skip
def test_every_pixel_has_the_cell_its_centre_lies_in(
    shape: tuple[int, int], side: int, flip: bool, shares: tuple[float, float, float, float]
) -> None:
    """Pixel by pixel in plain Python, with boxes that may leave no cell whole."""
    grid = np.arange(shape[0] * shape[1]).reshape(shape)
    (y0, y1), (x0, x1) = sorted(shares[:2]), sorted(shares[2:])
    found = crop_segments(grid, (y0, y1, x0, x1), flip, side)
    for row in range(side):
        for column in range(side):
            y = y0 + (y1 - y0) * ((row + 0.5) / side)
            x = x0 + (x1 - x0) * (((side - 1 - column if flip else column) + 0.5) / side)
            near = {
                grid[min(int(max(v, 0)), shape[0] - 1), min(int(max(u, 0)), shape[1] - 1)]
                for v in (y * shape[0] - 1e-9, y * shape[0] + 1e-9)
                for u in (x * shape[1] - 1e-9, x * shape[1] + 1e-9)
            }
            assert found[row, column] in near


def test_a_coarser_grid_takes_what_interpolate_takes() -> None:
    """The nearest neighbour with which the published code resizes its segments."""
    segments = torch.randint(0, 9, (2, 24, 24), generator=torch.Generator().manual_seed(0))
    for size in ((3, 3), (8, 6), (24, 24), (7, 5)):
        expected = functional.interpolate(segments[:, None].float(), size=size, mode="nearest")[:, 0].long()
        assert torch.equal(at_grid(segments, size), expected)


@pytest.mark.parametrize("room", [1 << 30, 60, 0])
def test_stores_give_segments_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(_segments, "KEPT_BYTES", room)
    draws, grids, paths = np.random.default_rng(0), {}, []
    for shard in ("a", "b"):
        paths.append(tmp_path / f"{shard}.zarr")
        with RaggedWriter(paths[-1], "segments", dtype="uint8") as out:
            for name, shape in (("1", (5, 7)), ("2", (3, 4))):
                grids[shard + name] = draws.integers(0, 5, shape).astype(np.uint8)
                out.append(shard + name, grids[shard + name])
    stores = SegmentStores(paths)
    for image_id, grid in grids.items():
        assert image_id in stores
        np.testing.assert_array_equal(stores(image_id), grid)
    with pytest.raises(StoreError, match="no segments of 'c1'"):
        stores("c1")
