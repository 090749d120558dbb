"""Names from text: words, places, crops and scores in closed form with a made-up tower, and a tiny real model."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from maskmill.cli.app import app
from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs, run_again
from maskmill.errors import ConfigError, InputError, NumericsError, StoreError, WeightsError
from maskmill.images.decode import resize
from maskmill.recipe import packages
from maskmill.recipe.base import validate
from maskmill.recipe.resolve import load as resolve
from maskmill.store import classes as kinds
from maskmill.store import codebook as books
from maskmill.store.artefact import write_table
from maskmill.store.classes import BACKGROUND, IGNORE, Classes
from maskmill.store.codebook import Codebook
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter
from maskmill.taxonomy import Clustered, ShardVectors, text
from maskmill.taxonomy import _clip as clip
from maskmill.taxonomy import _recognise as recognise
from maskmill.taxonomy._merge import clusters_of
from maskmill.taxonomy._names import described
from maskmill.taxonomy._places import Look, Place, crops, pieces, square, typical
from maskmill.taxonomy._prompts import TEMPLATES, sentences

ROOT = Path(__file__).parents[2]
INSTALLED = importlib.util.find_spec("open_clip") is not None
needs_open_clip = pytest.mark.skipif(not INSTALLED, reason="open_clip_torch is not installed: pip install -e '.[text]'")
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CPU = torch.device("cpu")
SURE = math.e / (1 + math.e)  # of two classes at temperature 1, one of cosine 1 and one of cosine 0


@dataclass
class Colours:
    """A tower whose embedding of an image is its mean colour, and of a sentence the colours that it names.

    The fourth number is for the word "bad". It counts what it has seen.
    """

    size: tuple[int, int] = (8, 8)
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    scale: float = 1.0
    device: torch.device = CPU
    about: str = "colours"
    seen: int = 0

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (*self.size, 3)
        self.seen += len(images)
        mean = images.reshape(len(images), -1, 3).mean(axis=1) / 255
        return np.concatenate([mean, np.zeros((len(mean), 1))], axis=1).astype(np.float32)

    def encode_text(self, sentences: Sequence[str]) -> np.ndarray:
        return np.array([[float(word in each) for word in (*COLOURS, "bad")] for each in sentences], np.float32)


# ---- words


def test_articles_are_not_said_twice() -> None:
    assert sentences(["a car", "rain"], ["a photo of the {}.", "{}"]) == [
        "a photo of the car.", "a car", "a photo of the rain.", "rain",
    ]  # fmt: skip


def test_a_list_of_names_is_its_own_phrases() -> None:
    params = text.Params(names=["road", "traffic_light"], checkpoint="w")
    assert params.names == {"road": ["road"], "traffic_light": ["traffic light"]}
    assert params.templates == list(TEMPLATES)
    assert text.naming(params, "r") == {"classes": [[1, "road", None], [2, "traffic_light", None]]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": []}, "names: empty"),
        ({"names": {"road": []}}, "names: road: without a phrase"),
        ({"names": {"road": " "}}, "names: road: ' ' is empty"),
        ({"names": ["road", "road"]}, "taxonomy.names: 'road' is given twice"),
        ({"names": {"road": ["a road", "Road"]}}, "names: road: 'Road' is said twice"),
        ({"names": {"road": "asphalt", "street": "the asphalt"}}, "street: 'the asphalt' is said also of 'road'"),
        ({"names": ["road", "ignore"]}, "names: 'ignore' is reserved"),
        ({"names": ["road", 3]}, "3 is no name; quote it"),
        ({"names": ["a\nb"]}, "is no name"),
        ({"background": ["road"]}, "background: 'road' is a class of names as well"),
        ({"templates": ["a photo"]}, "templates: 'a photo' must have one {}"),
        ({"templates": []}, "templates"),
        ({"checkpoint": None}, "model: ViT-B-32 has no weights: give checkpoint"),
        ({"model": "local-dir:x"}, "model: local-dir:x has its weights with it"),
        ({"threshold": 1.5}, "taxonomy.threshold"),
    ],
)
def test_impossible_sections(change: dict[str, Any], said: str) -> None:
    body = {"names": ["road", "car"], "checkpoint": "w"} | change
    with pytest.raises(ConfigError) as error:
        validate(text.Params, body, "config.yaml", "taxonomy")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_phrases_and_templates_are_averaged() -> None:
    """Each sentence of length 1, then their mean of length 1."""
    found = recognise.of_text(Colours(), ["red", "green"], ["{}"])
    assert found == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), 0, 0])
    half = math.sqrt(0.5)
    expected = np.array([1 + half, 0, 0, half]) / math.hypot(1 + half, half)
    assert recognise.of_text(Colours(), ["red"], ["{}", "bad {}"]) == pytest.approx(expected)


# ---- places


def test_pieces_are_connected_and_ranked_by_their_margins() -> None:
    values = np.array([[1, 1, 0, 1], [2, 0, 0, 1], [2, 2, 2, 1]])
    margins = np.array([[9, 9, 50, 5], [1, 0, 0, 5], [1, 1, 1, 5]], np.uint8)
    found = list(pieces("a", values, margins, 9))
    assert [(p.cluster, p.rank, p.weight, p.cells.tolist()) for p in found] == [
        (0, 0, 18, [0, 1]),
        (0, 1, 15, [3, 7, 11]),
        (1, 0, 4, [4, 8, 9, 10]),
    ]
    assert [p.rank for p in pieces("a", values, margins, 1)] == [0, 0]


def one_map(image: str, *rows: str, margin: int = 10) -> tuple[str, np.ndarray, np.ndarray]:
    values = np.array([[int(letter) for letter in row] for row in rows])
    return image, values, np.full(values.shape, margin, np.uint8)


def test_one_place_of_each_image_comes_before_a_second_one() -> None:
    """Image a has the two largest pieces; with two places, b has one of them."""
    found = [one_map("a", "1110111"), one_map("b", "1000000"), one_map("c", "0000001", margin=9)]
    for order in (found, found[::-1]):
        assert [(p.image, p.rank) for p in typical(order, 2)] == [("a", 0), ("b", 0)]
        assert [(p.image, p.rank) for p in typical(order, 4)] == [("a", 0), ("a", 1), ("b", 0), ("c", 0)]


def test_the_choice_does_not_depend_on_the_order_of_the_images() -> None:
    rng = np.random.default_rng(0)
    found = [(f"i{i:02d}", rng.integers(0, 4, (6, 6)), rng.integers(0, 3, (6, 6)).astype(np.uint8)) for i in range(40)]
    expected = [(p.image, p.cluster, p.cells.tolist()) for p in typical(found, 3)]
    assert len(expected) == 9
    for _ in range(3):
        rng.shuffle(found)  # type: ignore[arg-type]
        assert [(p.image, p.cluster, p.cells.tolist()) for p in typical(found, 3)] == expected


@pytest.mark.parametrize(
    ("cells", "photo", "look", "expected"),
    [
        ([5], (40, 40), {"context": 0}, (10, 10, 10)),  # one cell of a 4 x 4 grid
        ([5], (40, 40), {"context": 0.5}, (5, 5, 20)),  # half of it at each end
        ([0], (40, 40), {"context": 0.5}, (0, 0, 20)),  # moved into the photo
        ([5], (40, 40), {"size": (64, 64)}, (7, 7, 16)),  # at least a quarter of the model's side
        ([15], (40, 40), {"context": 0.5}, (20, 20, 20)),  # at its other corner too
        ([0, 1, 2, 3], (40, 80), {"context": 0}, (0, 20, 40)),  # longer than the photo is tall: the middle
    ],
)
def test_a_square_around_a_place(
    cells: list[int], photo: tuple[int, int], look: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    place = Place(0, "a", (4, 4), np.array(cells, np.int32), 1)
    settings: dict[str, Any] = {"size": (8, 8), "context": 0.0, "view": "box", "fill": (0, 0, 0)} | look
    assert square(place, photo, Look(**settings)) == expected


def test_what_surrounds_a_place_is_blanked_out() -> None:
    photo = np.zeros((16, 16, 3), np.uint8)
    photo[:, :8], photo[:, 8:] = 200, 50
    place = Place(0, "a", (2, 2), np.array([0, 2], np.int32), 1)  # the left half
    box, masked = crops(photo, place, Look((16, 16), 0.5, "both", (1, 2, 3)))
    assert np.array_equal(box, photo)
    assert (masked[:, :8] == 200).all()
    assert (masked[:, 8:] == (1, 2, 3)).all()


# ---- whole fits with the made-up tower


def scene(folder: Path, halves: Mapping[str, tuple[str, str]], shards: Mapping[str, Sequence[str]]) -> Clustered:
    """Photos with two halves of plain colours, whose 4 x 4 tokens are the colours; a cluster a colour."""
    folder.mkdir(parents=True, exist_ok=True)
    found, rows = [], []
    for shard, ids in shards.items():
        with RaggedWriter(folder / f"{shard}.zarr", "features", depth=3) as out:
            for image_id in ids:
                photo = np.zeros((32, 32, 3), np.uint8)
                photo[:, :16], photo[:, 16:] = (COLOURS[each] for each in halves[image_id])
                Image.fromarray(photo).save(folder / f"{image_id}.png")
                out.append(image_id, (photo[4::8, 4::8] / 255).astype(np.float32))
                rows.append((image_id, str(folder / f"{image_id}.png"), 32, 32, shard))
        found.append(ShardVectors(folder / f"{shard}.zarr"))
    table = {key: list(values) for key, values in zip(("id", "path", "width", "height", "shard"), zip(*sorted(rows)))}  # noqa: B905
    write_table(folder / "manifest.parquet", pa.table(table), Provenance.of("inputs", {}))
    book = Codebook(np.eye(3, dtype=np.float32), np.array([30, 10, 10]), 0.0, True)
    return Clustered(book, None, found, folder / "manifest.parquet")


HALVES = {"a": ("red", "green"), "b": ("red", "blue"), "c": ("green", "blue")}
ONE = {"s0": ("a", "b", "c")}


def fitted(monkeypatch: pytest.MonkeyPatch, given: Clustered, tower: Colours | None = None, **change: Any) -> Classes:
    weights = Path(given.manifest).parent / "weights"
    weights.write_bytes(b"1")
    monkeypatch.setattr(clip, "load", lambda *_: tower or Colours())
    body = {"names": ["red", "green"], "checkpoint": str(weights), "view": "masked", "templates": ["{}"]} | change
    params = text.Params(**body)
    found, held = text.fit(text.grouping(params, "r"), given)
    assert held == {}
    return found


def owners(found: Classes, given: Clustered) -> list[int]:
    return [clusters_of(found, given.book)[cluster, None][0] for cluster in (1, 2, 3)]


def test_clusters_get_the_names_that_they_look_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = scene(tmp_path, HALVES, ONE)
    found = fitted(monkeypatch, given, names={"grass": ["green"], "brick": ["red"]}, background={"sky": "blue"})
    assert owners(found, given) == [2, 1, BACKGROUND]
    sure = math.e / (2 + math.e)
    assert found.confidence == pytest.approx([sure, sure])
    assert (found.kind, found.count, found.notes) == ("merged", 2, ())
    params = text.Params(names={"grass": ["green"], "brick": ["red"]}, checkpoint="w")
    body = described(found, given.book, text.naming(params, "r"))
    assert [(each["name"], each["clusters"]) for each in body["classes"]] == [("grass", ["2"]), ("brick", ["1"])]


def test_a_cluster_is_the_mean_of_its_crops(tmp_path: Path) -> None:
    """Red beside green in one photo and beside blue in another, each seen with its neighbour and alone."""
    given = scene(tmp_path, HALVES, ONE)
    settings = recognise.Settings([["red"]], [], ["{}"], 2, 0.5, "both", None, 0.5, 0.0, "ignore")
    found = recognise.of_clusters(settings, Colours(), given)
    beside = math.sqrt(0.5)
    expected = np.array([2 * beside + 2, beside, beside, 0])
    assert found[0] == pytest.approx(expected / np.linalg.norm(expected))


def test_the_temperature_is_that_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fitted(monkeypatch, scene(tmp_path, HALVES, ONE), Colours(scale=3.0))
    assert found.confidence == pytest.approx([1 / (1 + math.exp(-3))] * 2)


def test_names_of_the_background_are_no_rivals_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look like red, and have 0.42 of it each."""
    given = scene(tmp_path, HALVES, ONE)
    found = fitted(monkeypatch, given, names=["green"], background=["red", "bright_red"], threshold=0.45)
    assert owners(found, given) == [BACKGROUND, 1, BACKGROUND]
    found = fitted(monkeypatch, given, names=["red", "green"], background={"red things": "bright red"}, threshold=0.45)
    assert owners(found, given) == [IGNORE, 2, IGNORE]


