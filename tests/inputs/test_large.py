"""Large images become windows: their values, labels, digests, empty windows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from input_files import picture, read, rejected
from large_files import write_tiff
from PIL import Image

from maskmill.errors import InputError
from maskmill.evaluate.labelled import OUTSIDE, read_label
from maskmill.images.photos import read_photo
from maskmill.images.rendering import Rendering
from maskmill.images.view import View
from maskmill.images.windows import core_in_whole
from maskmill.inputs import _check
from maskmill.recipe.inputs import Inputs
from maskmill.store.manifest import Manifest, Row

RNG = np.random.default_rng(3)
WINDOW = {"size": 64, "overlap": 16}


def listed(folder: Path, labels: bool = False, threads: int = 1, **inputs: Any) -> Manifest:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return read(out, folder / "images", folder / "labels" if labels else None, threads, max_rejected=0, **inputs)


def view_of(row: Row) -> View:
    assert row.view is not None
    return View.of(row.view)


@pytest.fixture
def scene() -> np.ndarray:
    return RNG.integers(0, 256, (150, 200, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_windows_show_their_part_of_the_file(tmp_path: Path, scene: np.ndarray, kind: str) -> None:
    if kind == "tif":
        write_tiff(tmp_path / "images/big.tif", scene)
    else:
        (tmp_path / "images").mkdir()
        Image.fromarray(scene).save(tmp_path / "images/big.png")
    Image.fromarray(scene[:64, :50]).save(tmp_path / "images/small.png")
    found = listed(tmp_path, window=WINDOW)
    assert found.by_id["small"].view is None
    assert found.by_id["small"].parent is None
    windows = [row for row in found.rows if row.parent == "big"]
    assert [row.id for row in windows][:2] == ["big/y0000000x0000000", "big/y0000000x0000048"]
    assert len(windows) == 3 * 4
    assert {row.owner for row in found.rows} == {"big", "small"}
    for row in windows:
        top, left, height, width = view_of(row).window or ()
        assert (row.height, row.width, height, width) == (64, 64, 64, 64)
        np.testing.assert_array_equal(read_photo(row), scene[top : top + height, left : left + width])


def test_a_file_that_is_replaced_is_named_by_the_first_window_that_changed(tmp_path: Path, scene: np.ndarray) -> None:
    write_tiff(tmp_path / "images/big.tif", scene)
    rows = listed(tmp_path, window=WINDOW).by_id
    scene[0, 0] ^= 1
    write_tiff(tmp_path / "images/big.tif", scene)
    read_photo(rows["big/y0000000x0000048"])  # nothing of it changed
    with pytest.raises(InputError, match=r"big\.tif: other values than in the manifest; it changed since"):
        read_photo(rows["big/y0000000x0000000"])


def test_only_windows_that_changed_get_another_digest(tmp_path: Path, scene: np.ndarray) -> None:
    write_tiff(tmp_path / "images/big.tif", scene)
    before = listed(tmp_path, window=WINDOW).by_id
    scene[149, 199] ^= 1
    write_tiff(tmp_path / "images/big.tif", scene)
    after = listed(tmp_path, window=WINDOW).by_id
    assert [i for i in before if before[i].crc32c != after[i].crc32c] == ["big/y0000086x0000136"]


@pytest.mark.parametrize("kind", ["tif", "png"])
def test_every_labelled_pixel_counts_once(tmp_path: Path, scene: np.ndarray, kind: str) -> None:
    label = RNG.integers(0, 7, (150, 200), dtype=np.uint8)
    write_tiff(tmp_path / "images/big.tif", scene)
    if kind == "tif":
        write_tiff(tmp_path / "labels/big.tif", label)
    else:
        (tmp_path / "labels").mkdir()
        Image.fromarray(label).save(tmp_path / "labels/big.png")
    found = listed(tmp_path, labels=True, window=WINDOW)
    body = json.loads((tmp_path / "out/classes.json").read_text())
    assert body["pixels"] == {str(i): int(n) for i, n in enumerate(np.bincount(label.ravel()))}
    put = np.full(label.shape, -1)
    for row in found.rows:
        own, (top, left, height, width) = read_label(row), core_in_whole(view_of(row))
        assert (own != OUTSIDE).sum() == height * width
        part = put[top : top + height, left : left + width]
        assert (part == -1).all()
        part[...] = own[own != OUTSIDE].reshape(height, width)
    np.testing.assert_array_equal(put, label)
    label[100, 100] += 1
    if kind == "tif":
        write_tiff(tmp_path / "labels/big.tif", label)
    else:
        Image.fromarray(label).save(tmp_path / "labels/big.png")
    for row in found.rows:
        y, x, _, _ = view_of(row).window or ()
        if y <= 100 < y + 64 and x <= 100 < x + 64:
            with pytest.raises(InputError, match="another content than in the manifest"):
                read_label(row)
        else:
            read_label(row)


def test_labels_of_another_level_are_looked_up_by_the_nearest_pixel(tmp_path: Path, scene: np.ndarray) -> None:
    label = RNG.integers(0, 7, (75, 100), dtype=np.uint8)
    fine = label.repeat(2, axis=0).repeat(2, axis=1)
    write_tiff(tmp_path / "images/big.tif", scene, overviews=[2])
    for given in (label, fine):  # as large as the level, or as the full resolution
        write_tiff(tmp_path / "labels/big.tif", given)
        found = listed(tmp_path, labels=True, window=WINDOW | {"level": 1})
        for row in found.rows:
            own = read_label(row)
            y, x, h, w = view_of(row).window or ()
            np.testing.assert_array_equal(own[own != OUTSIDE], label[y : y + h, x : x + w][own != OUTSIDE])


def test_levels_by_number_and_by_resolution(tmp_path: Path, scene: np.ndarray) -> None:
    write_tiff(tmp_path / "images/big.tif", scene, overviews=[2, 4])
    assert {view_of(row).level for row in listed(tmp_path, window=WINDOW | {"level": 1}).rows} == {1}
    (whole,) = listed(tmp_path, window=WINDOW | {"resolution": 45}).rows  # 10 m a pixel: level 2, smaller than a window
    assert (whole.id, whole.height, whole.width, whole.parent) == ("big", 38, 50, None)
    assert view_of(whole).level == 2
    assert read_photo(whole).shape == (38, 50, 3)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_level_of_a_slide_is_read(level: int, tmp_path: Path, scene: np.ndarray) -> None:
    """OME-TIFF: level 0 is the series itself, the others are its sub-images."""
    (tmp_path / "images").mkdir()
    about: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    levels = [scene[::step, ::step] for step in (1, 2, 4)]
    with tifffile.TiffWriter(tmp_path / "images/big.ome.tif", ome=True) as out:
        out.write(levels[0], subifds=2, **about)
        for each in levels[1:]:
            out.write(each, subfiletype=1, **about)
    rows = listed(tmp_path, window={"size": 32, "overlap": 8, "level": level, "skip_empty": False}).rows
    for row in rows:
        y, x, h, w = view_of(row).window or ()
        np.testing.assert_array_equal(read_photo(row), levels[level][y : y + h, x : x + w])
    assert len(rows) > 1


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        ({"level": 2}, r"big\.png: inputs\.window\.level: 2, but the file has no pyramid"),
        ({"resolution": 0.5}, "does not say how large a pixel is"),
    ],
)
def test_what_a_file_does_not_have_is_named(tmp_path: Path, window: dict[str, Any], reason: str) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((150, 200, 3), np.uint8)).save(tmp_path / "images/big.png")
    with pytest.raises(InputError, match=reason):
        listed(tmp_path, window=WINDOW | window)


def test_a_label_of_another_size_is_refused(tmp_path: Path, scene: np.ndarray) -> None:
    write_tiff(tmp_path / "images/big.tif", scene)
    write_tiff(tmp_path / "labels/big.tif", np.zeros((149, 200), np.uint8))
    with pytest.raises(InputError, match=r"label of 200 x 149 pixels for .* of 200 x 150; a label is as large"):
        listed(tmp_path, labels=True, window=WINDOW)


def test_empty_windows_are_left_out_and_counted(
    tmp_path: Path, scene: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    scene[:, :64] = RNG.integers(236, 245, (150, 64, 3), dtype=np.uint8)  # glass
    scene[:, 136:] = 0
    write_tiff(tmp_path / "images/big.tif", scene)
    found = listed(tmp_path, window=WINDOW)
    assert "1 image is cut into 6 windows; 6 empty windows are left out" in capsys.readouterr().err
    assert {(view_of(row).window or ())[1] for row in found.rows} == {48, 96}
    assert len(listed(tmp_path, window=WINDOW | {"skip_empty": False}).rows) == 12
    assert "12 windows; 0 empty" in capsys.readouterr().err
    scene[:] = 0
    write_tiff(tmp_path / "images/big.tif", scene)
    with pytest.raises(InputError, match=r"every window of every image is empty .*skip_empty: false"):
        listed(tmp_path, window=WINDOW)


def test_nodata_is_empty_and_what_is_only_uniform_is_not(tmp_path: Path) -> None:
    grey = np.full((64, 256), 128, np.uint8)
    grey[:, 64:128] = 77
    grey[:, 128:192] = 255 - (np.indices((64, 64)).sum(axis=0) % 30 == 0) * 200  # a drawing on white
    write_tiff(tmp_path / "images/big.tif", grey, nodata=77)
    found = listed(tmp_path, window={"size": 64, "overlap": 0})
    assert [(view_of(row).window or ())[1] for row in found.rows] == [0, 128, 192]


def test_files_read_by_windows_may_have_more_pixels_than_one_picture(tmp_path: Path, scene: np.ndarray) -> None:
    write_tiff(tmp_path / "images/big.tif", scene)
    assert len(listed(tmp_path, window=WINDOW, max_pixels=10_000).rows) == 12
    with pytest.raises(InputError, match=r"inputs\.window"):
        listed(tmp_path, max_pixels=10_000)
    (tmp_path / "images/big.tif").unlink()
    Image.fromarray(scene).save(tmp_path / "images/big.png")  # has to be decoded as a whole
    with pytest.raises(InputError, match=r"0\.01 million are allowed"):
        listed(tmp_path, window=WINDOW, max_pixels=10_000)


def test_windows_of_a_list_of_images_do_not_depend_on_their_number(tmp_path: Path, scene: np.ndarray) -> None:
    write_tiff(tmp_path / "images/big.tif", scene)
    one = listed(tmp_path, window=WINDOW).by_id
    write_tiff(tmp_path / "images/other.tif", scene[::-1])
    two = listed(tmp_path, window=WINDOW).by_id
    assert all(two[i].crc32c == row.crc32c for i, row in one.items())


def test_a_window_that_has_the_id_of_a_photo_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png", 0, (100, 100))
    twin = picture(tmp_path / "images/a/y0000000x0000000.png", 1, (64, 64))
    both = r"images/a\.png and one of .*y0000000x0000000\.png would both have the id 'a/y0000000x0000000'; rename one"
    with pytest.raises(InputError, match=both):
        listed(tmp_path, window=WINDOW)
    twin.rename(tmp_path / "images/a/other.png")
    assert "a/other" in listed(tmp_path, window=WINDOW).ids


def test_a_page_that_has_the_id_of_a_photo_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images/a/p0000.png")
    tifffile.imwrite(tmp_path / "images/a.tif", RNG.integers(0, 256, (2, 8, 12, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputError, match=r"a\.tif .*would both have the id 'a/p0000'|p0000\.png .*'a/p0000'"):
        listed(tmp_path, pages="all")
    assert listed(tmp_path).ids == ["a", "a/p0000"]


@pytest.mark.parametrize("threads", [1, 2])  # two files are enough for two processes, as windows make each of them long
def test_an_image_without_anything_to_see_is_listed_and_costs_no_budget(
    tmp_path: Path, scene: np.ndarray, threads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiff(tmp_path / "images/big.tif", scene)
    write_tiff(tmp_path / "images/blank.tif", np.full((150, 200, 3), 250, np.uint8))
    found = listed(tmp_path, window=WINDOW, threads=threads)
    assert {row.owner for row in found.rows} == {"big"}
    (entry,) = rejected(tmp_path / "out")
    assert (entry["id"], Path(entry["path"]).name) == ("blank", "blank.tif")
    assert entry["reason"].startswith("nothing but nodata or bare background; set inputs.window.skip_empty: false")
    said = capsys.readouterr().err
    assert "1 image holds nothing but empty windows; see rejected.csv" in said
    assert "1 image is cut into 12 windows; 0 empty windows are left out" in said
    assert "0 rejected" in said
    (tmp_path / "images/big.tif").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"images: 1 of 1 are unreadable, none is left"):
        listed(tmp_path, window=WINDOW, threads=threads)


def test_few_files_are_divided_among_processes_where_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[tuple[int, int]] = []

    class Pool:
        def __init__(self, count: int, **_: Any) -> None:
            self.count = count

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def map(self, work: Any, given: list[str], chunksize: int) -> Any:
            pools.append((self.count, chunksize))
            return map(work, given)

    monkeypatch.setattr(_check, "ProcessPoolExecutor", Pool)
    for count, window in ((2, None), (1, WINDOW), (2, WINDOW), (9, WINDOW)):
        settings = Inputs.model_validate({"window": window})
        assert len(list(_check.check_all(["absent.tif"] * count, settings, Rendering.of(settings), 4))) == count
    assert pools == [(2, 1), (4, 1)]


def test_the_id_that_marks_neighbours_is_refused_where_images_are_cut(tmp_path: Path, scene: np.ndarray) -> None:
    values = np.ones((150, 200), np.uint16)
    values[10:20, 10:20] = OUTSIDE
    write_tiff(tmp_path / "images/big.tif", scene)
    write_tiff(tmp_path / "labels/big.tif", values)
    with pytest.raises(InputError, match=r"labels/big\.tif: label id 65535, which cannot be used .* such as 255"):
        listed(tmp_path, labels=True, window=WINDOW)
    listed(tmp_path, labels=True)  # a whole image may have it
    assert json.loads((tmp_path / "out/classes.json").read_text())["pixels"] == {"1": 29_900, "65535": 100}
