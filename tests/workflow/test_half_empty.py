"""A picture whose lower half holds no data gets the masks that its upper half gets alone, and `ignore` below."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import whole_run
import yaml
from half_scene import CHOSEN, SIDE, STRIDE, pair
from PIL import Image
from scored_run import write_run

from maskmill.adapt._data import TokenImages
from maskmill.adapt._neighbours import vectors
from maskmill.cluster.run import _images as images_of
from maskmill.cut.run import inside
from maskmill.cut.run import run as cut
from maskmill.evaluate.confusion import Confusion
from maskmill.evaluate.readout import Half, Labels
from maskmill.evaluate.run import run as evaluate
from maskmill.evaluate.truth import Truth
from maskmill.foreground import attention
from maskmill.foreground import run as foreground
from maskmill.foreground._votes import UNIT
from maskmill.images.instances import VOID, Instances
from maskmill.images.masks import MaskSet
from maskmill.images.nodata import nearest_valid
from maskmill.images.photos import read_shown
from maskmill.paint.instances import instances_of
from maskmill.predict.segmenter import load
from maskmill.regions.run import keep_large
from maskmill.regions.run import run as regions
from maskmill.report import _facts, _pictures
from maskmill.rounds._masks import Masks
from maskmill.rounds._training import Sources
from maskmill.rounds.run import MaskFiles, Round, Seen, StudentFiles, _detected, predict, train
from maskmill.rounds.token_head.features import LabelledFeatures
from maskmill.store import codebook as books
from maskmill.store.artefact import read_json, read_tensors
from maskmill.store.codebook import Codebook
from maskmill.store.manifest import Row
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.taxonomy import ShardVectors
from maskmill.taxonomy._survey import maps

CUTS: dict[str, dict[str, Any]] = {
    "grid": {"method": "grid", "rows": 1, "columns": 3},
    "kmeans": {"method": "kmeans", "segments": 3},
    "ncut": {"method": "ncut", "tau": 0.3},
    "refined": {"method": "grid", "rows": 1, "columns": 3, "refine": {"method": "guided"}},
}


def check(masks: Ragged, alone: Ragged) -> None:
    """The masks of whole and cropped files are the same where there is data; elsewhere they are ignore."""
    rows = SIDE // 2 * 4 // STRIDE
    for image_id in alone.ids:
        mask, valid = masks[image_id], masks.valid(image_id)
        if image_id == "im3":
            assert valid is None
            assert (mask == alone[image_id]).all()
            continue
        assert valid is not None
        assert valid[:rows].all()
        assert not valid[rows:].any()
        assert (mask[:rows] == alone[image_id]).all()
        assert (mask[rows:] == 255).all()
    assert (masks["none"] == 255).all()
    assert alone.valid_rows is None


@pytest.mark.parametrize("paint", [{}, {"refine": {"method": "guided"}}, {"abstain": 0.2}], ids=str)
def test_clusters_of_tokens(tmp_path: Path, paint: dict[str, Any]) -> None:
    whole, cropped = pair(tmp_path)
    masks, alone = whole.tokens_recipe(**paint), cropped.tokens_recipe(**paint)
    check(masks, alone)
    assert len(np.unique(alone["im0"])) >= 3
    assert whole.scores() == cropped.scores()
    store = Ragged(whole.folder / "features/s0.zarr")
    assert store.attrs["mean_cosine"] == Ragged(cropped.folder / "features/s0.zarr").attrs["mean_cosine"]
    half = SIDE // STRIDE // 2
    assert (store["im0"][half:] == store["im0"][half - 1]).all()  # the nearest with data stands in


@pytest.mark.parametrize("name", CUTS)
def test_clusters_of_segments(tmp_path: Path, name: str) -> None:
    whole, cropped = pair(tmp_path)
    masks, alone = whole.regions_recipe(CUTS[name]), cropped.regions_recipe(CUTS[name])
    check(masks, alone)
    assert whole.scores() == cropped.scores()
    assert whole.object_scores() == cropped.object_scores()
    cut = Ragged(whole.folder / "cut/s0.zarr", "segments")
    for image_id in cut.ids:
        valid = cut.valid(image_id)
        if valid is not None:
            assert not cut[image_id][~valid].any()


def test_a_student_learns_and_predicts_nothing_where_there_is_no_data(tmp_path: Path) -> None:
    masks: dict[str, Ragged] = {}
    for scene in pair(tmp_path):
        scene.tokens_recipe()
        tokens, student, out = (scene.folder / name for name in ("features/s0.zarr", "s.safetensors", "round1/s0.zarr"))
        section = {"count": 1, "features": ["f"], "steps": 20, "batch_size": 2}
        train(
            Sources({"f": [tokens]}),
            [scene.folder / "masks/s0.zarr"],
            section,
            StudentFiles(student),
            round=Round(1, 0, 3),
        )
        predict(student, {"f": tokens}, MaskFiles(out, scene.folder / "sure/s0.zarr"), section)
        masks[scene.folder.name] = Ragged(out, "masks")
    whole = masks["whole"]
    for image_id in whole.ids:
        valid = whole.valid(image_id)
        assert (whole[image_id] != 255).all() if valid is None else ((whole[image_id] == 255) == ~valid).all()
    assert not whole.valid("none").any()  # type: ignore[union-attr]


def test_an_export_and_a_prediction_say_ignore_and_count_what_is_shown(tmp_path: Path) -> None:
    whole, cropped = pair(tmp_path)
    shares = {}
    for scene in (whole, cropped):
        scene.tokens_recipe()
        with (scene.exported() / "clusters.csv").open() as file:
            shares[scene.folder.name] = [(row["pixels"], row["share"]) for row in csv.DictReader(file)]
    assert shares["whole"] == shares["cropped"]
    mask = np.asarray(Image.open(whole.folder / "export/masks/im0.png"))
    assert mask.shape == (SIDE, SIDE)
    assert ((mask == 255) == (np.arange(SIDE) >= SIDE // 2)[:, None]).all()
    segmenter = load(whole.folder / "export/segmenter", "cpu")
    for row in whole.rows:
        shown = read_shown(row)
        found = segmenter.mask(shown.pixels, shown.valid)
        assert (found == np.asarray(Image.open(whole.folder / f"export/masks/{row.id}.png"))).all()


def test_a_scene_without_nodata_has_no_such_array(tmp_path: Path) -> None:
    _, cropped = pair(tmp_path)
    cropped.tokens_recipe()
    assert not list(cropped.folder.rglob("valid"))


RECIPE = {
    "features": {"semantic": CHOSEN.model_dump(include={"backbone", "stride"}) | {"size": {"long_side": SIDE}}},
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 3, "spherical": False},
    "paint": {"upsample": 4},
}


@pytest.mark.slow
def test_a_run_on_files_with_nodata_is_that_on_the_cropped_ones(tmp_path: Path, programs: Path) -> None:
    """Snakemake from the files: what they declare decides, and nothing is configured for it."""
    scenes, masks, scores = pair(tmp_path), [], []
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    for scene in scenes:
        folder, work = scene.folder, tmp_path / f"run of {scene.folder.name}"
        for kind, suffix in (("photos", "tif"), ("labels", "png")):
            (folder / kind).mkdir()
            for file in folder.glob(f"*.{suffix}"):
                file.rename(folder / kind / file.name)
        whole_run.run(
            work,
            {
                "images": str(folder / "photos"),
                "labels": str(folder / "labels"),
                "recipes": [str(tmp_path / "own.yaml")],
            },
            programs,
        )
        round0 = work / "results/recipes/own/seed0/round0"
        (path,) = (round0 / "masks").glob("*.zarr")
        masks.append(Ragged(path, "masks"))
        scores.append(read_json(round0 / "scores.json")["scores"][0]["accuracy"])
        found = np.asarray(Image.open(work / "results/recipes/own/seed0/export/masks/im0.png"))
        assert ((found == 255) == (np.arange(len(found)) >= SIDE // 2)[:, None]).all()
        assert (work / "results/report.html").is_file()
    check(*masks)
    assert scores[0] == scores[1] > 0.9


# stages one by one: a grid [4, 4] whose right half shows no data, and whose values there would be seen at once

HALF = np.tile([True, True, False, False], (4, 1))
WRONG = 1e4


def store(path: Path, kind: str, values: dict[str, np.ndarray], shown: dict[str, np.ndarray], **how: Any) -> Path:
    """A Ragged of images, of which `shown` says where they show data, with attributes or fields for all."""
    attrs = how.pop("attrs", {})
    dtype = how.pop("dtype", "float32")
    depth = next(iter(values.values())).shape[2] if next(iter(values.values())).ndim == 3 else None
    with RaggedWriter(path, kind, depth=depth, dtype=dtype, attrs=attrs) as out:
        for image_id, value in values.items():
            out.append(image_id, value, valid=shown.get(image_id), **how)
    return path


def halves(depth: int = 2) -> np.ndarray:
    """Two rows of one kind of token above two of another, and beside them what nobody is to see."""
    tokens = np.zeros((4, 4, depth), np.float32)
    tokens[:2, :, 0], tokens[2:, :, 1] = 1, 1
    tokens[~HALF] = WRONG
    return tokens


def test_a_cut_is_that_of_the_box_around_the_data(tmp_path: Path) -> None:
    own, valid = halves(), HALF.copy()
    valid[0] = False  # so the box is [3, 2]
    path = store(tmp_path / "s.zarr", "features", {"x": own, "whole": np.ones((4, 4, 2), np.float32)}, {"x": valid})
    cut(path, {"features": "f", "method": "grid", "rows": 3, "columns": 2}, tmp_path / "cut.zarr", 0, 1, "cpu")
    found = Ragged(tmp_path / "cut.zarr", "segments")
    assert found["x"].tolist() == [[0, 0, 0, 0], [1, 2, 0, 0], [3, 4, 0, 0], [5, 6, 0, 0]]
    assert (found.valid("x") == valid).all()
    assert found.valid("whole") is None
    assert (found["whole"] > 0).all()


def test_images_with_nodata_are_cut_one_by_one_beside_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Place:
        """A device that is asked for as CUDA and computes as the CPU."""

        type = "cuda"

        def __str__(self) -> str:
            return "cpu"

    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((6, 6, 4)).astype(np.float32) for name in ("a", "b", "c")}
    path = store(tmp_path / "s.zarr", "features", values, {"b": np.arange(36).reshape(6, 6) % 6 < 4})
    found = []
    for name in ("alone", "together"):
        cut(path, {"features": "f", "method": "ncut"}, tmp_path / f"{name}.zarr", 0, 1, "cpu")
        found.append(Ragged(tmp_path / f"{name}.zarr", "segments"))
        monkeypatch.setattr("maskmill.cut.run.pick", lambda _: Place())
    for image_id in values:
        assert (found[0][image_id] == found[1][image_id]).all()
    assert found[0].valid("b") is not None


def test_segments_keep_their_ids_where_others_are_lost() -> None:
    valid = np.array([[True, False], [True, True]])
    segments = np.array([[1, 2], [3, 4]], np.uint8)
    everywhere = slice(None), slice(None)
    assert inside(segments, valid, everywhere).tolist() == [[1, 0], [3, 4]]
    assert inside(segments, None, everywhere) is segments
    fine = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert inside(fine, valid, (slice(0, 2), slice(0, 2)), 2)[:2].tolist() == [[0, 1, 0, 0], [4, 5, 0, 0]]


def test_no_vector_of_a_region_holds_what_shows_no_data(tmp_path: Path) -> None:
    """Also where the tokens are of another feature set, whose grid is not that of the cut."""
    segments = np.ones((8, 8), np.uint8)
    segments[:, 6:] = 2
    tokens = store(tmp_path / "t.zarr", "features", {"x": nearest_valid(halves(), HALF)}, {"x": HALF})
    cuts = store(tmp_path / "c.zarr", "segments", {"x": segments}, {}, dtype="uint8", confidence=np.float32(1))
    regions(cuts, tokens, {"features": "f", "pool": "mean"}, tmp_path / "t.parquet", tmp_path / "v.zarr")
    np.testing.assert_allclose(Ragged(tmp_path / "v.zarr")["x"][:, 0], [[0.5, 0.5]] * 2)
    own = np.where(HALF, 1, 0).astype(np.uint8)
    own[0, 0] = 2
    assert keep_large(own, 0.1)[0, 0] == 0  # 1 of 16
    assert keep_large(own, 0.1, int(HALF.sum()))[0, 0] == 2  # 1 of 8


def test_painted_instances_have_a_void_where_there_is_no_data() -> None:
    segments = np.array([[1, 1, 2, 2]] * 4, np.uint8)
    table = np.zeros(256, np.uint8)
    table[1], table[2] = 1, 2
    found = instances_of(segments, table, HALF)
    assert found.labels.tolist() == [1, VOID]
    assert (found.masks[1] == ~HALF).all()
    assert instances_of(segments, table).labels.tolist() == [1, 2]


def test_labels_teach_no_student_where_there_is_no_data(tmp_path: Path) -> None:
    attrs = {"clusters": 2, "ignore": 255}
    masks = store(tmp_path / "m.zarr", "masks", {"x": np.where(HALF, 1, 255).astype(np.uint8)}, {"x": HALF},
                  dtype="uint8", attrs=attrs)  # fmt: skip
    held = store(tmp_path / "h.zarr", "masks", {"x": np.full((4, 4), 2, np.uint8)}, {}, dtype="uint8", attrs=attrs)
    taught = Masks([masks], 3, held=held)
    assert ((taught["x"] == 2) == HALF).all()
    assert taught.counts.tolist() == [0, 0, 8]


def test_a_student_scales_its_features_by_what_shows_data(tmp_path: Path) -> None:
    tokens = store(tmp_path / "t.zarr", "features", {"x": halves()}, {"x": HALF})
    masks = store(tmp_path / "m.zarr", "masks", {"x": np.where(HALF, 1, 255).astype(np.uint8)}, {}, dtype="uint8")
    images = LabelledFeatures({"f": [tokens]}, Masks([masks], 2), 0)
    images.fit_projections(2, 1000, 0)
    assert np.abs(images.projections["f"].mean).max() <= 1


def test_scores_leave_out_nodata_and_nothing_else(tmp_path: Path) -> None:
    """A cell that is ignore for another reason stays wrong."""
    mask = np.array([[1, 1, 255, 255], [1, 255, 255, 255], [2, 2, 255, 255], [2, 2, 255, 255]], np.uint8)
    label = np.array([[1, 1, 2, 2]] * 2 + [[2, 2, 1, 1]] * 2, np.uint8)
    write_run(tmp_path, {"x": (mask, label)}, clusters=2)
    (tmp_path / "m").mkdir()
    store(
        tmp_path / "m/s0.zarr", "masks", {"x": mask}, {"x": HALF}, dtype="uint8", attrs={"clusters": 2, "ignore": 255}
    )
    out, run = tmp_path / "scores.json", MaskSet("r", 0, 0)
    evaluate([tmp_path / "m/s0.zarr"], tmp_path / "manifest.parquet", {"objects": True}, out, run)
    assert read_json(out)["scores"][0]["accuracy"] == pytest.approx(7 / 8)
    evaluate([tmp_path / "s0.zarr", tmp_path / "s1.zarr"], tmp_path / "manifest.parquet", {}, out, run)
    assert read_json(out)["scores"][0]["accuracy"] == pytest.approx(7 / 16)


def test_objects_lose_what_shows_no_data() -> None:
    objects = np.array([[1, 1, 1, 0], [0, 0, 0, 2]], np.int32)
    valid = np.array([[True, True, False, False]] * 2)
    found = Truth(objects, np.zeros((2, 4), bool), 2).without(valid)
    assert found.objects.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert found.count == 1
    assert (found.void == ~valid).all()


def test_a_read_out_learns_and_is_scored_on_valid_tokens(tmp_path: Path) -> None:
    confusion = Confusion(2, [0, 1], [])
    confusion.add(np.array([[0, 1]]), np.array([[0, 0]]), np.array([[True, False]]))
    assert confusion.counts.tolist() == [[1, 0], [0, 0]]
    tokens = store(tmp_path / "t.zarr", "features", {"x": halves()}, {"x": HALF})
    label = tmp_path / "x.png"
    Image.fromarray(np.tile([[1]], (8, 8)).astype(np.uint8)).save(label)
    rows = {"x": Row("x", "x", 8, 8, "s", str(label))}
    half = Half(["x"], Labels(rows), {"x": Ragged(tokens)}, [1])
    ((_, _, mass),) = half.images()
    assert (mass[:, 0] == HALF.ravel()).all()


def test_nearest_images_are_found_by_what_shows_data(tmp_path: Path) -> None:
    """An image without any is no item, and none of a head's images."""
    values = {"a": halves(), "b": np.ones((4, 4, 2), np.float32), "none": halves()}
    path = store(tmp_path / "t.zarr", "features", values, {"a": HALF, "none": np.zeros((4, 4), bool)})
    ids, x = vectors([path], "none")
    assert ids == ["a", "b"] == TokenImages([path], 1).ids
    np.testing.assert_allclose(x, [[0.5, 0.5], [1, 1]])
    assert (vectors([path], "five")[1] <= WRONG).all()


