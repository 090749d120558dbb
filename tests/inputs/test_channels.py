"""`inputs.channels: all`: every channel of a file becomes the picture's, and as many in all files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from PIL import Image

from maskmill.backbones import weights_file
from maskmill.backbones.network import import_timm
from maskmill.backbones.weights import prepare
from maskmill.device import Compute
from maskmill.errors import ConfigError, InputError
from maskmill.features.run import run as extract
from maskmill.images.photos import channels_of, read_filled, read_photo
from maskmill.images.raster import open_raster
from maskmill.images.rendering import Rendering
from maskmill.inputs import _beforehand
from maskmill.inputs.reading import Reading
from maskmill.inputs.run import Outputs, run
from maskmill.predict.pictures import opened
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.resolve import load
from maskmill.store.artefact import read_table
from maskmill.store.manifest import RENDERING, Row, read_manifest
from maskmill.store.ragged import Ragged

ALL = {"channels": "all"}


def save(path: Path, values: np.ndarray, **more: Any) -> Path:
    """A TIFF of values [H, W, N] of which the header declares no colours, unless `more` does."""
    path.parent.mkdir(exist_ok=True, parents=True)
    extra = [0] * (values.shape[2] - 1)
    options = {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": extra} | more
    tifffile.imwrite(path, values if values.shape[2] > 1 else values[..., 0], **options)
    return path


def noise(channels: int, seed: int = 0, kind: Any = np.uint16) -> np.ndarray:
    most = 60_000 if kind == np.uint16 else 255
    return np.random.default_rng(seed).integers(0, most, (40, 48, channels)).astype(kind)


def made(folder: Path, section: dict[str, Any], name: str = "m") -> tuple[Path, list[Row]]:
    """The manifest of the images in `folder`/in."""
    out = Outputs(folder / f"{name}.parquet", folder / f"{name}.csv", folder / f"{name}.json")
    run(str(folder / "in"), None, section, out, 1, folder / "frames")
    return out.manifest, list(read_manifest(out.manifest).rows)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_three_channels_are_what_they_are_without_the_key(kind: Any, tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"in/{i}.tif", noise(3, i, kind), photometric="rgb", extrasamples=[])
    save(tmp_path / "in/grey.tif", noise(1, 3, kind))
    (_, with_key), (_, without) = made(tmp_path, ALL), made(tmp_path, {}, "n")
    assert with_key == without  # views and digests too
    assert channels_of(with_key) == 3


def test_all_channels_begin_with_the_declared_colours(tmp_path: Path) -> None:
    values = np.moveaxis(noise(6), 2, 0)
    path = tmp_path / "in/a.tif"
    path.parent.mkdir()
    from rasterio.enums import ColorInterp as Is

    with rasterio.open(path, "w", "GTiff", 48, 40, 6, dtype="uint16", photometric="MINISBLACK") as file:
        file.write(values)
        file.colorinterp = [Is.gray, Is.blue, Is.green, Is.red, Is.undefined, Is.alpha]
    with open_raster(path) as raster:
        assert raster.facts.colours == (3, 2, 1)
        assert raster.facts.alpha == 5
        found = Rendering.of(load_inputs(ALL)).pictures(raster.facts)
        assert [view.channels for _, view in found] == [(3, 2, 1, 0, 4)]


def load_inputs(section: dict[str, Any]) -> Any:
    return load({"recipes": ["kmeans"], "inputs": section}, RECIPES).config.inputs


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_each_channel_has_its_own_range(channels: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    values = noise(channels) // np.arange(1, channels + 1)
    values = values.astype(np.uint16)
    save(tmp_path / "in/a.tif", values)
    manifest, (row,) = made(tmp_path, ALL | {"percentiles": [0, 100]})
    low, high = values.min((0, 1)).astype(float), values.max((0, 1)).astype(float)
    wanted = np.round((values - low) * (255 / (high - low)))
    seen = channels if channels > 1 else 3
    assert channels_of([row]) == seen
    pixels = read_filled(row, np.zeros(seen, np.uint8)).pixels
    assert pixels.shape == (40, 48, seen)
    assert np.abs(pixels - wanted).max() <= 1  # of one channel three times the same
    shown = read_photo(row)
    assert shown.shape == (40, 48, 3)
    assert (shown == (pixels[..., :3] if seen >= 3 else pixels[..., :1])).all()
    said = capfd.readouterr().err
    assert f"inputs: pictures of {seen} channels" in said
    assert ("see [0, 1, 2] of the file" in said) == (channels == 5)
    stored = read_table(manifest).schema.metadata[RENDERING].decode()
    assert Rendering.read(stored).count == seen


@pytest.mark.parametrize("looked_at", [64, 1])
def test_another_number_of_channels_is_named(
    looked_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before any file is decoded where a sample shows it, else when all were seen."""
    for i in range(4):
        save(tmp_path / f"in/{i}.tif", noise(5, i))
    odd = tmp_path / "in/odd.png"
    Image.fromarray(noise(3, kind=np.uint8)).save(odd)
    monkeypatch.setattr(_beforehand, "FILES", looked_at)
    with pytest.raises(InputError, match=r"^inputs.channels: all: .*/odd.png has 3 channels, but .*tif has 5") as error:
        made(tmp_path, ALL)
    assert "\n" not in str(error.value)
    assert (" checked" in capfd.readouterr().err) == (looked_at == 1)
    odd.unlink()
    assert len(made(tmp_path, ALL)[1]) == 4