def test_the_confidence_of_a_class_is_by_the_points_of_its_clusters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One class between red (30 points) and green (10 points), at 22.5 degrees from red."""
    given = scene(tmp_path, HALVES, ONE)
    found = fitted(monkeypatch, given, names={"warm": ["red", "red green"], "blue": "blue"})
    assert owners(found, given) == [1, 1, 2]
    red, green = (1 / (1 + math.exp(-f(math.pi / 8))) for f in (math.cos, math.sin))
    assert found.confidence[0] == pytest.approx((30 * red + 10 * green) / 40)


def test_every_photo_is_decoded_once_and_every_place_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, tower, read = scene(tmp_path, HALVES, ONE), Colours(), []
    monkeypatch.setattr(
        "maskmill.taxonomy._places.read_photo", lambda row: read.append(row.id) or np.zeros((32, 32, 3), np.uint8)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(InputError, match="none of 3 clusters looks enough"):
        fitted(monkeypatch, given, tower, view="both")
    assert read == ["a", "b", "c"]
    assert tower.seen == 12  # six halves, each with and without its surroundings
    tower.seen = 0
    with pytest.raises(InputError):
        fitted(monkeypatch, given, tower, crops=1)
    assert tower.seen == 3


def test_unsure_clusters_stay_unnamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blue is as far from red as from green: a tie, which no margin and no threshold may decide."""
    given = scene(tmp_path, HALVES, ONE)
    found = fitted(monkeypatch, given, threshold=0.0)
    assert owners(found, given) == [1, 2, IGNORE]
    assert found.notes == ("clusters that stay unnamed: 3 (red 0.50, green 0.50)",)
    assert found.confidence == pytest.approx([SURE, SURE])
    found = fitted(monkeypatch, given, unnamed="background", threshold=SURE - 1e-3)
    assert owners(found, given) == [1, 2, BACKGROUND]
    found = fitted(monkeypatch, given, unnamed="keep")
    assert (owners(found, given), found.count) == ([1, 2, 3], 3)
    assert np.isnan(found.confidence[2])
    body = described(found, given.book, {"classes": [[1, "red", None], [2, "green", None]]})
    assert body["classes"][2]["name"] == "cluster 3"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"threshold": SURE + 1e-3}, False),
        ({"threshold": SURE - 1e-3}, True),
        ({"margin": 2 * SURE - 1 + 1e-3, "threshold": 0.0}, False),
        ({"margin": 2 * SURE - 1 - 1e-3, "threshold": 0.0}, True),
        ({"threshold": 0.99, "temperature": 0.1}, True),
    ],
)
def test_how_sure_a_name_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], named: bool
) -> None:
    given = scene(tmp_path, HALVES, ONE)
    if named:
        assert owners(fitted(monkeypatch, given, **change), given) == [1, 2, IGNORE]
    else:
        with pytest.raises(
            InputError, match=r"none of 3 clusters looks enough like any of 2 names \(best: 1 \(red 0.7"
        ):
            fitted(monkeypatch, given, **change)


