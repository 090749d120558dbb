"""`maskmill predict` with clusters: images of a run get the masks that the run itself has exported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backbone_photos import CNN, COMMON, SETS, VIT, write_photos, write_weights
from PIL import Image
from typer.testing import CliRunner

from maskmill.adapt import run as adapt
from maskmill.cli.app import app
from maskmill.cluster.run import OptionalFiles
from maskmill.cluster.run import fit as cluster
from maskmill.device import Compute
from maskmill.errors import InputError, NumericsError, StoreError
from maskmill.export.run import ExportFiles
from maskmill.export.run import run as export
from maskmill.export.segmenter import SegmenterParts
from maskmill.features.run import run as extract
from maskmill.images.masks import MaskSet
from maskmill.paint.run import run_tokens
from maskmill.predict.run import Predicted, Wanted, predict
from maskmill.predict.segmenter import load
from maskmill.recipe.feature_set import FeatureSet
from maskmill.reduce import run as reduce
from maskmill.store import codebook as books
from maskmill.store.artefact import read_json, write_json
from maskmill.store.floats import as_stored
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.resources import Resources

SHARDS = ("s0", "s1")
PCA = {"method": "pca", "dimensions": 4, "max_fit_points": None}
KMEANS = {"method": "kmeans", "clusters": 5, "max_fit_points": 2000}
HEAD = COMMON | {"method": "picie", "epoch_steps": 2, "unfreeze": False}
CASES: dict[str, dict[str, Any]] = {
    "kmeans": {},
    "euclidean": {"cluster": KMEANS | {"spherical": False}, "dtype": "int8", "upsample": 3},
    "vit": {"network": VIT},
    "reduced": {"reduce": PCA, "refine": {"method": "guided"}},
    "foreground": {"reduce": PCA, "foreground": True, "refine": {"method": "guided"}},
    "noise": {"noise": True},
    "head": {"adapt": HEAD},
    "head_reduced": {"adapt": HEAD, "reduce": PCA, "dtype": "int8"},
    "unfrozen": {"adapt": HEAD | {"unfreeze": True}, "dtype": "int8"},
    "unfrozen_vit": {"adapt": HEAD | {"unfreeze": True, "batch_size": 3}, "network": VIT},
}


@dataclass(frozen=True)
class Recipe:
    """A finished run of a recipe that clusters tokens: its folder, its parts, and whether photos went in one by one."""

    folder: Path
    parts: SegmenterParts

    @property
    def segmenter(self) -> Path:
        return self.folder / "export/segmenter"

    def exported(self) -> dict[str, Image.Image]:
        return {file.stem: Image.open(file) for file in sorted((self.folder / "export/masks").glob("*.png"))}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """Weights by network, named as in resources/weights, and a manifest."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "weights").mkdir()
    (folder / "photos").mkdir()
    return write_weights(folder / "weights"), write_photos(folder / "photos")


Finish = Callable[..., Recipe]


@pytest.fixture
def finish(world: tuple[dict[str, Path], Path], tmp_path: Path) -> Finish:
    """The stages of a recipe on two shards, as its rules call them."""
    weights, manifest = world

    def run(
        *,
        network: str = CNN,
        dtype: str = "float16",
        cluster_by: Mapping[str, Any] = KMEANS,
        batch_size: int = 1,
        upsample: int = 4,
        refine: Mapping[str, Any] | None = None,
        **stages: Any,
    ) -> Recipe:
        chosen = FeatureSet.model_validate(SETS[network].model_dump() | {"dtype": dtype})
        files: dict[str, Path] = {}
        vectors = [tmp_path / f"features/{shard}.zarr" for shard in SHARDS]
        for shard, out in zip(SHARDS, vectors, strict=True):
            extract(manifest, shard, chosen.model_dump(), weights[network], out, Compute(batch_size, 1, "cpu"))
        if "adapt" in stages:
            files["head"] = tmp_path / "head.safetensors"
            vectors = codes(stages["adapt"], chosen, vectors, files["head"], weights[network])
            cluster_by = {"method": "prototypes", "clusters": 3, "max_fit_points": 2000}
        if "reduce" in stages:
            cluster_by = KMEANS
            files["reduction"] = tmp_path / "model.safetensors"
            reduce.fit(vectors, stages["reduce"], 0, files["reduction"], 1)
            reduced = [tmp_path / f"reduce/{shard}.zarr" for shard in SHARDS]
            for source, out in zip(vectors, reduced, strict=True):
                reduce.transform(source, files["reduction"], stages["reduce"], out, 1)
            vectors = reduced
        files["codebook"] = tmp_path / "codebook.safetensors"
        cluster(vectors, cluster_by, 0, files["codebook"], 1, "cpu", OptionalFiles(head=files.get("head")))
        book = books.read(files["codebook"])
        if "foreground" in stages:  # every other centroid
            files["foreground"] = tmp_path / "foreground.safetensors"
            books.write(files["foreground"], grouped(book, [0, 0, 1, 1, 1]))
        if "noise" in stages:
            books.write(files["codebook"], grouped(book, [0, 1, 2, 3, -1]))
        paint = {"upsample": upsample, "refine": refine or {"method": "none"}}
        masks = [tmp_path / f"masks/{shard}.zarr" for shard in SHARDS]
        for source, out in zip(vectors, masks, strict=True):
            run_tokens(source, files["codebook"], paint, out, manifest, files.get("foreground"))
        own = stages.get("adapt", {}).get("unfreeze", False)
        parts = SegmenterParts(
            files,
            {"semantic": chosen.model_dump()},
            None if own else weights[network].parent,
            paint["refine"],
            upsample,
        )
        export(ExportFiles(manifest, masks), {}, tmp_path / "export", MaskSet("mine", 0, 0), segmenter=parts)
        return Recipe(tmp_path, parts)

    def codes(
        section: dict[str, Any], chosen: FeatureSet, features: list[Path], head: Path, network: Path
    ) -> list[Path]:
        source = adapt.PhotoSource(manifest, network, chosen) if section["unfreeze"] else features
        adapt.fit(source, section, adapt.HeadFiles(head), seed=0, clusters=3, resources=Resources(device="cpu"))
        out = [tmp_path / f"adapt/{shard}.zarr" for shard in SHARDS]
        for shard, tokens, target in zip(SHARDS, features, out, strict=True):
            if section["unfreeze"]:
                adapt.apply_to_photos(head, manifest, shard, target, 1, "cpu")
            else:
                adapt.apply(head, tokens, target, 1, "cpu")
        return out

    return run


