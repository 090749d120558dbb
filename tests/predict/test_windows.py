"""`maskmill predict` on images that a run has cut into windows: the same masks, in the formats of whole images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from backbone_photos import CNN, SETS, write_weights
from PIL import Image
from rasterio.transform import Affine
from typer.testing import CliRunner

from maskmill.cli.app import app
from maskmill.cluster.run import OptionalFiles
from maskmill.cluster.run import fit as cluster
from maskmill.device import Compute
from maskmill.errors import InputError
from maskmill.export.run import ExportFiles
from maskmill.export.run import run as export
from maskmill.export.segmenter import SegmenterParts
from maskmill.features.run import run as extract
from maskmill.images.masks import MaskSet
from maskmill.images.rendering import Rendering
from maskmill.inputs.reading import Reading
from maskmill.inputs.run import Outputs
from maskmill.inputs.run import run as inputs
from maskmill.paint.run import run_tokens
from maskmill.predict import masks as predict_masks
from maskmill.predict import run as predict_run
from maskmill.predict.run import Wanted, predict
from maskmill.recipe.export import WHOLE
from maskmill.store.artefact import read_json
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged

SECTION = {"shard_size": 5, "window": {"size": 96, "overlap": 24}}
PLACE = {"crs": "EPSG:32632", "transform": Affine(0.5, 0, 600_000.25, 0, -0.5, 5_300_000.75)}


def scene(height: int, width: int, seed: int) -> np.ndarray:
    """Coloured blocks with some noise, uint8 [3, H, W]; the upper left is as black as outside of a scan."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(30, 226, (3, height // 40 + 1, width // 40 + 1))
    picture = blocks.repeat(40, axis=1).repeat(40, axis=2)[:, :height, :width]
    picture = picture + rng.integers(-20, 20, picture.shape)
    picture[:, :110, :110] = 0
    return picture.astype(np.uint8)


def geotiff(path: Path, picture: np.ndarray) -> Path:
    about = {"driver": "GTiff", "count": 3, "dtype": picture.dtype.name, "tiled": True, "photometric": "rgb"}
    height, width = picture.shape[1:]
    with rasterio.open(path, "w", height=height, width=width, blockxsize=64, blockysize=64, **about, **PLACE) as out:
        out.write(picture)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tokens' clusters on two maps and one photo."""
    folder = tmp_path_factory.mktemp("windows")
    photos = folder / "photos"
    photos.mkdir()
    geotiff(photos / "map.tif", scene(300, 260, 0))
    geotiff(photos / "other.tif", scene(200, 330, 1))
    Image.fromarray(np.moveaxis(scene(90, 80, 2), 0, 2)).save(photos / "small.png")
    (folder / "weights").mkdir()
    weights = write_weights(folder / "weights")[CNN]
    manifest = folder / "manifest.parquet"
    out = Outputs(manifest, folder / "rejected.csv", folder / "classes.json")
    inputs(str(photos), None, SECTION, out, 1, folder / "frames")
    chosen, stores, masks = SETS[CNN], [], []
    shards = read_manifest(manifest).shards
    for shard in shards:
        stores.append(folder / f"features/{shard}.zarr")
        extract(manifest, shard, chosen.model_dump(), weights, stores[-1], Compute(1, 1, "cpu"))
    book = folder / "codebook.safetensors"
    cluster(stores, {"method": "kmeans", "clusters": 5, "max_fit_points": 2000}, 0, book, 1, "cpu", OptionalFiles())
    for shard, store in zip(shards, stores, strict=True):
        masks.append(folder / f"masks/{shard}.zarr")
        run_tokens(store, book, {"upsample": 4, "refine": {"method": "none"}}, masks[-1], manifest)
    parts = SegmenterParts({"codebook": book}, {"semantic": chosen.model_dump()}, weights.parent, {"method": "none"}, 4)
    params: dict[str, Any] = {"formats": list(WHOLE)}
    export(ExportFiles(manifest, masks), params, folder / "export", MaskSet("mine", 0, 0), segmenter=parts)
    return folder


def mask_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return np.asarray(file.read(1))