def test_surroundings_count_unless_they_are_blanked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The square around a half is the whole photo: seen with its surroundings, red is half red and half green."""
    given = scene(tmp_path, {"a": ("red", "green")}, {"s0": ("a",)})
    with pytest.raises(InputError, match=r"red 0\.50, green 0\.50"):
        fitted(monkeypatch, given, view="box")
    assert owners(fitted(monkeypatch, given, view="masked"), given)[:2] == [1, 2]
    assert owners(fitted(monkeypatch, given, view="both"), given)[:2] == [1, 2]


def test_clusters_that_are_nowhere_and_names_without_clusters_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = scene(tmp_path, {"a": ("red", "red")}, {"s0": ("a",)})
    found = fitted(monkeypatch, given)
    assert owners(found, given) == [1, IGNORE, IGNORE]
    assert found.notes == ("clusters without a place in the sample of the images: 2, 3", "no cluster looks like: green")
    assert np.isnan(found.confidence[1])


def test_neither_shards_nor_their_order_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts: Iterable[dict[str, Sequence[str]]] = (ONE, {"s0": ("c",), "s1": ("a", "b")}, {"s1": ("c", "b"), "s0": "a"})
    found = []
    for i, layout in enumerate(layouts):
        given = scene(tmp_path / str(i), HALVES, layout)
        found.append(fitted(monkeypatch, given, view="both", crops=2))
    for other in found[1:]:
        assert other.confidence.tobytes() == found[0].confidence.tobytes()
        assert all(np.array_equal(value, found[0].tensors[key]) for key, value in other.tensors.items())


def test_noise_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = scene(tmp_path, HALVES, ONE)
    noisy = Codebook(np.eye(3, dtype=np.float32), np.array([30, 10]), 0.0, True, group=np.array([0, 1, -1]))
    given = Clustered(noisy, None, given.shards, given.manifest)
    found = fitted(monkeypatch, given)
    assert found.columns[found.tensors["leaf_column"]].tolist() == [1, 2, IGNORE]


def test_what_cannot_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = scene(tmp_path, HALVES, {"s0": ("a", "b"), "s1": ("c",)})
    with pytest.raises(StoreError, match="nothing for shard 's1'"):
        fitted(monkeypatch, Clustered(given.book, None, given.shards[:1], given.manifest))
    broken = Colours()
    broken.encode_image = lambda images: np.full((len(images), 4), np.nan)  # type: ignore[method-assign]
    with pytest.raises(NumericsError, match=r"taxonomy\.model: its embeddings hold NaN"):
        fitted(monkeypatch, given, broken)
    (tmp_path / "b.png").write_bytes(b"gone")
    with pytest.raises(InputError, match="it changed since the inputs were checked"):
        fitted(monkeypatch, given)


def test_weights_that_change_after_planning(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"1")
    params = text.Params(names=["red"], checkpoint=str(weights))
    planned = text.grouping(params, "r")
    weights.write_bytes(b"22")
    with pytest.raises(ConfigError, match=r"weights\.pt: changed since the run was planned"):
        text.fit(planned, Clustered(Codebook(np.eye(2), np.ones(2), 0.0, True), None, [], tmp_path))


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the command line to the names, on the device that is asked for."""
    given, asked = scene(tmp_path, HALVES, ONE), []
    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    books.write(tmp_path / "book.safetensors", given.book)
    monkeypatch.setattr(clip, "load", lambda *given: asked.append(given) or Colours())
    params = text.Params(names={"leaf": "green", "brick": "red"}, checkpoint=str(weights), templates=["{}"])
    body = {"source": "text", "grouping": text.grouping(params, "r"), "max_fit_points": 10}
    options = {
        "vectors": tmp_path, "codebook": tmp_path / "book.safetensors", "manifest": given.manifest,
        "params": json.dumps(body), "out": tmp_path / "classes.safetensors", "held": tmp_path / "held.zarr",
    }  # fmt: skip
    words = ["taxonomy", "fit", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]
    done = CliRunner().invoke(app, words, env={"MASKMILL_DEVICE": "cpu"})
    assert done.exit_code == 0, done.output
    assert asked == [("ViT-B-32", None, str(weights), CPU)]
    found = kinds.read(tmp_path / "classes.safetensors")
    assert owners(found, given) == [2, 1, IGNORE]
    assert found.notes == ("clusters that stay unnamed: 3 (green 0.50, red 0.50)",)
    (tmp_path / "c.png").write_bytes(b"gone")
    done = CliRunner().invoke(app, words, env={"MASKMILL_DEVICE": "cpu"})
    assert done.exit_code == 1