def grouped(book: books.Codebook, group: list[int]) -> books.Codebook:
    """The same centroids for other clusters."""
    counts = np.ones(max(group) + 1, np.int64)
    return books.Codebook(book.centroids, counts, 0.0, book.spherical, group=np.array(group, np.int32))


def predicted(
    recipe: Recipe, world: tuple[dict[str, Path], Path], out: Path, threads: int = 1
) -> dict[str, Image.Image]:
    photos = sorted(world[1].parent.glob("*.png"))
    assert predict(photos, recipe.segmenter, out, Wanted(overlays=False, threads=threads, device="cpu")) == Predicted(
        len(photos)
    )
    return {file.stem: Image.open(file) for file in sorted(out.glob("*.png"))}


@pytest.mark.parametrize("name", list(CASES))
def test_images_of_the_run_get_its_masks(
    name: str, world: tuple[dict[str, Path], Path], finish: Finish, tmp_path: Path
) -> None:
    """Bit for bit: the backbone sees one image at a time in both."""
    case = dict(CASES[name])
    recipe = finish(cluster_by=case.pop("cluster", KMEANS), **case)
    wanted, found = recipe.exported(), predicted(recipe, world, tmp_path / "new")
    assert list(found) == list(wanted)
    values = set()
    for key, image in wanted.items():
        np.testing.assert_array_equal(np.asarray(found[key]), np.asarray(image), err_msg=key)
        assert found[key].getpalette() == image.getpalette()
        values |= set(np.unique(np.asarray(image)).tolist())
    assert len(values) > 1
    assert (0 in values) == (name == "foreground")
    assert (255 in values) == (name == "noise")
    assert (recipe.segmenter / "weights").exists() != name.startswith("unfrozen")


def test_batches_and_threads_move_almost_no_cell(
    world: tuple[dict[str, Path], Path], finish: Finish, tmp_path: Path
) -> None:
    recipe = finish(batch_size=8)
    wanted = recipe.exported()
    found = predicted(recipe, world, tmp_path / "new", threads=2)
    moved = [(np.asarray(found[key]) != np.asarray(image)).mean() for key, image in wanted.items()]
    assert np.mean(moved) < 0.002


def test_heads_with_their_own_cnn_take_images_side_by_side(
    world: tuple[dict[str, Path], Path], finish: Finish, tmp_path: Path
) -> None:
    recipe = finish(adapt=HEAD | {"unfreeze": True})
    assert load(recipe.segmenter, "cpu").side_by_side
    one, two = (predicted(recipe, world, tmp_path / str(n), threads=n) for n in (1, 2))
    for key, image in one.items():
        np.testing.assert_array_equal(np.asarray(two[key]), np.asarray(image))


def test_what_does_not_fit_is_named(finish: Finish, tmp_path: Path) -> None:
    recipe = finish(adapt=HEAD)
    about = read_json(recipe.segmenter / "features.json")
    other = about["features"]["semantic"] | {"layer": 1}
    write_json(recipe.segmenter / "features.json", about | {"features": {"semantic": other}})
    with pytest.raises(StoreError, match=r"head\.safetensors was trained on another feature set"):
        load(recipe.segmenter, "cpu")
    write_json(recipe.segmenter / "features.json", about | {"files": ["codebook", "foreground", "head"]})
    with pytest.raises(StoreError, match=r"has lost foreground\.safetensors; copy the whole folder again"):
        load(recipe.segmenter, "cpu")
    write_json(recipe.segmenter / "features.json", {k: v for k, v in about.items() if k != "upsample"})
    with pytest.raises(StoreError, match=r"features\.json: has no upsample"):
        load(recipe.segmenter, "cpu")
    write_json(recipe.segmenter / "features.json", {k: v for k, v in about.items() if k != "features"})
    with pytest.raises(StoreError, match=r"features\.json: names no feature sets"):
        load(recipe.segmenter, "cpu")


