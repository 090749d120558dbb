"""h-NNE: the stored arrays against the package's own transform, its levels as clusterings, determinism, faults."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from maskmill.errors import ConfigError, NumericsError
from maskmill.reduce.hnne import Params, _package, _solve, depth, fit, levels, prepare, transform

SMALL = Params(dimensions=4)


def clusters(n: int = 900, d: int = 10, k: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Far Gaussians [n, d] float32 and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, k, n)
    return (5 * np.random.default_rng(9).standard_normal((k, d))[label] + rng.standard_normal((n, d))).astype(
        "f4"
    ), label


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("hnne"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs the package hnne, which is not installed; .* pip install hnne"):
        fit(lambda: iter([clusters()[0]]), SMALL, 0)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_transform_is_that_of_the_package(metric: str) -> None:
    x, new = clusters()[0], clusters(200, seed=1)[0]
    params = Params(dimensions=4, metric=metric)  # type: ignore[arg-type]
    model, diagnostics = fit(lambda: (x[start : start + 128] for start in range(0, len(x), 128)), params, 3)
    theirs = _solve(_package(), x, params, 3)
    fitted = prepare(model, params)
    expected = theirs.transform(new)
    np.testing.assert_allclose(transform(new, fitted, params), expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(levels(new, fitted), theirs.hierarchy_parameters.new_points_cluster_assignments)
    assert (levels(x, fitted) == theirs.hierarchy_parameters.partitions).mean() >= diagnostics["kept"]
    kept = (levels(x, fitted)[:, 0] == theirs.hierarchy_parameters.partitions[:, 0]).mean()
    assert diagnostics["kept"] == pytest.approx(kept)
    assert depth(model) == 4


def test_levels_join_and_are_clusterings() -> None:
    x, label = clusters()
    model, diagnostics = fit(lambda: iter([x]), SMALL, 0)
    found = levels(x, prepare(model, SMALL))
    assert diagnostics["finest"] == found[:, 0].max() + 1
    for fine, coarse in zip(found.T, found.T[1:], strict=False):  # each group lies in one group of the next level
        assert len(np.unique(np.stack([fine, coarse], 1), axis=0)) == len(np.unique(fine))
    pure = [np.bincount(label[found[:, 0] == group]).max() for group in np.unique(found[:, 0])]
    assert sum(pure) / len(x) > 0.95


def test_the_same_bytes_twice_and_rows_by_themselves() -> None:
    x, new = clusters(6000)[0], clusters(50, seed=1)[0]  # more than ALL_PAIRS: approximate neighbours
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    first, second = (fit(lambda: iter([x]), SMALL, 0)[0] for _ in range(2))
    assert (np.random.get_state()[1] == before).all()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    fitted = prepare(first, SMALL)
    alone = np.concatenate([transform(row[None], fitted, SMALL) for row in new])
    np.testing.assert_allclose(alone, transform(new, fitted, SMALL), rtol=1e-5)


def test_bad_samples_are_named() -> None:
    x = clusters(100)[0]
    bad = x.copy()
    bad[1, 1] = np.nan
    for rows, params, message in (
        (bad, SMALL, "NaN"),
        (np.ones((50, 3), np.float32), SMALL, "all 50 vectors are equal"),
        (x[:4], SMALL, "reduce.dimensions: 4 dimensions need more than the 4"),
        (x, Params(dimensions=11), "reduce.dimensions: 11 is more than the length 10"),
        (x, Params(dimensions=4, memory_gb=0.7), "reduce.max_fit_points"),
        (x[:6], SMALL, "fewer than three groups"),
    ):
        with pytest.raises(NumericsError, match=message):
            fit(lambda rows=rows: iter([rows]), params, 0)
    model, _ = fit(lambda: iter([x]), SMALL, 0)
    with pytest.raises(NumericsError, match="length 3"):
        transform(x[:, :3], prepare(model, SMALL), SMALL)
    with pytest.raises(NumericsError, match="NaN"):
        transform(bad, prepare(model, SMALL), SMALL)