# ---- planning


def made(section: dict[str, Any]) -> dict[str, Job]:
    config = {"recipes": ["kmeans"], "labels": "labels", "taxonomy": section}
    return jobs(Graph(resolve(config, ROOT / "recipes"), lambda: ("s0000000000",)))


def test_another_name_paints_nothing_and_other_words_do(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"1")
    section = {"source": "text", "names": {"road": "road", "car": "car"}, "checkpoint": str(weights)}
    before = made(section)

    def again(**change: Any) -> set[str]:
        return {job.rule for job in run_again(before, made(section | change)).values()}

    assert again(names={"street": "road", "car": "car"}) == {"taxonomy_names", "evaluate", "export", "report"}
    painted = {"taxonomy_fit", "paint", "taxonomy_names", "evaluate", "export", "report"}
    assert again(names={"road": ["road", "street"], "car": "car"}) == painted
    weights.write_bytes(b"22")
    assert again() == painted


def test_the_fit_asks_for_what_a_network_needs(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"1")
    section = {"source": "text", "names": ["road"], "checkpoint": str(weights)}
    graph = Graph(resolve({"recipes": ["kmeans"], "taxonomy": section}, ROOT / "recipes"), lambda: ("s0",))
    other = Graph(resolve({"recipes": ["kmeans"]}, ROOT / "recipes"), lambda: ("s0",))
    wildcards = {"recipe": "kmeans", "seed": "0"}
    assert graph.network("taxonomy_fit", wildcards)
    assert not other.network("taxonomy_fit", wildcards)
    assert graph.needs("taxonomy_fit", wildcards).memory > other.needs("taxonomy_fit", wildcards).memory


