"""STEGO's linear probe: its training in plain numpy, threads, seeds, images without labels, the whole read-out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scored_run import write_run

from maskmill.errors import ConfigError, NumericsError
from maskmill.evaluate import linear_probe_online as online
from maskmill.evaluate import readout
from maskmill.numerics.sampling import batch_rows
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate, OnlineProbe
from maskmill.store.artefact import read_json
from maskmill.store.ragged import RaggedWriter


def halves(images: int = 9, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens and masses of images of different sizes."""
    draws = np.random.default_rng(seed)
    sizes = draws.integers(3, 12, images)
    tokens = [draws.standard_normal((m, 5)).astype("f4") for m in sizes]
    return tokens, [(draws.dirichlet(np.ones(3), m) * draws.random((m, 1))).astype("f4") for m in sizes]


def reference(
    tokens: list[np.ndarray], mass: list[np.ndarray], params: OnlineProbe, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Softmax regression by Adam (Kingma and Ba, algorithm 1) in float64: weight, bias, last loss."""
    weight, bias = (part.astype(np.float64) for part in online.start(5, 3, seed))
    both = np.concatenate([weight, bias[None]])
    first, second, loss = np.zeros_like(both), np.zeros_like(both), 0.0
    for step in range(params.steps):
        chosen = batch_rows(step, params.batch_size, len(tokens), seed, "linear_probe_online")
        x = np.concatenate([tokens[i] for i in chosen]).astype(np.float64)
        x, y = np.concatenate([x, np.ones((len(x), 1))], 1), np.concatenate([mass[i] for i in chosen])
        share = np.exp(x @ both)
        share /= share.sum(axis=1, keepdims=True)
        loss = float(-(y * np.log(share)).sum() / y.sum())
        gradient = x.T @ (share * y.sum(axis=1, keepdims=True) - y) / y.sum()
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        ahead = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        both -= params.learning_rate * ahead[0] / (np.sqrt(ahead[1]) + 1e-8)
    return both[:-1], both[-1], loss


@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_training_is_softmax_regression_by_adam(batch_size: int) -> None:
    (tokens, mass), params = halves(), OnlineProbe(steps=80, batch_size=batch_size)
    model, loss = online.train(tokens, mass, params, 2, "cpu")
    weight, bias, wanted = reference(tokens, mass, params, 2)
    np.testing.assert_allclose(model.weight, weight, atol=1e-5)
    np.testing.assert_allclose(model.bias, bias, atol=1e-5)
    assert loss == pytest.approx(wanted, abs=1e-5)


def test_bits_depend_on_the_seed_only() -> None:
    (tokens, mass), params = halves(), OnlineProbe(steps=30, batch_size=4)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(online.train(tokens, mass, params, 0, "cpu")[0].weight)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0], online.train(tokens, mass, params, 1, "cpu")[0].weight)


def test_extreme_features_are_an_error() -> None:
    tokens, mass = halves()
    tokens[0][0, 0] = np.inf
    with pytest.raises(NumericsError, match="linear_probe_online: the loss is not finite"):
        online.train(tokens, mass, OnlineProbe(steps=9, batch_size=4), 0, "cpu")


def scored(folder: Path, params: dict[str, Any], void: int = 0) -> dict[str, Any]:
    """The read-out of eight images of one-hot tokens, some of them wholly void."""
    draws = np.random.default_rng(3)
    grids = {f"i{n}": draws.choice([4, 5, 6], (6, 9), p=[0.5, 0.3, 0.2]) for n in range(8)}
    train, _ = readout.split(list(grids))
    labels = {i: np.full_like(grid, 255) if i in train[:void] else grid for i, grid in grids.items()}
    write_run(folder, {i: (np.ones_like(label), label) for i, label in labels.items()})
    with RaggedWriter(folder / "set/s0.zarr", "features", depth=3, dtype="float32") as out:
        for image_id, grid in grids.items():
            out.append(image_id, 3 * np.eye(3)[grid - 4])
    asked, target = readout.Asked("linear_probe_online"), folder / "out.json"
    readout.read_out(asked, [folder / "set/s0.zarr"], folder / "manifest.parquet", params, target)
    return read_json(target)


@pytest.mark.parametrize("void", [0, 1])
def test_one_hot_classes_are_read_without_error(tmp_path: Path, void: int) -> None:
    params = {"linear_probe_online": {"steps": 300, "batch_size": 2, "learning_rate": 0.05}}
    entry = scored(tmp_path, params, void)["scores"][0]
    assert (entry["miou"], entry["accuracy"]) == (1.0, 1.0)
    assert entry["diagnostics"]["loss"] < 0.1
    assert entry["protocol"]["name"] == "linear_probe_online"
    details = entry["protocol"]["details"]
    assert (details["steps"], details["batch_size"], details["learning_rate"]) == (300, 2, 0.05)


def test_too_few_steps_read_less_and_are_another_protocol(tmp_path: Path) -> None:
    few, many = (
        scored(tmp_path / str(steps), {"linear_probe_online": {"steps": steps, "learning_rate": 0.05}})["scores"][0]
        for steps in (1, 200)
    )
    assert few["diagnostics"]["loss"] > many["diagnostics"]["loss"]
    assert few["protocol"]["hash"] != many["protocol"]["hash"]


def test_the_switch_and_the_keys() -> None:
    assert validate(Evaluate, {"linear_probe_online": True}, "config").linear_probe_online == OnlineProbe()
    assert validate(Evaluate, {"linear_probe_online": True}, "config").readouts == ("linear_probe_online",)
    with pytest.raises(ConfigError, match=r"linear_probe_online\.steps: .*found 0"):
        validate(Evaluate, {"linear_probe_online": {"steps": 0}}, "config")