def test_images_of_the_run_get_its_masks(run: Path, tmp_path: Path) -> None:
    assert read_json(run / "export/segmenter/features.json")["inputs"]["window"]["size"] == 96
    made = predict([run / "photos"], run / "export/segmenter", tmp_path, Wanted(formats=list(WHOLE), device="cpu"))
    assert (made.masks, made.failed) == (3, {})
    found = read_manifest(run / "manifest.parquet")
    stores = [Ragged(run / f"features/{shard}.zarr") for shard in found.shards]
    assert {store.ids[i]: store.owner(i) for store in stores for i in range(len(store))} == {
        row.id: row.id.split("/")[0] for row in found.rows
    }
    for name in ("map", "other", "small"):
        theirs, mine = run / "export", tmp_path
        wanted = mask_of(theirs / f"geotiff/{name}.tif")
        assert len(np.unique(wanted)) > 2 or name == "small"
        assert (mask_of(mine / f"{name}.tif") == wanted).all()
        assert (np.asarray(Image.open(mine / f"{name}.png")) == wanted).all()
        assert (tifffile.imread(mine / f"{name}.ome.tif") == wanted).all()
        level = zarr.open_array(str(mine / f"{name}.zarr/labels/maskmill/0"), mode="r")
        assert (np.asarray(level) == wanted).all()
        found, ours = (json.loads((p / f"{name}.geojson").read_text())["features"] for p in (theirs / "geojson", mine))
        assert found == ours
    assert (mask_of(run / "export/geotiff/map.tif")[:80, :80] == 255).all()  # a window that was left out
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.transform == PLACE["transform"]
        assert file.crs == PLACE["crs"]
    assert sorted(path.name for path in tmp_path.glob("*.jpg")) == ["small.overlay.jpg"]
    assert not list(tmp_path.glob(".maskmill*"))


def test_the_command_line_takes_formats_and_replaces_older_files(run: Path, tmp_path: Path) -> None:
    segmenter, photo = str(run / "export/segmenter"), str(run / "photos/map.tif")
    command = ["predict", photo, "--segmenter", segmenter, "--out", str(tmp_path), "--device", "cpu", "--no-overlays"]
    for _ in range(2):
        found = CliRunner().invoke(app, [*command, "--format", "ome_zarr,geojson", "--format", "geojson"])
        assert found.exit_code == 0, found.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.geojson", "map.png", "map.zarr"]
    wrong = CliRunner().invoke(app, [*command, "--format", "geotif"])
    assert "--format 'geotif': unknown (did you mean 'geotiff'?)" in str(wrong.exception)


def test_a_mask_does_not_overwrite_the_image(run: Path, tmp_path: Path) -> None:
    source = geotiff(tmp_path / "map.tif", scene(100, 100, 0))
    with pytest.raises(InputError, match=r"would overwrite the photo .*map\.tif"):
        predict([source], run / "export/segmenter", tmp_path, Wanted(formats=["geotiff"]))


def test_what_is_too_large_for_a_png_needs_a_format(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_masks, "MAX_PIXELS", 1000)
    source = run / "photos/map.tif"
    made = predict([source], run / "export/segmenter", tmp_path, Wanted(device="cpu"))
    assert made.masks == 0
    assert "260x300 pixels are too many for a PNG; give --format geotiff or" in made.failed[source]
    made = predict([source], run / "export/segmenter", tmp_path, Wanted(formats=["geotiff"], device="cpu"))
    assert (made.masks, sorted(p.name for p in tmp_path.iterdir())) == (1, ["map.tif", "map.tif.aux.xml"])


def test_what_shows_no_data_is_ignore_as_in_the_run(run: Path, tmp_path: Path) -> None:
    """A map of which a strip through a window has no measurement."""
    picture = scene(300, 260, 0)
    picture[:, 200:260] = 255
    source = geotiff(tmp_path / "map.tif", picture)
    with rasterio.open(source, "r+") as file:
        file.nodata = 255
    predict([source], run / "export/segmenter", tmp_path / "out", Wanted(formats=["geotiff"], device="cpu"))
    mask = mask_of(tmp_path / "out/map.tif")
    assert (mask[210:250] == 255).all()
    assert (mask[120:190] != 255).all()


@pytest.fixture
def paged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A segmenter of a run that has read all pages; it finds the cluster 1 everywhere."""

    class Everywhere:
        side_by_side, clusters, classes, reading = False, 3, (), Reading(Rendering(pages="all"))

        def mask(self, pixels: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
            return np.ones(pixels.shape[:2], np.uint8)

    monkeypatch.setattr(predict_run, "load", lambda *_: Everywhere())


def test_masks_of_pages_overwrite_no_photo_and_no_other_mask(paged: None, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    tifffile.imwrite(photos / "a.tif", rng.integers(0, 255, (2, 32, 32, 3), dtype=np.uint8), photometric="rgb")
    photo = photos / "a/p0000.png"
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(photo)
    before = photo.read_bytes()
    for given in ([photos / "a.tif", photo], [photos / "a.tif"]):  # the photo is among the inputs, or only lies there
        with pytest.raises(InputError, match=r"a\.tif would overwrite the photo .*p0000\.png; give another folder"):
            predict(given, tmp_path, photos, Wanted(overlays=False))
    assert photo.read_bytes() == before
    with pytest.raises(InputError, match=r"its mask a/p0000\.png would overwrite that of .*; predict them separately"):
        predict([photos], tmp_path, out, Wanted(overlays=False))
    assert not list(out.rglob("*.png"))
    for _ in range(2):  # masks of an earlier run are replaced
        assert predict([photos / "a.tif"], tmp_path, out, Wanted(overlays=False)).masks == 1
    assert sorted(path.name for path in out.rglob("*.png")) == ["p0000.png", "p0001.png"]
