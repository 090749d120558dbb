"""Dense nearest-neighbour retrieval: brute force in plain numpy, the memory and its bound, blocks, threads, jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scored_run import write_run

from maskmill.dag.files import Graph
from maskmill.dag.jobs import jobs, run_again
from maskmill.errors import ConfigError, NumericsError
from maskmill.evaluate import readout, retrieval
from maskmill.evaluate.retrieval import Memory, chosen, directions, rare_first
from maskmill.recipe.base import validate
from maskmill.recipe.resolve import load
from maskmill.recipe.scoring import Evaluate, Retrieval
from maskmill.report import _scores
from maskmill.store.artefact import read_json, write_json
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter

RECIPES = Path(__file__).parents[2] / "recipes"
SHARDS = ("s0000000001", "s0000000002")


def points(count: int, depth: int = 6, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, d] and distributions [n, classes]."""
    draws = np.random.default_rng(seed)
    return draws.standard_normal((count, depth)).astype(np.float32), draws.dirichlet(np.ones(classes), count).astype(
        np.float32
    )


def brute_votes(keys: np.ndarray, labels: np.ndarray, rows: np.ndarray, params: Retrieval) -> np.ndarray:
    """The votes [m, classes] by their definition, one token after the other, in float64."""
    found = []
    for row in rows.astype(np.float64):
        cosine = keys.astype(np.float64) @ row / np.linalg.norm(keys.astype(np.float64), axis=1) / np.linalg.norm(row)
        best = np.argsort(-cosine, kind="stable")[: params.neighbours]
        share = np.exp((cosine[best] - cosine[best].max()) / params.temperature)
        found.append(share / share.sum() @ labels[best])
    return np.array(found)


@pytest.mark.parametrize(("count", "neighbours"), [(300, 30), (300, 1), (7, 30)])
def test_votes_are_those_of_brute_force(count: int, neighbours: int) -> None:
    (keys, labels), rows, params = points(count), points(50, seed=1)[0], Retrieval(neighbours=neighbours)
    votes = Memory.of(directions(keys), labels, params, device="cpu").votes(rows)
    np.testing.assert_allclose(votes, brute_votes(keys, labels, rows, params), atol=1e-5)
    np.testing.assert_allclose(votes.sum(axis=1), 1, atol=1e-6)


def test_the_length_of_a_token_changes_nothing() -> None:
    (keys, labels), rows = points(100), points(20, seed=1)[0]
    memory = Memory.of(directions(keys * 4), labels, Retrieval(), device="cpu")  # powers of two: exact
    np.testing.assert_array_equal(
        memory.votes(rows * 0.25), Memory.of(directions(keys), labels, Retrieval(), device="cpu").votes(rows)
    )


