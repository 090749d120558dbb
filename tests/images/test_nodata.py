"""What shows no data: shares of cells, filling, the store's array `valid`, and draws that never see such a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskmill.images.instances import VOID, Instances
from maskmill.images.nodata import at_grid, box, filled, ignored, nearest_valid, shares, valid_cells
from maskmill.numerics.blocks import by_id
from maskmill.numerics.points import points_of
from maskmill.numerics.sampling import sample_of_images, sample_rows
from maskmill.rounds.instance.teaching import merge
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.store.valid import valid_only

VALID = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@settings(deadline=None)
@given(VALID, st.integers(1, 6), st.integers(1, 6))
def test_shares_keep_what_is_valid(valid: np.ndarray, h: int, w: int) -> None:
    found = shares(valid, (h, w))
    assert found.shape == (h, w)
    assert found.mean() == pytest.approx(valid.mean())
    assert (found >= -1e-9).all()
    assert (found <= 1 + 1e-9).all()


def test_a_cell_is_valid_from_half_of_its_pixels_on() -> None:
    valid = np.ones((4, 8), bool)
    valid[:, 5:] = False
    valid[0, 4] = False
    found = valid_cells(valid, (2, 4))
    assert found is not None
    assert found.tolist() == [[True, True, False, False], [True, True, True, False]]
    assert valid_cells(valid, (1, 1)) is None  # more than half: the whole cell is
    assert valid_cells(None, (2, 4)) is None
    finer = at_grid(found, (4, 8))
    assert finer is not None
    assert (finer == found.repeat(2, 0).repeat(2, 1)).all()


@settings(deadline=None)
@given(VALID)
def test_the_nearest_valid_cell_stands_in(valid: np.ndarray) -> None:
    values = np.arange(valid.size * 2, dtype=np.float32).reshape(*valid.shape, 2)
    found = nearest_valid(values, valid)
    if not valid.any() or valid.all():
        assert found is values
        return
    assert (found[valid] == values[valid]).all()
    places = np.argwhere(valid)
    for y, x in np.argwhere(~valid):
        own = int(found[y, x, 0]) // 2
        distance = np.square(places - [y, x]).sum(axis=1)
        assert np.square(np.array(divmod(own, valid.shape[1])) - [y, x]).sum() == distance.min()


def test_filling_and_ignoring_leave_whole_pictures_alone() -> None:
    pixels, mask = np.full((2, 3, 3), 9, np.uint8), np.ones((2, 3), np.uint8)
    assert filled(pixels, None) is pixels
    assert ignored(mask, None) is mask
    valid = np.array([[True, True, False]] * 2)
    assert filled(pixels, valid, (1, 2, 3))[0].tolist() == [[9, 9, 9], [9, 9, 9], [1, 2, 3]]
    assert ignored(mask, valid).tolist() == [[1, 1, 255]] * 2
    assert ignored(mask.astype(np.uint16), valid)[0, 2] == 65535
    assert box(valid) == (slice(0, 2), slice(0, 2))
    assert box(~np.ones((2, 2), bool)) == (slice(None), slice(None))


def write(path: Path, valid: dict[str, np.ndarray | None], dtype: str = "float32") -> Ragged:
    """Vectors whose numbers are 1000 and more where they are not valid."""
    with RaggedWriter(path, "features", depth=2, dtype=dtype) as out:
        for i, (image_id, shown) in enumerate(valid.items()):
            values = np.random.default_rng([i, *image_id.encode()]).random((3, 4, 2)).astype(np.float32)
            if shown is not None:
                values[~shown] += 1000
            out.append(image_id, values, valid=shown, place=np.int32(i))
    return Ragged(path)


HALF = np.arange(12).reshape(3, 4) % 4 < 2
NONE = np.zeros((3, 4), bool)


def test_the_store_has_the_array_only_where_something_is_not_valid(tmp_path: Path) -> None:
    plain = write(tmp_path / "a/s.zarr", {"x": None, "y": None})
    whole = write(tmp_path / "b/s.zarr", {"x": None, "y": np.ones((3, 4), bool)})
    assert plain.valid_rows is None
    assert plain.valid("y") is None
    assert valid_only(plain) is plain
    files = [sorted(p.relative_to(store.path) for p in store.path.rglob("*")) for store in (plain, whole)]
    assert files[0] == files[1]
    assert not (plain.path / "valid").exists()
    for name in files[0]:
        if (plain.path / name).is_file():
            assert (plain.path / name).read_bytes() == (whole.path / name).read_bytes()
    half = write(tmp_path / "c/s.zarr", {"x": None, "y": HALF})
    assert half.valid("x") is None
    assert (half.valid(1) == HALF).all()
    (half.path / "valid/c/0").unlink()
    with pytest.raises(Exception, match="damaged"):
        Ragged(half.path)


@pytest.mark.parametrize(("limit", "drawn"), [(1000, 24), (20, 20), (5, 3), (2, 2)])
def test_no_draw_sees_a_row_without_data(tmp_path: Path, limit: int, drawn: int) -> None:
    stores = [
        write(tmp_path / "a.zarr", {"w": HALF, "x": None, "y": NONE}),
        write(tmp_path / "b.zarr", {"v": NONE, "z": ~HALF}),
    ]
    rows = sample_rows(stores, limit, 3)
    assert len(rows) == drawn
    assert (rows < 1000).all()
    assert len(np.unique(rows, axis=0)) == len(rows)
    source = points_of(stores, limit, 3)
    assert isinstance(source, np.ndarray)
    assert (source == rows).all()
    blocks = np.concatenate(list(by_id(stores, 5)))
    assert blocks.shape == (24, 2)
    assert (blocks < 1000).all()
    if limit == 1000:
        assert (blocks == rows).all()
        assert sample_of_images(stores, limit, 0)[1].max() == 4
    part = valid_only(stores[0])
    assert [values.shape for _, values in part.images()] == [(6, 1, 2), (12, 1, 2), (0, 1, 2)]
    assert part[0].shape == (6, 1, 2)
    assert (part["w"] < 1000).all()
    assert part.per_image("place").tolist() == [0, 1, 2]


def test_a_draw_is_that_of_the_pictures_without_their_nodata(tmp_path: Path) -> None:
    """Of a store whose invalid rows were never there the same rows are drawn."""
    half = write(tmp_path / "a.zarr", {"w": HALF, "x": None})
    with RaggedWriter(tmp_path / "b.zarr", "features", depth=2, dtype="float32") as out:
        out.append("w", half["w"][HALF].reshape(3, 2, 2))
        out.append("x", half["x"])
    assert (sample_rows([half], 7, 1) == sample_rows([Ragged(tmp_path / "b.zarr")], 7, 1)).all()


def test_void_of_instances_is_what_shows_no_data() -> None:
    masks = np.zeros((2, 2, 4), bool)
    masks[0, :, :3], masks[1, :, 3] = True, True
    found = Instances(masks, np.array([1, 2]), np.array([0.9, 0.8], np.float32))
    valid = np.array([[True, True, False, False]] * 2)
    cut = found.within(valid)
    assert cut.labels.tolist() == [1, VOID]
    assert cut.masks[0].sum() == 4
    assert (cut.masks[1] == ~valid).all()
    left, shown = cut.apart()
    assert left.labels.tolist() == [1]
    assert shown is not None
    assert (shown == valid).all()
    assert found.apart() == (found, None)
    assert len(found.within(np.ones((2, 4), bool))) == 2
    again = merge(cut, cut, 0.5, 0.5)
    assert (again.labels == VOID).any()
    assert (again.masks[again.labels == VOID].any(axis=0) == ~valid).all()
    assert (merge(left, cut, 0.95, 0.5).labels == [1, VOID]).all()  # nothing sure enough: void stays all the same
