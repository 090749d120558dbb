"""Rasters: files that are cut off, in threads, kept open, without GDAL, with gaps that no pixel can have, and large."""

from __future__ import annotations

import os
import sys
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from large_files import write_tiff

from maskmill.errors import InputError
from maskmill.images.photos import read_photo
from maskmill.images.raster import Facts, gdal, geo, kept, kept_raster, open_raster, read_raw, render, values_crc32c
from maskmill.images.view import View
from maskmill.inputs._check import check_file
from maskmill.inputs._range import decide
from maskmill.recipe.inputs import Inputs
from maskmill.store.manifest import Row
from maskmill.store.seal import bytes_crc32c

RNG = np.random.default_rng(5)


def stack(path: Path, pages: int = 20, kind: str = "uint8") -> np.ndarray:
    """A TIFF of pages with a directory each, each behind the pixels of the one before."""
    values = RNG.integers(0, 255, (pages, 32, 32)).astype(kind)
    with tifffile.TiffWriter(path) as file:
        for page in values:
            file.write(page, photometric="minisblack", contiguous=False, metadata=None)
    return values


def cut(path: Path, share: float) -> Path:
    body = path.read_bytes()
    short = path.with_name("cut.tif")
    short.write_bytes(body[: round(len(body) * share)])
    return short


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.67, 0.8, 0.95])
def test_a_stack_that_is_cut_off_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    """Pillow reads the first page, and takes the file for a photo."""
    stack(tmp_path / "a.tif", kind=kind)
    path = str(cut(tmp_path / "a.tif", share))
    for pages in ("first", "all", "max"):
        settings = Inputs(pages=pages)
        assert "cut off" in str(check_file(path, settings, decide([path], settings)))


def test_wherever_a_stack_is_cut_no_page_is_lost_in_silence(tmp_path: Path) -> None:
    values = stack(tmp_path / "a.tif", 3)
    body = (tmp_path / "a.tif").read_bytes()
    settings = Inputs(pages="all")
    for length in range(8, len(body), 37):
        (tmp_path / "cut.tif").write_bytes(body[:length])
        assert isinstance(check_file(str(tmp_path / "cut.tif"), settings, decide([], settings)), str), length
    whole = check_file(str(tmp_path / "a.tif"), settings, decide([], settings))
    assert len(whole) == len(values)