@pytest.mark.parametrize(("rows", "columns"), [(1, 1000), (7, 13), (64, 31), (1000, 1)])
def test_the_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    (keys, labels), tokens = points(200), points(90, seed=1)[0]
    memory = Memory.of(directions(keys), labels, Retrieval(neighbours=15), device="cpu")
    whole = memory.votes(tokens)
    monkeypatch.setattr(retrieval, "ROWS", rows)
    monkeypatch.setattr(retrieval, "COLUMNS", columns)
    np.testing.assert_allclose(memory.votes(tokens), whole, atol=1e-5)


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROWS", 16)
    (keys, labels), tokens = points(500, 32), points(200, 32, seed=1)[0]
    one, two = (Memory.of(directions(keys), labels, Retrieval(), threads, "cpu").votes(tokens) for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_votes_as_the_cpu() -> None:
    (keys, labels), tokens = points(40_000, 64), points(3000, 64, seed=1)[0]
    one, two = (Memory.of(directions(keys), labels, Retrieval(), 1, device).votes(tokens) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_tokens_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(NumericsError, match="retrieval: the features hold NaN"):
        directions(np.array([[1.0, np.nan]]))


def test_a_token_of_zeros_has_no_direction_and_still_votes() -> None:
    labels = np.eye(2, dtype=np.float32)
    memory = Memory.of(directions(np.array([[1.0, 0], [0, 1]])), labels, Retrieval(), device="cpu")
    np.testing.assert_allclose(memory.votes(np.zeros((1, 2))), [[0.5, 0.5]])


# --- the memory -------------------------------------------------------------------------------------------------------


def test_rare_classes_come_first() -> None:
    """By hand: class 0 in four tokens, class 1 in one; keys are 4, 4, 4, 4 + 1, 1 times the draws."""
    mass = np.array([[1, 0], [1, 0], [1, 0], [0.5, 0.5], [0, 0], [0, 0]], np.float32)

    class Draws:
        def __init__(self, values: list[float]) -> None:
            self.values = values

        def random(self, count: int) -> np.ndarray:
            assert count == 4  # a token without a scored pixel is not drawn from
            return np.array(self.values)

    # Frequencies 4 and 1: keys 4 * .9, 4 * .5, 4 * .3, 5 * .2.
    draws: Any = Draws([0.9, 0.5, 0.3, 0.2])
    assert rare_first(mass, 2, draws).tolist() == [2, 3]
    assert rare_first(mass, 4, draws).tolist() == [0, 1, 2, 3]
    mass[3] = [0, 1]  # frequencies 3 and 1: keys 3 * .3, 3 * .4, 3 * .5, 1 * .8
    equal: Any = Draws([0.3, 0.4, 0.5, 0.8])
    assert rare_first(mass, 1, equal).tolist() == [3]


def test_rare_classes_are_kept_more_often_than_by_chance() -> None:
    mass = np.zeros((100, 2), np.float32)
    mass[:95, 0], mass[95:, 1] = 1, 1
    kept = [int((rare_first(mass, 10, np.random.default_rng(seed)) >= 95).sum()) for seed in range(50)]
    assert np.mean(kept) > 4  # 0.5 of the ten by chance


def test_more_images_than_places_give_one_token_each() -> None:
    ids = [f"i{n}" for n in range(40)]
    assert chosen(ids, 100, 0) == ids
    some = chosen(ids, 7, 0)
    assert len(some) == 7
    assert some == [i for i in ids if i in some]
    assert some == chosen(ids, 7, 0) != chosen(ids, 7, 1)


def write_features(folder: Path, images: int = 12, noise: float = 1.0) -> tuple[dict[str, Any], list[Path]]:
    """Images of 4 x 5 tokens, 12 x 15 pixels, three classes and void: {id: (tokens, label)}, and their stores."""
    draws, found = np.random.default_rng(2), {}
    for n in range(images):
        grid = draws.integers(0, 3, (4, 5))
        label = np.kron(grid, np.ones((3, 3), int)) + 4
        label[draws.random(label.shape) < 0.2] = 255
        label[draws.random(label.shape) < 0.1] = 5
        tokens = (np.eye(6)[grid] * 3 + draws.standard_normal((4, 5, 6)) * noise).astype(np.float32)
        found[f"i{n}"] = (tokens, label)
    write_run(folder, {i: (np.zeros(label.shape, int), label) for i, (_, label) in found.items()})
    stores = [folder / "set/s0.zarr", folder / "set/s1.zarr"]
    for number, path in enumerate(stores):
        with RaggedWriter(path, "features", depth=6, dtype="float32") as out:
            for image_id in list(found)[number::2]:
                out.append(image_id, found[image_id][0])
    return found, stores


def scored(folder: Path, stores: list[Path], name: str = "one", seed: int = 0, **params: Any) -> dict[str, Any]:
    out = folder / f"{name}.json"
    asked = readout.Asked("retrieval", seed)
    readout.read_out(asked, stores, folder / "manifest.parquet", {"retrieval": params or True}, out, threads=2)
    return read_json(out)


def test_the_score_is_that_of_brute_force(tmp_path: Path) -> None:
    """Memory, votes, interpolation and IoU once more, in plain numpy."""
    images, stores = write_features(tmp_path)
    params, classes = Retrieval(neighbours=5, temperature=0.1), (4, 5, 6)
    body = scored(tmp_path, stores, neighbours=5, temperature=0.1)
    train, test = readout.split(list(images))
    keys, labels = [], []
    for image_id in train:
        tokens, label = images[image_id]
        for y in range(4):
            for x in range(5):
                cell = label[3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
                share = [float((cell == c).mean()) for c in classes]
                if sum(share):
                    keys.append(tokens[y, x])
                    labels.append(share)
    hits = np.zeros((3, 3), int)
    for image_id in test:
        tokens, label = images[image_id]
        votes = brute_votes(np.array(keys), np.array(labels), tokens.reshape(-1, 6), params).reshape(4, 5, 3)
        at = [np.clip((np.arange(3 * n) + 0.5) / 3 - 0.5, 0, n - 1) for n in (4, 5)]
        tall = [[[np.interp(t, np.arange(4), votes[:, x, c]) for x in range(5)] for t in at[0]] for c in range(3)]
        fine = np.array([[[np.interp(t, np.arange(5), row) for t in at[1]] for row in tall[c]] for c in range(3)])
        for c, wanted in enumerate(classes):
            hits[:, c] += np.bincount(fine.argmax(axis=0)[label == wanted], minlength=3)
    iou = [hits[c, c] / (hits[c].sum() + hits[:, c].sum() - hits[c, c]) for c in range(3)]
    entry = body["scores"][0]
    assert entry["per_class"] == pytest.approx({str(c): value for c, value in zip(classes, iou, strict=True)})
    assert entry["miou"] == pytest.approx(np.mean(iou))
    assert 0.4 < entry["miou"] < 0.99  # else everything above were trivial
    assert entry["diagnostics"] == {"tokens": len(keys)}
    assert entry["protocol"]["name"] == "retrieval"
    assert {k: entry["protocol"]["details"][k] for k in ("bank", "neighbours", "temperature", "train_images")} == {
        "bank": 100_000, "neighbours": 5, "temperature": 0.1, "train_images": len(train),
    }  # fmt: skip


@pytest.mark.parametrize("bank", [1, 3, 12, 40])
def test_the_memory_is_bounded_and_seeded(tmp_path: Path, bank: int) -> None:
    _, stores = write_features(tmp_path)
    first, again, other = (scored(tmp_path, stores, f"{n}", s, bank=bank) for n, s in enumerate((0, 0, 1)))
    assert first == again
    assert first["scores"][0]["diagnostics"]["tokens"] <= bank
    assert first["seed"] != other["seed"]


def test_features_that_tell_the_class_are_read_better_than_noise(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    clear, blurred = (
        scored(tmp_path / name, write_features(tmp_path / name, noise=noise)[1])["scores"][0]["miou"]
        for name, noise in (("a", 0.1), ("b", 30.0))
    )
    assert clear > 0.6 > blurred


# --- configuration, jobs, report --------------------------------------------------------------------------------------


def test_the_switch_and_the_keys() -> None:
    on, off = (validate(Evaluate, {"retrieval": value}, "config") for value in (True, False))
    assert (on.retrieval, off.retrieval) == (Retrieval(), None)
    assert (on.readouts, off.readouts) == (("retrieval",), ())
    with pytest.raises(ConfigError, match=r"retrieval\.temperature: .*found 0"):
        validate(Evaluate, {"retrieval": {"temperature": 0}}, "config")
    with pytest.raises(ConfigError, match="neighbours"):
        validate(Evaluate, {"retrieval": {"neighbors": 3}}, "config")


def graph(recipe: str = "stego", **evaluate: Any) -> Graph:
    config = {"recipes": [recipe], "labels": "labels", "preset": "small", "seeds": [0, 1], "evaluate": evaluate}
    return Graph(load(config, RECIPES), lambda: SHARDS)


def test_a_read_out_more_runs_alone() -> None:
    """The linear probe and the scores of the masks depend on no key of the retrieval."""
    before, now = jobs(graph(linear_probe=True)), jobs(graph(linear_probe=True, retrieval=True))
    made = run_again(before, now).values()
    assert {(job.rule, job.wildcards.get("readout")) for job in made} == {
        ("evaluate_probe", "retrieval"), ("evaluate_codes", "retrieval"), ("report", None),
    }  # fmt: skip
    other = run_again(now, jobs(graph(linear_probe=True, retrieval={"bank": 7}))).values()
    assert {(job.rule, job.wildcards.get("readout")) for job in other} == {
        ("evaluate_probe", "retrieval"), ("evaluate_codes", "retrieval"), ("report", None),
    }  # fmt: skip


def test_a_larger_memory_asks_for_more() -> None:
    wildcards = {"features": "x", "readout": "retrieval"}
    assert graph(retrieval=True).needs("evaluate_probe", wildcards).memory == 6000
    large = graph(retrieval={"bank": 10_240_000})
    assert large.needs("evaluate_probe", wildcards).memory > 10_240_000 * 1024 * 4 / 1e6
    assert large.needs("evaluate_probe", wildcards | {"readout": "linear_probe"}).memory == 6000


def test_params_of_a_job_are_the_section_without_what_it_ignores() -> None:
    (job, *_) = (j for j in jobs(graph(retrieval=True)).values() if j.rule == "evaluate_probe")
    section = json.loads(job.depends)
    section.pop("version")
    assert validate(Evaluate, section, "params").retrieval == Retrieval()
    assert not {"objects", "protocols", "linear_probe"} & set(section)


def test_the_report_has_a_table_for_each_read_out(tmp_path: Path) -> None:
    for name in ("linear_probe", "retrieval"):
        entry = {"accuracy": 0.5, "miou": 0.5, "discovered": 2, "images": 4, "per_class": {}}
        entry["protocol"] = {"name": name, "hash": name}
        for place in (f"evaluate/{name}/one.json", f"recipes/stego/seed0/adapt_{name}.json"):
            body = {"features": "one", "seed": 0, "dimensions": 3, "scores": [entry]}
            write_json(tmp_path / place, body, Provenance.of("evaluate", {}))
    files = _scores.read_readouts(tmp_path, {"one": ["stego"]}, [0], ["linear_probe", "retrieval"])
    boards = _scores.boards(files, _scores.PROBES)
    assert [(board.title, len(board.rows)) for board in boards] == [("Linear probe", 2), ("Nearest labelled tokens", 2)]
    assert set(_scores.READINGS) >= {board.name for board in boards}
