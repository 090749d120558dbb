"""The scaling by standard deviations against scipy's whitening, in blocks, out of sample, and at its edges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.cluster.vq import whiten

from maskmill.errors import NumericsError
from maskmill.reduce import unit_variance
from maskmill.reduce.unit_variance import Params


def fitted(x: np.ndarray, size: int = 7) -> dict[str, np.ndarray]:
    def blocks() -> Iterator[np.ndarray]:
        return (x[a : a + size] for a in range(0, len(x), size))

    return unit_variance.fit(blocks, Params())[0]


def published(x: np.ndarray) -> np.ndarray:
    """MaskDistill: divided by the standard deviations, then unit length."""
    x = whiten(x.astype(np.float64))
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_it_is_scipys_whitening_and_unit_length(offset: float) -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((60, 12)) * rng.uniform(0.1, 9, 12) + rng.standard_normal(12) + offset).astype("f4")
    for size in (7, 1000):
        found = unit_variance.transform(x, fitted(x, size), Params())
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, published(x), atol=2e-6)
    plain = unit_variance.transform(x, fitted(x), Params(normalise=False))
    np.testing.assert_allclose(plain, whiten(x.astype(np.float64)), rtol=1e-4)


def test_a_vector_depends_on_the_model_and_itself_only() -> None:
    x = np.random.default_rng(1).standard_normal((40, 5)).astype("f4")
    model = fitted(x)
    whole = unit_variance.transform(x, model, Params())
    np.testing.assert_array_equal(unit_variance.transform(x[3:4], model, Params())[0], whole[3])
    assert unit_variance.depth(model) == 5


@pytest.mark.filterwarnings("ignore:Some columns have standard deviation zero")
def test_a_dimension_that_does_not_vary_stays_as_it_is() -> None:
    x = np.random.default_rng(2).standard_normal((30, 4)).astype("f4")
    x[:, 2] = 0.1
    np.testing.assert_allclose(unit_variance.transform(x, fitted(x), Params()), published(x), atol=2e-6)
    zero = unit_variance.transform(np.zeros((1, 4), "f4"), fitted(x), Params())
    np.testing.assert_array_equal(zero, 0)


def test_faults_have_names() -> None:
    with pytest.raises(NumericsError, match="there are no vectors to fit on"):
        unit_variance.fit(lambda: iter([]), Params())
    bad = np.ones((3, 2), "f4")
    bad[1, 1] = np.nan
    with pytest.raises(NumericsError, match="NaN or infinite"):
        fitted(bad)
    with pytest.raises(NumericsError, match="vectors of length 3 do not fit a model of 2"):
        unit_variance.transform(np.ones((1, 3), "f4"), fitted(np.eye(2, dtype="f4")), Params())