def test_names_of_models_and_files_are_checked_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip, "models", lambda: frozenset({"ViT-B-32", "RN50"}))
    monkeypatch.setattr(clip, "_tags", lambda model: frozenset({"openai", "laion2b_s34b_b79k"}))
    for change, said in (
        ({"model": "ViT-B32", "pretrained": "openai"}, r"'ViT-B32' is no model .* \(did you mean 'ViT-B-32'\?\)"),
        (
            {"pretrained": "open-ai"},
            r"'open-ai': no such weights of ViT-B-32 \(did you mean 'openai'\?\); known: laion",
        ),
        ({"checkpoint": str(tmp_path / "no.pt")}, r"taxonomy\.checkpoint: '.*no.pt' does not exist"),
        ({"checkpoint": str(tmp_path)}, r"taxonomy\.checkpoint: .* is a folder"),
        ({"model": f"local-dir:{tmp_path}"}, "open_clip_config.json does not exist"),
    ):
        with pytest.raises(ConfigError, match=said):
            made({"source": "text", "names": ["road"], **change})
    made({"source": "text", "names": ["road"], "pretrained": "laion2b-s34b-b79k"})


def test_a_missing_package_is_named_before_the_first_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"1")
    monkeypatch.setattr(packages, "_installed", lambda package: package != "open_clip")
    section = {"source": "text", "names": ["road"], "checkpoint": str(weights)}
    run = resolve({"recipes": ["kmeans"], "taxonomy": section}, ROOT / "recipes")
    with pytest.raises(
        ConfigError, match=r'taxonomy\.source: text needs the Python package open_clip_torch.*"\.\[text'
    ):
        packages.check_packages(run)
    packages.check_packages(resolve({"recipes": ["kmeans"]}, ROOT / "recipes"))


