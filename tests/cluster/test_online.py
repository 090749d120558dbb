"""STEGO's cluster probe: loss and gradient in closed form, training in plain numpy, threads, seeds, bad points."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from maskmill.cluster import online
from maskmill.errors import NumericsError
from maskmill.numerics import points
from maskmill.numerics.sampling import batch_rows
from maskmill.store import codebook as books

CPU = torch.device("cpu")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cloud(n: int = 600, d: int = 6, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, d))).astype("f4")


def loss_and_gradient(x: np.ndarray, weight: np.ndarray) -> tuple[float, np.ndarray]:
    """By hand, float64: d/dw of -mean cos(x, w) over the x nearest to w is -(x - cos u) / |w|, u = w / |w|."""
    x, lengths = x.astype(np.float64), np.linalg.norm(weight, axis=1, keepdims=True)
    u = weight / lengths
    cosine = x @ u.T
    best = cosine.argmax(axis=1)
    gradient = np.zeros(weight.shape)
    for row, k in zip(x, best, strict=True):
        gradient[k] -= (row - (row @ u[k]) * u[k]) / lengths[k] / len(x)
    return -float(cosine.max(axis=1).mean()), gradient


def adam(x: np.ndarray, params: online.Params, seed: int) -> np.ndarray:
    """Kingma and Ba, algorithm 1, in float64."""
    weight = online.start(params.clusters, x.shape[1], seed).astype(np.float64)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in range(params.steps):
        rows = batch_rows(step, params.batch_size, len(x), seed, "online")
        _, gradient = loss_and_gradient(x[rows], weight)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        bias = np.array([1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)])
        weight -= params.learning_rate * (first / bias[0]) / (np.sqrt(second / bias[1]) + 1e-8)
    return weight


@pytest.mark.parametrize("clusters", [2, 5])
def test_loss_and_gradient_are_those_by_hand(clusters: int) -> None:
    x, start = cloud(), online.start(clusters, 6, 1)
    weight = torch.from_numpy(start).requires_grad_()
    value = online.loss(torch.from_numpy(x), weight)
    value.backward()
    wanted, gradient = loss_and_gradient(x, start.astype(np.float64))
    assert float(value.detach()) == pytest.approx(wanted, abs=1e-6)
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), gradient, atol=1e-6)


def test_the_first_of_equally_near_prototypes_learns() -> None:
    """As published: one-hot of the argmax, no share for the others."""
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    online.loss(torch.tensor([[0.0, 1.0]]), weight).backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, -1.0], [0.0, 0.0]]


def test_training_is_adam_on_batches() -> None:
    x, params = cloud(200), online.Params(clusters=4, steps=60, batch_size=48)
    weight, value = online.train(x, params, 3, CPU)
    reference = adam(x, params, 3)
    np.testing.assert_allclose(weight, reference, atol=1e-5)
    assert value < loss_and_gradient(x, online.start(4, 6, 3).astype(np.float64))[0]


def test_blobs_are_found_and_the_largest_comes_first() -> None:
    draws, truth = np.random.default_rng(0), np.repeat([0, 1, 2], [300, 200, 100])
    x = (np.eye(5)[truth] + 0.1 * draws.standard_normal((600, 5))).astype("f4") * 7  # lengths do not count
    book, diagnostics = online.fit(x, online.Params(clusters=6, steps=400, batch_size=100), 0, "cpu")
    assert diagnostics["loss"] < -0.95
    assert (np.diff(book.counts) <= 0).all()
    assert book.counts.sum() == 600
    assert diagnostics["unused"] == (book.counts == 0).sum()
    np.testing.assert_allclose(np.linalg.norm(book.centroids, axis=1), 1, atol=1e-6)
    labels, _ = books.assign(x, book)
    np.testing.assert_array_equal(np.bincount(labels, minlength=6), book.counts)
    assert adjusted_rand_score(truth, labels) > 0.5  # a blob may be shared by two prototypes, but none has two blobs
    assert all(len(set(truth[labels == k])) <= 1 for k in range(6))


def test_bits_depend_on_the_seed_only() -> None:
    x, params = cloud(700), online.Params(clusters=4, steps=30, batch_size=64)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(online.fit(x, params, 0, "cpu")[0].centroids)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0], online.fit(x, params, 1, "cpu")[0].centroids)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_learns_the_same_prototypes() -> None:
    x, params = cloud(5000, 32), online.Params(clusters=9, steps=50, batch_size=1000)
    one, two = (online.train(x, params, 0, torch.device(device))[0] for device in ("cpu", "cuda"))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_a_stream_gives_the_bits_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    x, params = cloud(700), online.Params(clusters=4, steps=20, batch_size=64)

    def blocks() -> Iterator[np.ndarray]:
        return iter(np.array_split(x, 5))

    whole, streamed = (online.fit(source, params, 0, "cpu")[0] for source in (x, blocks))
    np.testing.assert_array_equal(whole.centroids, streamed.centroids)
    np.testing.assert_array_equal(whole.counts, streamed.counts)
    monkeypatch.setattr(points, "MEMORY_BYTES", 100 * 4 * 6)  # a hundred of them fit
    some = online.fit(blocks, params, 0, "cpu")[0]
    assert some.counts.sum() == 700
    assert not np.array_equal(some.centroids, whole.centroids)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_points_that_are_not_finite_are_an_error(bad: float) -> None:
    x = cloud(50)
    x[7, 2] = bad
    with pytest.raises(NumericsError, match="NaN or infinite"):
        online.fit(x, online.Params(clusters=2, steps=2), 0, "cpu")


def test_one_prototype_for_everything_is_an_error() -> None:
    with pytest.raises(NumericsError, match="one prototype takes every vector"):
        online.fit(np.ones((20, 3), "f4"), online.Params(clusters=2, steps=2), 0, "cpu")


def test_a_batch_takes_everything_once_a_turn() -> None:
    rows = np.concatenate([batch_rows(step, 4, 10, 0, "x") for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    large = batch_rows(1, 25, 10, 0, "x")  # places 25..49
    np.testing.assert_array_equal(large, np.concatenate([batch_rows(s, 5, 10, 0, "x") for s in range(5, 10)]))
