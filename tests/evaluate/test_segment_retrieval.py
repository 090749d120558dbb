"""Nearest-segment retrieval: a plain reference, majorities, ties, void tokens, the bank, and scores of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scored_run import write_run

from maskmill.errors import ConfigError, InputError
from maskmill.evaluate import readout
from maskmill.evaluate import segment_retrieval as module
from maskmill.evaluate.retrieval import Memory
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate, Retrieval, SegmentRetrieval
from maskmill.store.artefact import read_json
from maskmill.store.ragged import RaggedWriter

H, W, D, CLASSES = 8, 9, 6, 3
PARAMS = SegmentRetrieval(parts=3, iterations=4, neighbours=4)


def half(count: int = 4, seed: int = 0) -> Any:
    """Images of three materials, of which a class is made each, with noise."""
    draws = np.random.default_rng(seed)
    materials = draws.standard_normal((CLASSES, D))
    ids = [f"i{i}" for i in range(count)]
    tokens, mass = {}, {}
    for image_id in ids:
        kinds = np.kron(draws.integers(0, CLASSES, (2, 3)), np.ones((4, 3), int))
        tokens[image_id] = (materials[kinds] + 0.4 * draws.standard_normal((H, W, D))).astype(np.float32)
        mass[image_id] = np.eye(CLASSES, dtype=np.float32)[kinds.ravel()]
        mass[image_id][draws.random(H * W) < 0.1] = 0  # void

    def images(chosen: Any = None) -> Any:
        return ((i, tokens[i].reshape(-1, D), mass[i]) for i in (ids if chosen is None else chosen))

    stores = dict.fromkeys(ids, SimpleNamespace(grid=np.array([[H, W]]), index=lambda image_id: 0))
    return SimpleNamespace(ids=ids, images=images, stores=stores, tokens=tokens, mass=mass)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def naive(learnt: Any, tokens: np.ndarray, params: SegmentRetrieval) -> np.ndarray:
    """The class of every token, segment by segment and vote by vote."""
    memory = []
    for image_id in learnt.ids:
        rows, mass = unit(learnt.tokens[image_id].reshape(-1, D)), learnt.mass[image_id]
        places = module.segments_of(rows.reshape(H, W, D), params)
        for segment in np.unique(places):
            inside = [i for i in range(len(rows)) if places[i] == segment and mass[i].sum() > 0]
            if inside:
                votes = [int(mass[i].argmax()) for i in inside]
                best = max(range(CLASSES), key=lambda c: (votes.count(c), -c))
                memory.append((unit(sum(rows[i] for i in inside if mass[i].argmax() == best)), best))
    rows = unit(tokens.reshape(-1, D))
    places = module.segments_of(rows.reshape(H, W, D).astype(np.float32), params)
    predicted = np.zeros(len(rows), int)
    for segment in np.unique(places):
        mean = unit(rows[places == segment].sum(0))
        near = sorted(memory, key=lambda each: -float(each[0] @ mean))[: params.neighbours]
        votes = [each[1] for each in near]
        predicted[places == segment] = max(range(CLASSES), key=lambda c: (votes.count(c), -c))
    return predicted.reshape(H, W)


def test_classes_are_those_of_a_plain_reference() -> None:
    learnt, other = half(), half(seed=0, count=6)
    reader = module.learn(learnt, validate(Evaluate, {"segment_retrieval": PARAMS.model_dump()}, "x"), 0, 1).reader
    for image_id in other.ids:
        scores = reader.scores(other.tokens[image_id])
        assert scores.shape == (CLASSES, H, W)
        assert (scores.sum(0) == PARAMS.neighbours).all()
        np.testing.assert_array_equal(scores.argmax(0), naive(learnt, other.tokens[image_id], PARAMS))


def test_the_vector_of_a_labelled_segment_is_that_of_its_majority() -> None:
    learnt = half(1)
    tokens = np.zeros((H, W, D), np.float32)
    tokens[..., 0] = 1
    tokens[0, 0, :2] = 0, 1  # one token of another class and direction
    mass = np.tile(np.eye(CLASSES, dtype=np.float32)[1], (H * W, 1))
    mass[0] = np.eye(CLASSES)[2]
    learnt.tokens["i0"], learnt.mass["i0"] = tokens, mass
    keys, labels = module.fill(learnt, SegmentRetrieval(parts=1), 0)
    np.testing.assert_allclose(keys, np.eye(D)[:1])
    np.testing.assert_array_equal(labels, np.eye(CLASSES)[1:2])


def test_void_tokens_are_in_no_segment_and_all_void_is_said() -> None:
    learnt = half(2)
    for mass in learnt.mass.values():
        mass[:] = 0
    with pytest.raises(InputError, match="no pixel of the scored classes"):
        module.fill(learnt, PARAMS, 0)


def test_the_bank_limits_the_images() -> None:
    learnt = half(6)
    keys, _ = module.fill(learnt, SegmentRetrieval(parts=3, bank=18), 0)
    assert 0 < len(keys) <= 18


def test_fewer_labelled_segments_than_neighbours() -> None:
    keys = torch.eye(2)
    reader = module.SegmentMemory(Memory(keys, torch.eye(2), Retrieval(neighbours=15)), SegmentRetrieval(parts=1))
    assert reader.scores(np.ones((3, 3, 2), np.float32)).sum(0).tolist() == [[2.0] * 3] * 3


def test_scores_of_a_run(tmp_path: Path) -> None:
    """Two materials beside each other in every image, in a random order: their segments find each other."""
    draws, images = np.random.default_rng(0), {}
    for n in range(10):
        grid = np.repeat(draws.permutation(2)[None].repeat(6, 0), 4, axis=1)  # [6, 8]
        tokens = np.eye(5)[grid] + 0.1 * draws.standard_normal((6, 8, 5))
        images[f"i{n}"] = tokens.astype(np.float32), np.kron(grid, np.ones((3, 3), int)) + 4
    write_run(tmp_path, {i: (np.zeros(label.shape, int), label) for i, (_, label) in images.items()})
    store = tmp_path / "set/s0.zarr"
    with RaggedWriter(store, "features", depth=5, dtype="float32") as out:
        for image_id, (tokens, _) in images.items():
            out.append(image_id, tokens)
    asked, section = readout.Asked("segment_retrieval"), {"segment_retrieval": {"neighbours": 3}}
    readout.read_out(asked, [store], tmp_path / "manifest.parquet", section, tmp_path / "s.json")
    (entry,) = read_json(tmp_path / "s.json")["scores"]
    assert entry["protocol"]["name"] == "segment_retrieval"
    assert entry["protocol"]["details"]["neighbours"] == 3
    assert entry["diagnostics"]["segments"] > 5
    assert entry["miou"] > 0.9


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"segment_retrieval\.parts: .*found 0"):
        validate(Evaluate, {"segment_retrieval": {"parts": 0}}, "config")
