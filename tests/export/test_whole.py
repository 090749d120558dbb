"""Formats of whole images: masks of windows put together, where the image lies, and what readers of each format see."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
import tifffile
import windowed_run as windowed
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.transform import Affine
from scipy import ndimage

from maskmill.errors import ConfigError, InputError, StoreError
from maskmill.export._outlines import outlines
from maskmill.export.naming import Naming
from maskmill.export.run import run
from maskmill.images.place import scaled
from maskmill.images.stitching import halved
from maskmill.recipe import export as section
from maskmill.recipe.base import validate

NAMES = ("road & <rail>", "# 木", 'the "rest"')
UTM = CRS.from_epsg(25832)
TRANSFORM = Affine(0.2, 0.0, 691000.123456789, 0.0, -0.2, 5335999.987654321)
LOCAL = CRS.from_proj4("+proj=aeqd +lat_0=48.2 +lon_0=11.1 +x_0=3 +ellps=GRS80 +units=m")
CLUSTERS = len(NAMES)


def known(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A mask with large and small parts, rings, background and ignore."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, CLUSTERS + 1, (height // 23 + 1, width // 23 + 1)).astype(np.uint8)
    mask = coarse.repeat(23, axis=0).repeat(23, axis=1)[:height, :width]
    y, x = np.indices(mask.shape)
    far = np.hypot(y - height / 2, x - width / 2)
    mask[(far < height / 3) & (far > height / 4)] = 2  # a ring across windows
    noise = rng.random(mask.shape) < 0.01
    mask[noise] = rng.choice([0, 1, 2, 3, 255], int(noise.sum()))
    return mask


def geotiff(path: Path, size: tuple[int, int], overviews: bool = False, **place: Any) -> Path:
    """A source of 16 bits that nobody reads but for its header."""
    about = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": "uint16", "tiled": True}
    with rasterio.open(path, "w", **about, blockxsize=64, blockysize=64, **place) as out:
        out.write(np.arange(size[0] * size[1], dtype=np.uint16).reshape(1, *size))
    if overviews:
        with rasterio.open(path, "r+") as out:
            out.build_overviews([2])
    return path


def slide(path: Path, size: tuple[int, int]) -> Path:
    """A pyramidal OME-TIFF with pixels of 0.25 x 0.5 microns (y, x)."""
    pixels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)
    about = {"axes": "YX", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm", "PhysicalSizeX": 0.5,
             "PhysicalSizeXUnit": "µm"}  # fmt: skip
    with tifffile.TiffWriter(path, ome=True) as out:
        out.write(pixels, tile=(64, 64), subifds=1, metadata=about)
        out.write(pixels[::2, ::2], tile=(64, 64), subfiletype=1)
    return path


def exported(
    folder: Path, source: Path, level: int = 0, skipped: tuple[int, ...] = (), **params: Any
) -> tuple[Path, np.ndarray]:
    """The export of one image in windows, and its mask as it must be."""
    views = windowed.views_of(source, level)
    rows = windowed.rows_of("im/age", source, views, skipped)
    mask = known(*(views[0].whole or ()))
    masks = {row.id: windowed.mask_of(row, mask, other=1 + i % 3) for i, row in enumerate(rows)}
    naming = Naming.of([{"name": name, "colour": "#804080" if name == NAMES[0] else None} for name in NAMES])
    params = {"formats": list(section.WHOLE)} | params
    run(**windowed.write(folder, rows, masks, CLUSTERS, **params), naming=naming)
    return folder / "export", windowed.painted(rows, mask)


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """On the Earth, with two windows left out."""
    folder = tmp_path_factory.mktemp("mapped")
    return exported(folder, geotiff(folder / "s.tif", (1330, 1201), crs=UTM, transform=TRANSFORM), skipped=(5, 31))


def features(path: Path) -> list[tuple[dict[str, Any], Any]]:
    body = json.loads(path.read_text(encoding="utf-8"))
    return [(each["properties"], shapely.from_geojson(json.dumps(each["geometry"]))) for each in body["features"]]


def test_geotiff_lies_where_the_source_lies_to_the_bit(mapped: tuple[Path, np.ndarray]) -> None:
    folder, wanted = mapped
    with rasterio.open(folder.parent / "s.tif") as source, rasterio.open(folder / "geotiff/im/age.tif") as made:
        assert made.crs.to_wkt() == source.crs.to_wkt() == UTM.to_wkt()
        assert made.transform == source.transform == TRANSFORM
        assert (made.read(1) == wanted).all()
        assert (wanted == 255).sum() > 1000
        assert made.nodata == 255
        assert made.profile["tiled"]
        assert made.profile["blockxsize"] == 512
        assert made.overviews(1) == [2, 4]
        assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert [made.tags(1)[f"class_{i}"] for i in range(1, 4)] == list(NAMES)
        assert made.colormap(1)[1][:3] == (0x80, 0x40, 0x80)
    beside = (folder / "geotiff/im/age.tif.aux.xml").read_text(encoding="utf-8")
    assert "<Category>road &amp; &lt;rail&gt;</Category>" in beside
    assert "<SRS>" not in beside


def test_a_coarser_level_lies_at_the_same_place(tmp_path: Path) -> None:
    source = geotiff(tmp_path / "s.tif", (402, 301), overviews=True, crs=UTM, transform=TRANSFORM)
    folder, wanted = exported(tmp_path, source, level=1)
    assert wanted.shape == (201, 151)
    with rasterio.open(folder / "geotiff/im/age.tif") as made:
        assert (made.read(1) == wanted).all()
        assert tuple(made.transform)[:6] == scaled(tuple(TRANSFORM)[:6], (2.0, 301 / 151))
        assert made.transform @ (151, 201) == pytest.approx(TRANSFORM @ (301, 402), abs=1e-9)
        assert made.crs == UTM


def test_a_system_that_geotiff_cannot_hold_survives_beside_it(tmp_path: Path) -> None:
    source = tmp_path / "s.tif"
    geotiff(source, (130, 130), crs=LOCAL, transform=Affine(0.5, 0.1, 7, 0.1, -0.5, 9))
    folder, _ = exported(tmp_path, source)
    with rasterio.open(source) as one, rasterio.open(folder / "geotiff/im/age.tif") as made:
        assert made.crs.to_wkt() == one.crs.to_wkt()
        assert made.transform == one.transform
    body = json.loads((folder / "geojson/im/age.geojson").read_text())
    assert "crs" not in body
    assert CRS.from_wkt(body["maskmill"]["crs_wkt"]) == LOCAL


def test_ground_control_points_survive(tmp_path: Path) -> None:
    points = [GroundControlPoint(r, c, 11 + c / 1e4, 48 - r / 1e4, 0.0) for r, c in ((0, 0), (0, 130), (130, 0))]
    source = geotiff(tmp_path / "s.tif", (130, 130), crs=CRS.from_epsg(4326), gcps=points)
    folder, _ = exported(tmp_path, source, formats=["geotiff"])
    with rasterio.open(source) as one, rasterio.open(folder / "geotiff/im/age.tif") as made:
        wanted, crs = one.gcps
        found, kept = made.gcps
        assert kept == crs
        assert [(p.row, p.col, p.x, p.y) for p in found] == [(p.row, p.col, p.x, p.y) for p in wanted]


def test_geojson_of_a_map_gives_every_pixel_back(mapped: tuple[Path, np.ndarray]) -> None:
    folder, wanted = mapped
    path = folder / "geojson/im/age.geojson"
    body = json.loads(path.read_text(encoding="utf-8"))
    assert body["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::25832"
    found = features(path)
    assert all(shape.is_valid and shape.geom_type == "Polygon" for _, shape in found)
    assert all(shape.exterior.is_ccw for _, shape in found)
    areas = sorted((each["value"], round(shape.area / 0.04)) for each, shape in found)
    assert areas == part_areas(wanted)
    assert np.allclose([shape.area / 0.04 for _, shape in found], [round(s.area / 0.04) for _, s in found], atol=1e-4)
    first = next(each for each, _ in found if each["value"] == 1)
    assert first["classification"] == {"name": NAMES[0], "color": [0x80, 0x40, 0x80]}
    assert first["class"] == NAMES[0]
    assert first["objectType"] == "annotation"
    assert first["colour"] == "#804080"


def part_areas(mask: np.ndarray) -> list[tuple[int, int]]:
    """(value, pixels) of every 4-connected part but background and ignore."""
    values = sorted(set(np.unique(mask).tolist()) - {0, 255})
    return sorted((v, int(n)) for v in values for n in np.bincount(ndimage.label(mask == v)[0].ravel())[1:])


def test_geojson_of_a_slide_is_in_pixels_of_the_full_resolution(tmp_path: Path) -> None:
    folder, wanted = exported(tmp_path, slide(tmp_path / "s.ome.tif", (400, 300)), level=1)
    path = folder / "geojson/im/age.geojson"
    assert "crs" not in json.loads(path.read_text())
    found = features(path)
    assert sorted((each["value"], round(shape.area / 4)) for each, shape in found) == part_areas(wanted)
    assert any(shape.interiors for _, shape in found)
    assert max(shape.bounds[2] for _, shape in found) > 290
    drawn = np.zeros(wanted.shape, np.uint8)
    y, x = (np.indices(wanted.shape) + 0.5) * 2
    for each, shape in found:
        drawn[shapely.contains_xy(shape, x, y)] = each["value"]
    assert (drawn == np.where(wanted == 255, 0, wanted)).all()


@pytest.mark.parametrize("tolerance", [0.7, 2.0, 30.0])
def test_simplified_polygons_stay_valid_and_near(tmp_path: Path, tolerance: float) -> None:
    source = slide(tmp_path / "s.ome.tif", (400, 300))
    folder, wanted = exported(tmp_path, source, formats=["geojson"], tolerance=tolerance)
    found = [shape for _, shape in features(folder / "geojson/im/age.geojson")]
    assert len(found) == len(part_areas(wanted))
    assert all(shape.is_valid and shape.area > 0 for shape in found)
    exact = [shape for _, shape in outlines([(0, wanted)], (0, 255))]
    assert sum(map(shapely.get_num_coordinates, found)) < sum(map(shapely.get_num_coordinates, exact))
    assert [len(s.interiors) for s in found] == [len(s.interiors) for s in exact]
    off = [shapely.hausdorff_distance(s.boundary, e.boundary) for s, e in zip(found, exact, strict=True)]
    assert max(off) <= tolerance * 2


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.sampled_from([0, 1, 2])),
    st.integers(1, 12),
)
def test_outlines_do_not_depend_on_bands(mask: np.ndarray, rows: int) -> None:
    """Every part is one valid polygon, of as many pixels as it has, whatever bands cut it."""
    whole = list(outlines([(0, mask)], (0, 255)))
    found = list(outlines(((top, mask[top : top + rows]) for top in range(0, len(mask), rows)), (0, 255)))
    assert all(shape.is_valid and shape.geom_type == "Polygon" for _, shape in found)
    assert sorted((value, int(shape.area)) for value, shape in found) == part_areas(mask)
    assert sorted((v, s.normalize().wkt) for v, s in found) == sorted((v, s.normalize().wkt) for v, s in whole)


def test_a_part_that_meets_itself_in_a_corner_is_valid() -> None:
    """The hole touches the outer border in a corner: two rings, as OGC has it, and not one that crosses itself."""
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], np.uint8)
    [(_, shape)] = outlines([(0, mask)], (0, 255))
    assert shape.is_valid
    assert shape.area == (mask == 1).sum()
    assert len(shape.interiors) == 1


def test_pyramid_tiff_has_levels_colours_names_and_microns(tmp_path: Path) -> None:
    folder, wanted = exported(tmp_path, slide(tmp_path / "s.ome.tif", (1300, 1100)), formats=["pyramid_tiff"])
    with tifffile.TiffFile(folder / "pyramid_tiff/im/age.ome.tif") as made:
        assert made.is_ome
        assert len(made.pages) == 1
        levels = [level.asarray() for level in made.series[0].levels]
        assert [level.shape for level in levels] == [(1300, 1100), (650, 550), (325, 275)]
        assert all(level.pages[0].is_tiled for level in made.series[0].levels)
        assert (levels[0] == wanted).all()
        for finer, coarser in pairwise(levels):
            assert (coarser == halved_plainly(finer)).all()
        page = made.pages[0]
        assert (page.colormap[:, 1] // 257).tolist() == [0x80, 0x40, 0x80]
        assert page.tags["XResolution"].value == (20_000, 1)  # 0.5 microns
        assert page.tags["YResolution"].value == (40_000, 1)
        about = tifffile.xml2dict(made.ome_metadata)["OME"]
    pixels = about["Image"]["Pixels"]
    assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"], pixels["PhysicalSizeXUnit"]) == (0.5, 0.25, "µm")
    names = {int(each["K"]): each["value"] for each in about["StructuredAnnotations"]["MapAnnotation"]["Value"]["M"]}
    assert [names[i] for i in range(4)] == ["background", *NAMES]


def halved_plainly(mask: np.ndarray) -> np.ndarray:
    """The most frequent of each 2 x 2 values, of equals the first, pixel by pixel."""
    found = np.empty([-(-side // 2) for side in mask.shape], mask.dtype)
    for y, x in np.ndindex(*found.shape):
        rows, columns = (min(2 * i + 1, side - 1) for i, side in zip((y, x), mask.shape, strict=True))
        four = [mask[i, j] for i in (2 * y, rows) for j in (2 * x, columns)]
        found[y, x] = max(four, key=lambda value: (four.count(value), -four.index(value)))
    return found


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 3)))
def test_halves_have_the_most_frequent_value(mask: np.ndarray) -> None:
    assert (halved(mask) == halved_plainly(mask)).all()


def test_ome_zarr_labels_have_levels_colours_names_and_scales(tmp_path: Path) -> None:
    folder, wanted = exported(tmp_path, slide(tmp_path / "s.ome.tif", (1300, 1100)), formats=["ome_zarr"])
    root = zarr.open_group(str(folder / "ome_zarr/im/age.zarr"), mode="r")
    assert root.metadata.zarr_format == 2
    assert root["labels"].attrs["labels"] == ["maskmill"]
    group = root["labels/maskmill"]
    scales = group.attrs["multiscales"][0]
    assert scales["version"] == "0.4"
    assert [(axis["name"], axis["unit"]) for axis in scales["axes"]] == [("y", "micrometer"), ("x", "micrometer")]
    assert [d["coordinateTransformations"][0]["scale"] for d in scales["datasets"]] == [
        [0.25, 0.5], [0.5, 1.0], [1.0, 2.0],
    ]  # fmt: skip
    levels = [np.asarray(group[d["path"]]) for d in scales["datasets"]]
    assert (levels[0] == wanted).all()
    for finer, coarser in pairwise(levels):
        assert (coarser == halved(finer)).all()
    about = group.attrs["image-label"]
    assert {each["label-value"]: each["class"] for each in about["properties"]} == {
        **dict(enumerate(("background", *NAMES))), 255: "ignore",
    }  # fmt: skip
    assert {each["label-value"]: each["rgba"] for each in about["colors"]}[1] == [0x80, 0x40, 0x80, 255]
    assert (tmp_path / "export/ome_zarr/im/age.zarr/labels/maskmill/0/0/0").is_file()


def test_images_without_windows_are_written_too(tmp_path: Path) -> None:
    """A photo beside an image in windows; masks on a coarse grid are at the size of the photo."""
    from PIL import Image

    from maskmill.store.manifest import Row

    photo = tmp_path / "b.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(photo)
    coarse = np.array([[1, 2, 255], [0, 3, 3]], np.uint8)
    source = geotiff(tmp_path / "s.tif", (130, 130), crs=UTM, transform=TRANSFORM)
    rows = windowed.rows_of("a", source, windowed.views_of(source))
    masks = {row.id: np.full((4, 4), 1, np.uint8) for row in rows} | {"b": coarse}
    rows.append(Row("b", str(photo), 60, 40, "", None))
    run(**windowed.write(tmp_path, rows, masks, CLUSTERS, formats=list(section.WHOLE)))
    wanted = coarse.repeat(20, axis=0).repeat(20, axis=1)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        made = rasterio.open(tmp_path / "export/geotiff/b.tif")
    with made:
        assert made.crs is None
        assert (made.read(1) == wanted).all()
    assert tifffile.imread(tmp_path / "export/pyramid_tiff/b.ome.tif").tolist() == wanted.tolist()
    assert len(features(tmp_path / "export/geojson/a.geojson")) == 1
    assert sorted(p.name for p in (tmp_path / "export/geotiff").iterdir()) == [
        "a.tif", "a.tif.aux.xml", "b.tif", "b.tif.aux.xml",
    ]  # fmt: skip
    assert not (tmp_path / "export/.levels").exists()


def test_more_than_254_clusters(tmp_path: Path) -> None:
    source = geotiff(tmp_path / "s.tif", (70, 90), crs=UTM, transform=TRANSFORM)
    views = windowed.views_of(source)
    rows = windowed.rows_of("a", source, views, skipped=(1,))
    wide = np.random.default_rng(0).integers(0, 301, (70, 90)).astype(np.uint16)
    masks = {row.id: windowed.mask_of(row, wide, 0) for row in rows}
    run(**windowed.write(tmp_path, rows, masks, 300, formats=list(section.WHOLE)))
    wanted = windowed.painted(rows, wide)
    with rasterio.open(tmp_path / "export/geotiff/a.tif") as made:
        assert (made.read(1) == wanted).all()
        assert made.nodata == 65535
    assert (tifffile.imread(tmp_path / "export/pyramid_tiff/a.ome.tif") == wanted).all()
    group = zarr.open_group(str(tmp_path / "export/ome_zarr/a.zarr"), mode="r")
    assert (np.asarray(group["labels/maskmill/0"]) == wanted).all()


def test_the_log_says_what_has_no_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(tmp_path, slide(tmp_path / "s.ome.tif", (100, 100)), formats=["geotiff"])
    assert "geotiff: 1 mask: the file has no reference system or transform: written without" in capsys.readouterr().err


def test_the_log_says_which_formats_put_windows_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(tmp_path, slide(tmp_path / "s.ome.tif", (100, 100)), formats=["cvat"])
    said = capsys.readouterr().err
    assert "1 image was cut into windows" in said
    assert "export.formats: any of geotiff, ome_zarr, pyramid_tiff, geojson" in said


def test_windows_of_two_levels_are_an_error(tmp_path: Path) -> None:
    source = slide(tmp_path / "s.ome.tif", (400, 300))
    rows = [*windowed.rows_of("a", source, windowed.views_of(source, 0)[:1]),
            *windowed.rows_of("a", source, windowed.views_of(source, 1)[1:2])]  # fmt: skip
    masks = {row.id: np.ones((64, 64), np.uint8) for row in rows}
    with pytest.raises(StoreError, match="a: its windows are of different levels"):
        run(**windowed.write(tmp_path, rows, masks, CLUSTERS, formats=["geotiff"]))


def test_a_source_that_is_gone_is_an_error(tmp_path: Path) -> None:
    source = slide(tmp_path / "s.ome.tif", (100, 100))
    rows = windowed.rows_of("a", source, windowed.views_of(source))
    masks = {row.id: np.ones((64, 64), np.uint8) for row in rows}
    source.unlink()
    with pytest.raises(InputError, match=r"s\.ome\.tif: .*where its mask lies"):
        run(**windowed.write(tmp_path, rows, masks, CLUSTERS, formats=["geojson"]))


def test_equal_masks_make_equal_files(tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        source = geotiff(tmp_path / name / "s.tif", (700, 600), crs=UTM, transform=TRANSFORM)
        folder, _ = exported(tmp_path / name, source)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "export.json")
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert found[0].keys() == found[1].keys()
    assert [name for name in found[0] if found[0][name] != found[1][name]] == []


def test_tolerance_is_part_of_the_section_with_geojson_only() -> None:
    plain = validate(section.Export, {"formats": ["geotiff"], "tolerance": 2}, "x", "export")
    assert "tolerance" not in plain.model_dump()
    assert (
        validate(section.Export, {"formats": ["geojson"], "tolerance": 2}, "x", "export").model_dump()["tolerance"] == 2
    )
    with pytest.raises(ConfigError, match=re.escape("tolerance")):
        validate(section.Export, {"formats": ["geojson"], "tolerance": -1}, "x", "export")
