"""Bounds of all pairs: the labels are those of all distances, whatever moves; threads and small problems."""

from __future__ import annotations

import numpy as np
import pytest

from maskmill.numerics import kmeans, lloyd_elkan
from maskmill.numerics.blocks import one_thread
from maskmill.numerics.lloyd_cpu import CpuEngine


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lloyd_elkan, "CLUSTERS", 2)
    monkeypatch.setattr(lloyd_elkan, "PAIRS", 1)


def nearest(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Squared distances [n, k] float64."""
    return ((x[:, None].astype(np.float64) - c[None]) ** 2).sum(axis=2)


@pytest.mark.parametrize("jump", [0.0, 0.02, 0.3, 30.0])
@pytest.mark.usefixtures("always")
def test_every_step_labels_by_the_nearest_centroid(jump: float) -> None:
    """Centroids that stay, creep, run, and leave the points behind."""
    draws = np.random.default_rng(0)
    x = draws.standard_normal((9000, 5)).astype(np.float32)
    c = x[draws.choice(9000, 40, replace=False)]
    with one_thread():
        engines = [CpuEngine(x, 40, threads) for threads in (1, 3)]
        kinds = set()
        for step in range(12):
            kinds.add(engines[0].plain > 0)
            sums, counts = engines[0].step(c)
            apart = nearest(x, c)
            labels = engines[0].labels
            assert (apart[np.arange(9000), labels] <= apart.min(axis=1) + 1e-5 * apart.max()).all()
            np.testing.assert_array_equal(counts, np.bincount(labels, minlength=40))
            expected = np.stack([np.bincount(labels, column, 40) for column in x.T.astype(np.float64)], axis=1)
            np.testing.assert_allclose(sums, expected, atol=1e-8)
            for a, b in zip((sums, counts), engines[1].step(c), strict=True):
                np.testing.assert_array_equal(a, b)
            few = draws.random((40, 1)) < 0.3
            c = (c + jump * few * draws.standard_normal(c.shape) * (1 if step % 5 else 0)).astype(np.float32)
    assert False in kinds  # steps by bounds


@pytest.mark.usefixtures("always")
def test_points_that_all_lie_at_the_origin() -> None:
    with one_thread():
        engine = CpuEngine(np.zeros((50, 3), np.float32), 2, 1)
        for _ in range(3):
            _, counts = engine.step(np.zeros((2, 3), np.float32))
            assert counts.tolist() == [50, 0]


def test_a_fit_is_that_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(0)
    x = (draws.standard_normal((60, 6))[draws.integers(60, size=3000)] + 0.4 * draws.standard_normal((3000, 6))).astype(
        np.float32
    )
    own = kmeans.Settings(clusters=30, restarts=1, tolerance=0.0, iterations=40)
    plain, _ = kmeans.fit(x, own, 0, "cpu")
    monkeypatch.setattr(lloyd_elkan, "CLUSTERS", 2)
    monkeypatch.setattr(lloyd_elkan, "PAIRS", 1)
    bounded, _ = kmeans.fit(x, own, 0, "cpu")
    np.testing.assert_allclose(bounded.centroids, plain.centroids, atol=1e-6)
    np.testing.assert_array_equal(bounded.counts, plain.counts)


def test_where_they_are_used() -> None:
    assert lloyd_elkan.worthwhile(200_000, 500)
    assert not lloyd_elkan.worthwhile(200_000, 27)  # few clusters
    assert not lloyd_elkan.worthwhile(8000, 500)  # few pairs
    assert not lloyd_elkan.worthwhile(10_000_000, 500)  # ten gigabytes