def test_files_are_judged_alone_in_threads(tmp_path: Path) -> None:
    stack(tmp_path / "a.tif")
    damaged, refused, done = cut(tmp_path / "a.tif", 0.67), [], threading.Event()

    def opens_damaged() -> None:
        while not done.is_set():
            with pytest.raises(InputError):
                open_raster(damaged)

    def opens_whole() -> None:
        for _ in range(50):
            try:
                open_raster(tmp_path / "a.tif").close()
            except InputError as error:
                refused.append(str(error))

    beside = threading.Thread(target=opens_damaged)
    threads = [threading.Thread(target=opens_whole) for _ in range(2)]
    for thread in (beside, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    beside.join()
    assert not refused


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened from now on."""
    kept._close_all()
    found: list[str] = []

    def counted(path: str, max_pixels: int) -> object:
        found.append(os.path.basename(path))
        return open_raster(path, max_pixels)

    monkeypatch.setattr(kept, "open_raster", counted)
    return found


def test_a_stack_is_opened_once(tmp_path: Path, opened: list[str]) -> None:
    values = stack(tmp_path / "a.tif")
    for page in (*range(20), 3):
        row = Row("a", str(tmp_path / "a.tif"), 32, 32, "s", None, view=View(page=page).text())
        assert (read_photo(row)[..., 0] == values[page]).all()
    assert opened == ["a.tif"]
    stack(tmp_path / "a.tif", 21)
    with kept_raster(tmp_path / "a.tif") as raster:
        assert raster.facts.pages == 21
    assert opened == ["a.tif"] * 2


def test_few_files_stay_open_and_none_that_is_in_use_or_damaged(tmp_path: Path, opened: list[str]) -> None:
    for i in range(9):
        write_tiff(tmp_path / f"{i}.tif", RNG.integers(0, 9, (8, 8)).astype(np.uint16))
        with kept_raster(tmp_path / f"{i}.tif"):
            pass
    assert len(kept._kept) == 4
    with kept_raster(tmp_path / "8.tif") as one, kept_raster(tmp_path / "8.tif") as other:
        assert one is not other
    assert opened.count("8.tif") == 2
    with pytest.raises(InputError), kept_raster(tmp_path / "7.tif") as raster:
        raster.read((0, 0, 9, 9))
    assert not any(key[0].endswith("7.tif") for key, _ in kept._kept)


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    values = stack(tmp_path / "a.tif")
    with kept_raster(tmp_path / "a.tif"):
        pass
    process = os.fork()
    if not process:
        fine = not kept._kept
        with kept_raster(tmp_path / "a.tif") as raster:
            fine &= bool((raster.read(page=7)[..., 0] == values[7]).all())
        os._exit(0 if fine else 1)
    with kept_raster(tmp_path / "a.tif") as raster:
        assert (raster.read(page=9)[..., 0] == values[9]).all()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


PLACE = [
    (33550, 12, 3, (10.0, 20.0, 0.0), True), (33922, 12, 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
    (42113, 2, 0, "0", True),
]  # fmt: skip


def keys(raster_type: int, code: int) -> tuple[int, int, int, tuple[int, ...], bool]:
    """The directory of keys of a GeoTIFF in a projected system."""
    return 34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, raster_type, 3072, 0, 1, code), True


@pytest.mark.parametrize("raster_type", [1, 2])
def test_nodata_and_place_do_not_depend_on_who_reads_a_geotiff(raster_type: int, tmp_path: Path) -> None:
    values = RNG.integers(1, 4000, (24, 32)).astype(np.uint16)
    values[:9] = 0
    facts = []
    for codec in ("zlib", "png"):  # GDAL has no PNG in TIFF
        path = tmp_path / f"{codec}.tif"
        tags = [*PLACE, keys(raster_type, 32633)]
        tifffile.imwrite(path, values, compression=codec, photometric="minisblack", extratags=tags)
        with open_raster(path) as raster:
            facts.append((raster.facts, type(raster).__name__))
            shown = render(read_raw(raster, View()), raster.facts, View())
        assert shown.valid is not None
        assert (shown.valid == (values != 0)).all()
    (one, reader), (other, another) = facts
    assert (reader, another) == ("GdalRaster", "SeriesRaster")
    assert (one.nodata, one.kind) == (other.nodata, other.kind) == (0, "geotiff")
    assert one.geo is not None
    assert other.geo is not None
    assert one.geo.transform == other.geo.transform
    assert rasterio.crs.CRS.from_wkt(one.geo.crs) == rasterio.crs.CRS.from_wkt(other.geo.crs)


def test_a_reference_system_that_is_not_known_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tags = [*PLACE, keys(1, 32767)]
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 8), np.uint16), compression="png", extratags=tags)
    geo._say.cache_clear()
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.facts.geo is not None
        assert raster.facts.geo.crs is None
    assert "without a code of EPSG" in capsys.readouterr().err


@pytest.mark.parametrize(("gap", "kind"), [(-9984, "uint8"), (256, "uint8"), (65536, "uint16"), (0.5, "int16")])
def test_a_gap_that_no_pixel_can_have_is_no_gap(gap: float, kind: str, tmp_path: Path) -> None:
    """As uint8, -9984 and 256 are 0."""
    array = zarr.create_array(tmp_path / "a.zarr", data=RNG.integers(0, 4, (16, 16)).astype(kind), chunks=(16, 16))
    array.attrs["_FillValue"] = gap
    with open_raster(tmp_path / "a.zarr") as raster:
        assert raster.facts.nodata == gap
        assert render(read_raw(raster, View()), raster.facts, View()).valid is None


@pytest.mark.parametrize("kind", ["complex64", "complex128", "complex_int16"])
def test_complex_values_are_refused(kind: str, tmp_path: Path) -> None:
    values = np.ones((1, 8, 8), np.complex64 if "int" in kind else kind)
    with rasterio.open(tmp_path / "a.tif", "w", "GTiff", 8, 8, 1, dtype=kind) as file:
        file.write(values)
    reason = check_file(str(tmp_path / "a.tif"), Inputs(), decide([], Inputs()))
    assert "complex" in str(reason)
    tifffile.imwrite(tmp_path / "b.tif", np.ones((8, 8), np.complex64), compression="lzma")
    assert "complex" in str(check_file(str(tmp_path / "b.tif"), Inputs(), decide([], Inputs())))


LAYOUTS = {
    "tiles": {"tiled": True}, "strips": {"tiled": False, "blockysize": 5}, "bands": {"interleave": "band"},
    "deflate": {"compress": "deflate", "interleave": "pixel"},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_are_the_same_however_many_rows_are_read_at_once(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = RNG.integers(0, 60000, (97, 70, 5)).astype(np.uint16)
    kind = {"tiled": False} | LAYOUTS[layout] if layout != "tiles" else {}
    write_tiff(tmp_path / "a.tif", values, **kind)
    monkeypatch.setattr(gdal, "_AT_ONCE", 3000)
    with open_raster(tmp_path / "a.tif") as raster:
        assert (raster.read() == values).all()
        assert (raster.read((11, 7, 60, 50)) == values[11:71, 7:57]).all()


def test_a_picture_is_the_same_however_many_rows_are_rendered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RNG.integers(0, 300, (50, 40, 5)).astype(np.int16)
    values[20:30] = -9
    facts = Facts("geotiff", ((50, 40),), 5, np.dtype(np.int16), colours=(2, 1, 0), alpha=4, nodata=-9)
    view = View(low=(0.0,), high=(250.0,))
    for each in (facts, replace(facts, inverted=True), replace(facts, nodata=None, colours=(0,))):
        monkeypatch.setattr(rendering_module(), "_AT_ONCE", 1 << 20)
        whole = render(values, each, view)
        monkeypatch.setattr(rendering_module(), "_AT_ONCE", 400)
        parts = render(values, each, view)
        assert (whole.pixels == parts.pixels).all()
        assert (whole.valid is None) == (parts.valid is None)
        assert whole.valid is None or (whole.valid == parts.valid).all()


def rendering_module() -> object:
    """The module, whose name in its package is that of its function."""
    return sys.modules["maskmill.images.raster.render"]


def test_bands_that_are_not_shown_cost_nothing_more() -> None:
    """Of 13 channels of 16 bits, as float64 they would be four times as large again."""
    values = np.zeros((1500, 1500, 13), np.uint16)
    facts = Facts("geotiff", ((1500, 1500),), 13, values.dtype, colours=(0, 1, 2))
    tracemalloc.start()
    try:
        render(values, facts, View(low=(0.0,), high=(100.0,)))
        values_crc32c(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.9 * values.nbytes


def test_the_checksum_of_values_is_that_of_their_bytes() -> None:
    for values in (RNG.integers(0, 9, (33, 20, 3)).astype(">u2"), RNG.random((9, 8, 1)), np.ones((4, 4, 1), bool)):
        body = values.astype(values.dtype.newbyteorder("<")).tobytes()
        assert values_crc32c(values) == bytes_crc32c(body)
    long = RNG.integers(0, 256, 40 << 20, dtype=np.uint8)
    assert values_crc32c(long) == bytes_crc32c(long.tobytes())