def test_a_folder_that_segments_nothing_says_the_way_out(tmp_path: Path) -> None:
    folder, made = tmp_path / "export", Provenance.of("export", {})
    with pytest.raises(StoreError, match=r"holds neither student\.safetensors nor codebook\.safetensors; expected"):
        load(tmp_path)
    write_json(folder / "export.json", {"recipe": "dsm", "segmenter": None}, made)
    for given in (folder, folder / "segmenter"):
        with pytest.raises(StoreError, match=r"recipe dsm clusters the regions of a cut.*rounds: \{count: 1\}"):
            load(given)
    write_json(folder / "export.json", {"recipe": "dsm", "segmenter": "student"}, made)
    with pytest.raises(StoreError, match=r"holds no segmenter; give .*export/segmenter"):
        load(folder / "student")
    write_json(folder / "export.json", {"recipe": "dsm"}, made)
    with pytest.raises(StoreError, match="an export of an older version"):
        load(folder)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_values_come_back_as_from_a_store(dtype: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 5, 6)).astype(np.float32)
    with RaggedWriter(tmp_path / "s.zarr", "features", depth=6, dtype=dtype) as out:
        out.append("a", values)
    stored, found = Ragged(tmp_path / "s.zarr")["a"], as_stored(values, dtype)
    np.testing.assert_array_equal(found, stored)
    assert found.dtype == stored.dtype
    values[0, 0, 0] = np.nan
    with pytest.raises(NumericsError, match=f"NaN or infinite values .stored as {dtype}"):
        as_stored(values, dtype)


def test_parts_that_were_lost_in_copying_are_named(finish: Finish) -> None:
    recipe = finish()
    about = read_json(recipe.segmenter / "features.json")
    weights = next((recipe.segmenter / "weights").glob("*.safetensors"))
    assert f"weights/{weights.stem}" in about["files"]
    for lost in (weights, recipe.segmenter / "codebook.safetensors", recipe.segmenter / "features.json"):
        lost.unlink()
        with pytest.raises(StoreError, match=rf"has lost .*{lost.stem}.*; copy the whole folder again"):
            load(recipe.segmenter, "cpu")
        if lost.suffix == ".safetensors":
            about["files"] = [name for name in about["files"] if not name.endswith(lost.stem)]
            write_json(recipe.segmenter / "features.json", about)
            (recipe.segmenter / "codebook.safetensors").touch()


def test_no_photo_is_overwritten(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(InputError, match=r"would overwrite the photo .*a\.png; give another folder"):
        predict([tmp_path], tmp_path / "segmenter", tmp_path, Wanted(overlays=False, threads=1))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.overlay.jpg")
    (tmp_path / "b").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "b/a.png")
    with pytest.raises(InputError, match=r"would overwrite the photo .*a\.overlay\.jpg"):
        predict([tmp_path / "b", tmp_path / "a.overlay.jpg"], tmp_path / "segmenter", tmp_path, Wanted(threads=1))
    assert (tmp_path / "b/a.png").read_bytes() == before


def test_images_that_are_too_large_name_the_option(finish: Finish, tmp_path: Path) -> None:
    recipe = finish()
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "big.png")
    made = predict([tmp_path / "big.png"], recipe.segmenter, tmp_path / "o", Wanted(overlays=False, max_pixels=71))
    assert made.masks == 0
    assert re.fullmatch(r"9x8 pixels.*raise --max-pixels", made.failed[tmp_path / "big.png"])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_broken_image_stops_no_other(
    threads: int, world: tuple[dict[str, Path], Path], finish: Finish, tmp_path: Path
) -> None:
    recipe = finish()
    photos = tmp_path / "photos"
    (photos / "b").mkdir(parents=True)
    whole = sorted(world[1].parent.glob("*.png"))[0]
    for name in ("a.png", "c.png"):
        (photos / name).write_bytes(whole.read_bytes())
    Image.open(whole).convert("RGB").resize((300, 200)).save(photos / "b/cut short.jpg")
    body = (photos / "b/cut short.jpg").read_bytes()
    (photos / "b/cut short.jpg").write_bytes(body[: len(body) // 2])
    done = CliRunner().invoke(
        app, ["predict", str(photos), "--segmenter", str(recipe.segmenter), "--out", str(tmp_path / "out"),
              "--device", "cpu", "--threads", str(threads)]
    )  # fmt: skip
    assert done.exit_code == 1
    assert sorted(file.name for file in (tmp_path / "out").rglob("*.*")) == [
        "a.overlay.jpg", "a.png", "c.overlay.jpg", "c.png",
    ]  # fmt: skip
    assert "2 masks in" in done.stdout
    last = done.stderr.splitlines()[-2:]
    assert last[0] == "maskmill predict: 1 of 3 images have no mask:"
    assert last[1].startswith(f"{photos}/b/cut short.jpg: does not decode (image file is truncated")