# ---- a tiny model of open_clip, with weights at random

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
LOOK = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return published(tmp_path / "model", CONFIG)


def published(folder: Path, config: dict[str, Any]) -> Path:
    """A folder as open_clip reads and publishes them."""
    from maskmill.backbones.network import import_timm

    import_timm()
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    torch.manual_seed(0)
    network = open_clip.CLIP(**config)
    save_file(
        {name: value.clone() for name, value in network.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": LOOK}))
    return folder


@needs_open_clip
@pytest.mark.parametrize("vision", [CONFIG["vision_cfg"], TIMM], ids=["own", "timm"])
def test_a_model_sees_what_open_clip_sees(tmp_path: Path, vision: dict[str, Any]) -> None:
    model, side = published(tmp_path / "model", CONFIG | {"vision_cfg": vision}), vision["image_size"]
    import open_clip

    tower = clip.load(f"local-dir:{model}", None, None, CPU)
    assert (tower.size, tower.mean) == ((side, side), (0.5, 0.4, 0.3))
    assert tower.scale == pytest.approx(1 / 0.07, rel=1e-5)
    theirs, transform = open_clip.create_model_from_pretrained(f"local-dir:{model}")
    photo = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    with torch.inference_mode():
        image = theirs.eval().encode_image(transform(Image.fromarray(photo))[None]).numpy()
        words = theirs.encode_text(open_clip.get_tokenizer(f"local-dir:{model}")(["a red car", "sky"])).numpy()
    assert tower.encode_image(photo[None]) == pytest.approx(image, abs=1e-5)
    assert tower.encode_text(["a red car", "sky"]) == pytest.approx(words, abs=1e-5)


@needs_open_clip
def test_a_whole_fit_is_what_the_model_says(tmp_path: Path, model: Path) -> None:
    """One place of each cluster: cosines by hand."""
    given = scene(tmp_path / "run", HALVES, ONE)
    params = text.Params(
        names={"one": "red", "two": "green"}, model=f"local-dir:{model}", templates=["a {} photo"], crops=1, view="box",
        threshold=0.0, temperature=0.01,
    )  # fmt: skip
    text.serves(params, "r", ["r"])
    grouping = text.grouping(params, "r")
    assert len(grouping["content"]) == 2
    found, _ = text.fit(grouping, given)
    tower = clip.load(f"local-dir:{model}", None, None, CPU)
    photos = [
        Image.open(tmp_path / f"run/{image}.png") for image in ("a", "a", "b")
    ]  # where red, green, blue come first
    images = tower.encode_image(np.stack([resize(np.asarray(photo), (32, 32)) for photo in photos])).astype(np.float64)
    words = tower.encode_text(["a red photo", "a green photo"]).astype(np.float64)
    cosines = (images / np.linalg.norm(images, axis=1)[:, None]) @ (words / np.linalg.norm(words, axis=1)[:, None]).T
    assert owners(found, given) == (1 + cosines.argmax(axis=1)).tolist()
    odds = 1 / (1 + np.exp(-np.abs(cosines[:, 0] - cosines[:, 1]) / 0.01))
    for number in set(owners(found, given)):
        mine = np.array(owners(found, given)) == number
        assert found.confidence[number - 1] == pytest.approx(np.average(odds[mine], weights=given.book.counts[mine]))
    again, _ = text.fit(grouping, given)
    assert again.confidence.tobytes() == found.confidence.tobytes()


@needs_open_clip
def test_weights_in_a_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    (tmp_path / "tiny-test.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-test.json")
    weights = model / "open_clip_model.safetensors"
    photo = np.zeros((1, 32, 32, 3), np.uint8)
    tower = clip.load("tiny-test", None, str(weights), CPU)
    assert tower.about.startswith(f"tiny-test, {weights} (sha256 ")
    assert tower.mean == open_clip.OPENAI_DATASET_MEAN
    state = open_clip.factory.load_state_dict(str(weights))
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "trained.pt")
    same = clip.load("tiny-test", None, str(tmp_path / "trained.pt"), CPU)
    assert np.array_equal(same.encode_image(photo), tower.encode_image(photo))
    assert same.about[-25:] == tower.about[-25:]
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: {"ours": LOOK}.get(tag, {}))
    assert clip.load("tiny-test", "ours", str(weights), CPU).mean == (0.5, 0.4, 0.3)
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: ["ours", "others"])
    assert clip.load("tiny-test", None, str(weights), CPU).mean == (0.5, 0.4, 0.3)


