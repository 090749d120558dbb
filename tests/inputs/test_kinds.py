"""Files of other depth, channels and pages: one range for a data set, chosen channels, pages, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from PIL import Image
from pydantic import ValidationError

from maskmill.errors import InputError
from maskmill.images.photos import read_photo, read_shown
from maskmill.images.rendering import Rendering
from maskmill.inputs._check import check_file
from maskmill.inputs._range import decide
from maskmill.inputs._sources import find
from maskmill.inputs.run import Outputs, run
from maskmill.recipe.inputs import Inputs
from maskmill.store.artefact import read_table
from maskmill.store.manifest import RENDERING, Row, read_manifest


def camera(folder: Path, most: list[int], size: int = 64) -> list[str]:
    """16-bit pictures of one camera: noise up to `most` each."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    paths = []
    for i, high in enumerate(most):
        path = folder / f"{i:03d}.tif"
        tifffile.imwrite(path, random.integers(0, high + 1, (size, size)).astype(np.uint16), photometric="minisblack")
        paths.append(str(path))
    return paths


def shown(path: str, settings: Inputs, rendering: Rendering) -> list[np.ndarray]:
    parts = check_file(path, settings, rendering)
    assert not isinstance(parts, str), parts
    rows = (Row("a", path, p.width, p.height, "s", None, None, p.bytes, p.crc32c, None, p.view) for p in parts)
    return [read_photo(row) for row in rows]


def test_one_range_for_a_data_set(tmp_path: Path) -> None:
    """4000 and 4200 lie on both sides of a sixteenth of 65535: they were read as 255 and 16."""
    paths = camera(tmp_path, [4000, 4200, 4000, 4200])
    rendering = decide(paths, Inputs())
    means = [shown(path, Inputs(), rendering)[0].mean() for path in paths]
    assert max(means) - min(means) < 10
    assert 110 < np.mean(means) < 140
    assert Rendering.read(rendering.text()) == rendering


def test_range_does_not_follow_the_order_or_one_more_file(tmp_path: Path) -> None:
    paths = camera(tmp_path, [1000 + 40 * i for i in range(80)], size=16)
    first = decide(paths, Inputs())
    assert decide(paths[::-1], Inputs()) == first
    with_few = [decide([p for p in paths if p != left], Inputs()) for left in paths]
    assert sum(one == first for one in with_few) >= 16  # of 80 files 64 are in the sample


def test_nodata_is_no_part_of_a_range(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(100, 200, (64, 64)).astype(np.int16)
    values[:40] = -9999
    gap = [(42113, 2, 0, "-9999", True)]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", extratags=gap)
    path = str(tmp_path / "a.tif")
    rendering = decide([path], Inputs())
    ((low, high),) = rendering.ranges.values()
    assert (low, high) == ((100,), (199,))
    (part,) = check_file(path, Inputs(), rendering)
    assert not isinstance(part, str)
    found = read_shown(Row("a", path, 64, 64, "s", None, None, part.bytes, part.crc32c, None, part.view))
    assert found.valid is not None
    assert (found.valid == (values != -9999)).all()


def test_the_mask_inside_a_geotiff_says_what_is_valid(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 48, 64)).astype(np.uint8)
    mask = np.ones((48, 64), bool)
    mask[:, :20] = False
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 5e6), "photometric": "RGB"}
    path = str(tmp_path / "a.tif")
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", "GTiff", 64, 48, 3, dtype="uint8", **place) as file,
    ):
        file.write(values)
        file.write_mask(mask)
    (part,) = check_file(path, Inputs(), decide([path], Inputs()))
    assert not isinstance(part, str)
    found = read_shown(Row("a", path, 64, 48, "s", None, None, part.bytes, part.crc32c, None, part.view))
    assert found.valid is not None
    assert (found.valid == mask).all()
    assert (found.pixels[mask] == values.transpose(1, 2, 0)[mask]).all()


@pytest.mark.parametrize(("setting", "white"), [("dtype", 65535), ((0, 4000), 4000)])
def test_range_that_is_given(setting: object, white: int, tmp_path: Path) -> None:
    settings = Inputs.model_validate({"range": setting})
    (path,) = camera(tmp_path, [4000])
    (pixels,) = shown(path, settings, decide([path], settings))
    wanted = np.round(tifffile.imread(path) * (255.0 / white))
    assert np.abs(pixels[..., 0] - wanted).max() <= 1


def test_eight_bits_stay_unless_percentiles_are_asked_for(tmp_path: Path) -> None:
    grey = np.linspace(100, 150, 64 * 64).round().astype(np.uint8).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    plain = check_file(path)
    assert not isinstance(plain, str)
    assert plain[0].view is None
    settings = Inputs(range="percentile")
    (pixels,) = shown(path, settings, decide([path], settings))
    assert (pixels.min(), pixels.max()) == (0, 255)


def bands(path: Path, channels: int = 5) -> str:
    values = np.random.default_rng(0).integers(0, 60000, (40, 48, channels)).astype(np.uint16)
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", extrasamples=[0] * (channels - 1))
    return str(path)


def test_all_channels_are_no_list() -> None:
    with pytest.raises(ValueError, match="all is no list; write channels: all"):
        Inputs.model_validate({"channels": ["all"]})


def test_channels_as_the_command_line_gives_them() -> None:
    """Snakemake hands nested values on as text."""
    assert Inputs.model_validate({"channels": ["2", "1", "0"]}).channels == (2, 1, 0)
    assert Inputs.model_validate({"composites": {"a": ["3"], "b": ["DAPI"]}}).composites == {"a": (3,), "b": ("DAPI",)}