def test_new_images_have_as_many(tmp_path: Path) -> None:
    save(tmp_path / "in/a.tif", noise(5))
    rendering = Rendering.read(read_table(made(tmp_path, ALL)[0]).schema.metadata[RENDERING].decode())
    for name, channels in (("four", 4), ("five", 5)):
        path = save(tmp_path / f"{name}.tif", noise(channels))
        if channels == 5:
            with opened(path, name, Reading(rendering), 10**6) as file:
                shown = file.shown(file.canvases[0].pictures[0])
                assert shown is not None
                assert shown.pixels.shape == (40, 48, 5)
            continue
        with pytest.raises(InputError, match="has 4 channels, the images of the run have 5"):
            opened(path, name, Reading(rendering), 10**6).__enter__()
    Image.fromarray(noise(3, kind=np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match="has 3 channels, the images of the run have 5"):
        opened(tmp_path / "photo.png", "photo", Reading(rendering), 10**6).__enter__()


def features(manifest: Path, rows: list[Row], weights: Path, chosen: FeatureSet, out: Path) -> Ragged:
    body = chosen.model_dump(mode="json")
    extract(manifest, rows[0].shard, body, weights, out, Compute(1, 2, "cpu"))
    return Ragged(out)


def test_the_stage_features_of_three_and_of_twice_three_channels(tmp_path: Path) -> None:
    """With three channels bit by bit what it is without the key; two copies of RGB give the same up to rounding."""
    torch.manual_seed(0)
    model = import_timm().create_model("test_resnet", pretrained=False, num_classes=0)
    weights = tmp_path / "weights.safetensors"
    facts = {"architecture": "test_resnet", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    weights_file.write(weights, model.state_dict(), facts)
    shown = FeatureSet(backbone="test_resnet", size=Size(square=96), dtype="int8")
    every = shown.model_copy(update={"channels": "all"})
    found = {}
    for name, copies, section, chosen in [
        ("plain", 1, {}, shown), ("three", 1, ALL, every), ("six", 2, ALL, every), ("some", 2, ALL, shown),
    ]:  # fmt: skip
        folder = tmp_path / name
        for i in range(3):
            save(folder / f"in/{i}.tif", np.concatenate([noise(3, i)] * copies, 2))
        manifest, rows = made(folder, section)
        found[name] = features(manifest, rows, weights, chosen, folder / "store.zarr")
    wanted = [found["plain"][i] for i in found["plain"].ids]
    scale = np.std(wanted)
    for name, most in (("three", 0), ("some", 0), ("six", 0.02)):
        for tokens, i in zip(wanted, found[name].ids, strict=True):
            assert np.abs(found[name][i] - tokens).max() <= most * scale, name
    assert [found[name].attrs.get("channels") for name in ("plain", "three", "six", "some")] == [None, 3, 6, None]


def test_what_shows_no_data_has_the_mean_of_every_channel(tmp_path: Path) -> None:
    values = noise(5).astype(np.int16) // 4
    values[:16] = -999
    save(tmp_path / "in/a.tif", values, extratags=[(42113, 2, 0, "-999", True)])
    _, (row,) = made(tmp_path, ALL)
    shown = read_filled(row, np.arange(5, dtype=np.uint8))
    assert shown.valid is not None
    assert (shown.pixels[:16] == np.arange(5)).all()
    assert (shown.valid == (values[..., 0] != -999)).all()


def test_colour_sees_all_of_them(tmp_path: Path) -> None:
    save(tmp_path / "in/a.tif", noise(4))
    manifest, rows = made(tmp_path, ALL)
    chosen = FeatureSet(backbone="colour", stride=8, size=Size(square=48), channels="all")
    prepare(chosen, tmp_path / "w.safetensors")
    assert features(manifest, rows, tmp_path / "w.safetensors", chosen, tmp_path / "s.zarr").depth == 6


@pytest.mark.parametrize(
    ("recipe", "change", "what"),
    [
        ("cutler", {}, "grouping: .* rounds.student: instance learns from photos"),
        ("comus", {}, "semantic: .* rounds.student: deeplabv3plus learns from photos"),
        ("picie", {"adapt": {"unfreeze": True}}, "semantic: .* adapt.unfreeze: true"),
        ("dsm", {"rounds": {"count": 0}}, "semantic: .* regions.pool: crop_cls looks at crops"),
    ],
)
def test_what_takes_photos_is_refused_before_the_first_job(recipe: str, change: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=f"features.{what}"):
        load({"recipes": [recipe], "inputs": ALL} | change, RECIPES)
    name = what.split(":")[0]
    way_out = {"features": {name: {"channels": "shown"}}}
    sets = load({"recipes": [recipe], "inputs": ALL} | change | way_out, RECIPES).recipes[recipe].features
    assert {key: chosen.channels for key, chosen in sets.items()} == dict.fromkeys(sets, "all") | {name: "shown"}


def test_sets_of_a_run_without_the_key() -> None:
    with pytest.raises(ConfigError, match=r"features.semantic.channels: all needs inputs.channels: all"):
        load({"recipes": ["kmeans"], "features": {"semantic": {"channels": "all"}}}, RECIPES)
    with pytest.raises(ConfigError, match=r"inputs.channels: give all, or three of"):
        load_inputs({"channels": "every"})
    slugs = [
        load({"recipes": ["kmeans"], "inputs": section}, RECIPES).recipes["kmeans"].features["semantic"].slug
        for section in ({}, {"pages": "max"}, ALL)
    ]
    assert slugs[0] == slugs[1] != slugs[2]