@needs_open_clip
@pytest.mark.parametrize("kind", ["pickle", "text", "numpy", "other"])
def test_files_that_are_no_weights(tmp_path: Path, kind: str) -> None:
    import pickle

    from safetensors.torch import save_file

    path = {"pickle": "w.pt", "text": "w.safetensors", "numpy": "w.npz", "other": "o.safetensors"}[kind]
    file = tmp_path / path
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Path("/"), protocol=2))
    elif kind == "other":
        save_file({"weight": torch.zeros(2)}, file)
    else:
        file.write_text("no weights")
    with pytest.raises(
        WeightsError, match=r"taxonomy\.checkpoint: .* does not load as RN50 \(.*\); give its weights"
    ) as error:
        clip.load("RN50", None, str(file), CPU)
    assert "\n" not in str(error.value)


@needs_open_clip
def test_weights_that_cannot_be_fetched_or_are_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", offline)
    with pytest.raises(
        WeightsError, match=r"could not load the weights 'openai' of RN50 .*no route to host.*checkpoint:"
    ):
        clip.load("RN50", "openai", None, CPU)
    (model / "open_clip_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"could not load local-dir:.*check the folder"):
        clip.load(f"local-dir:{model}", None, None, CPU)


@needs_open_clip
def test_a_tokenizer_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = CONFIG | {"text_cfg": CONFIG["text_cfg"] | {"hf_tokenizer_name": "no/tokenizer"}}
    model = published(tmp_path / "model", foreign)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsError, match=r"its tokenizer does not load .* needs the Python package transformers"):
        clip.load(f"local-dir:{model}", None, None, CPU)


@needs_open_clip
def test_names_are_read_without_importing_the_package() -> None:
    import open_clip

    clip.models.cache_clear()
    assert clip.models() <= set(open_clip.list_models())
    assert len(clip.models()) > 100
    for name in ("ViT-B-32", "ViT-L-14-quickgelu", "ViT-B-16-SigLIP"):
        assert set(open_clip.list_pretrained_tags_by_model(name)) <= clip._tags(name)