def test_a_survey_and_labelled_vectors_know_nothing_there(tmp_path: Path) -> None:
    path = store(tmp_path / "s.zarr", "features", {"x": nearest_valid(halves(), HALF)}, {"x": HALF})
    book = Codebook(np.eye(2, dtype=np.float32), np.ones(2, np.int64), 0.0, True)
    ((_, values, margins),) = maps(ShardVectors(path), book, ["x"])
    assert values[:, 0].tolist() == [1, 1, 2, 2]
    assert not values[~HALF].any()
    assert not margins[~HALF].any()


def test_the_report_shows_nothing_and_counts_nothing(tmp_path: Path) -> None:
    mask = np.array([[1, 1, 255, 255]] * 2 + [[2, 255, 255, 255]] * 2, np.uint8)
    cells = _facts.shown(mask, HALF)
    assert len(cells) == 8
    assert (cells == 255).sum() == 2
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    image = Image.open(io.BytesIO(base64.b64decode(_pictures.mask_uri(mask, colours, HALF).split(",")[1])))
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert ((alpha == 0) == ~HALF).all()
    image = Image.open(io.BytesIO(base64.b64decode(_pictures.segments_uri(mask // 2, HALF).split(",")[1])))
    assert ((np.asarray(image.convert("RGBA"))[..., 3] == 0) == ~HALF).all()
    assert _pictures.mask_uri(mask, colours) == _pictures.mask_uri(mask, colours, None)


def test_what_occurs_together_is_asked_of_the_box_around_the_data(tmp_path: Path) -> None:
    values = {"a": halves(), "b": np.ones((4, 4, 2), np.float32), "none": halves()}
    path = store(tmp_path / "t.zarr", "features", values, {"a": HALF, "none": np.zeros((4, 4), bool)})
    found = [vectors for vectors, _ in images_of([Ragged(path)])()]
    assert [vectors.shape for vectors in found] == [(4, 2, 2), (4, 4, 2), (0, 4, 2)]
    assert found[0].max() == 1


def test_precision_of_a_foreground_counts_valid_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = store(tmp_path / "t.zarr", "features", {"x": nearest_valid(halves(), HALF)}, {"x": HALF})
    book = Codebook(np.eye(2, dtype=np.float32), np.ones(2, np.int64), 0.0, True)
    books.write(tmp_path / "book.safetensors", book, Provenance.of("cluster", {}, []))
    monkeypatch.setattr(foreground, "cls_queries", lambda *_: [None])
    monkeypatch.setattr(attention, "mask", lambda *_: np.tile([True, False, False, False], (4, 1)))
    out = tmp_path / "votes.safetensors"
    foreground.count(tokens, tokens, tmp_path / "book.safetensors", {"method": "attention"}, out)
    votes = read_tensors(out)[0]
    assert votes["tokens"].tolist() == [4, 4]
    assert (votes["precision"] == UNIT // 2).all()


def test_a_student_of_instances_finds_none_where_there_is_no_data() -> None:
    found = Instances(np.ones((1, 4, 4), bool), np.array([3]), np.ones(1, np.float32))
    student = SimpleNamespace(instances=lambda view: found)
    assert _detected(student, Seen(None)) is found  # type: ignore[arg-type]
    pixels = HALF.repeat(8, axis=0).repeat(8, axis=1)
    kept, shown = _detected(student, Seen(None, pixels)).apart()  # type: ignore[arg-type]
    assert shown is not None
    assert (shown == HALF).all()
    assert (kept.masks[0] == HALF).all()