def test_channels(tmp_path: Path) -> None:
    path = bands(tmp_path / "a.tif")
    raw = tifffile.imread(path).astype(float)
    for given, order in [([3, 2, 1], (3, 2, 1)), ({"landsat8": "false_colour"}, (4, 3, 2)), ([4], (4, 4, 4))]:
        settings = Inputs.model_validate({"channels": given, "range": [0, 65535]})
        (pixels,) = shown(path, settings, decide([path], settings))
        assert np.abs(pixels - raw[..., list(order)] / 257).max() <= 1


def test_composites_are_pictures_of_their_own(tmp_path: Path) -> None:
    path = bands(tmp_path / "a.tif")
    settings = Inputs.model_validate({"composites": {"natural": [2, 1, 0], "heat": {"landsat8": "false_colour"}}})
    parts = check_file(path, settings, decide([path], settings))
    assert not isinstance(parts, str)
    assert [part.name for part in parts] == ["/natural", "/heat"]
    assert parts[0].digest != parts[1].digest


def stack(path: Path) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 255, (3, 20, 24)).astype(np.uint8)
    tifffile.imwrite(path, values, photometric="minisblack")
    return values


def test_pages(tmp_path: Path) -> None:
    values, path = stack(tmp_path / "a.tif"), str(tmp_path / "a.tif")
    wanted = {
        "first": [values[0]], "all": list(values), "max": [values.max(0)], "mean": [np.round(values.mean(0))],
    }  # fmt: skip
    for pages, pictures in wanted.items():
        settings = Inputs.model_validate({"pages": pages})
        found = shown(path, settings, decide([path], settings))
        assert len(found) == len(pictures)
        assert all((a[..., 0] == b).all() for a, b in zip(found, pictures, strict=True))


def test_pages_of_a_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    stack(tmp_path / "in/a.tif")
    out = Outputs(tmp_path / "m.parquet", tmp_path / "r.csv", tmp_path / "c.json")
    run(str(tmp_path / "in"), None, {"pages": "all"}, out, 1, tmp_path / "frames")
    rows = read_manifest(out.manifest).rows
    assert [(row.id, row.parent) for row in rows] == [(f"a/p{i:04d}", "a") for i in range(3)]
    assert "1 with more than one page" in capfd.readouterr().err
    assert Rendering.read(read_table(out.manifest).schema.metadata[RENDERING].decode()).pages == "all"


def test_a_picture_that_changed_is_named(tmp_path: Path) -> None:
    (path,) = camera(tmp_path, [4000])
    (part,) = check_file(path, Inputs(), decide([path], Inputs()))
    assert not isinstance(part, str)
    row = Row("a", path, part.width, part.height, "s", None, None, part.bytes, part.crc32c, None, part.view)
    camera(tmp_path, [3999])
    with pytest.raises(InputError, match="other values than in the manifest"):
        read_photo(row)


def test_a_zarr_folder_is_one_image(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "in/a.zarr", data=np.zeros((20, 24), np.uint16), chunks=(8, 8))
    Image.new("RGB", (8, 8)).save(tmp_path / "in/b.png")
    found = find(str(tmp_path / "in"), None, tmp_path / "frames", 1, 10**6)
    assert [c.id for c in found.candidates] == ["a", "b"]
    assert [c.id for c in find(str(tmp_path / "in/a.zarr"), None, tmp_path / "f", 1, 10**6).candidates] == ["a"]
    assert [c.id for c in find(str(tmp_path / "in/*.zarr"), None, tmp_path / "f", 1, 10**6).candidates] == ["a"]


def test_refusals(tmp_path: Path) -> None:
    stacked = str(tmp_path / "uneven.tif")
    with tifffile.TiffWriter(stacked) as file:
        for size in (16, 20):
            file.write(np.zeros((size, size), np.uint8), photometric="minisblack")
    five = bands(tmp_path / "five.tif")
    plain = bands(tmp_path / "more.tif", channels=9)
    for path, given, key, reason in [
        (stacked, {"pages": "max"}, "inputs.pages: max", "its pages differ in size"),
        (five, {"channels": [5]}, "inputs.channels: [5]", "has no channel 5: its 5 are counted from 0"),
        (five, {"channels": ["nir"]}, "inputs.channels: ['nir']", "has no channel 'nir'"),
        (five, {"composites": {"a": [0], "b": [8, 0, 1]}}, "inputs.composites.b: [8, 0, 1]", "has no channel 8"),
    ]:
        settings = Inputs.model_validate(given)
        assert reason in str(check_file(path, settings, Rendering.of(settings)))
        with pytest.raises(InputError) as caught:  # of all files that are looked at: before any is decoded
            decide([path], settings)
        assert str(caught.value).startswith(key)
        assert path in str(caught.value)
        assert reason in str(caught.value)
        if path == five and "composites" in given:
            decide([path, plain], settings)  # one has them: the check rejects the other
    other = decide(camera(tmp_path / "grey", [4000]), Inputs())
    assert "no file of the sample" in str(check_file(five, Inputs(), other))


@pytest.mark.parametrize(
    "given",
    [
        {"range": [5, 5]},
        {"range": [7, 2]},
        {"percentiles": [99, 1]},
        {"channels": [0, 1]},
        {"channels": {"sentinel3": "true_colour"}},
        {"channels": {"sentinel2": "true_color"}},
        {"composites": {"a/b": [0, 1, 2]}},
        {"composites": {"a": [0, 1, 2]}, "channels": [0]},
        {"pages": "last"},
    ],
)
def test_settings_that_mean_nothing(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Inputs.model_validate(given)


def test_settings_that_are_not_set_leave_no_trace() -> None:
    assert "range" not in Inputs().model_dump(mode="json")
    assert Inputs(pages="max").model_dump(mode="json")["pages"] == "max"
