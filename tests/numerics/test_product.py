"""Product quantisation: closed forms, the error, what the result does not depend on, and odd input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maskmill.errors import NumericsError
from maskmill.numerics.product import Encoder, allocate, finite, fit


def correlated(count: int = 4000, depth: int = 16, seed: int = 0) -> np.ndarray:
    """Points whose variances fall by a half from one direction to the next, none of them along an axis."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((depth, depth)))[0]
    return ((rng.standard_normal((count, depth)) * 2.0 ** -np.arange(depth)) @ turn + 3).astype(np.float32)


def given_back(x: np.ndarray, size: int, rotate: bool = True, seed: int = 0) -> np.ndarray:
    return coded(x, fit(x, size, rotate, seed)[0])


def coded(x: np.ndarray, codec: object) -> np.ndarray:
    return codec.decode(Encoder(codec).codes(torch.from_numpy(x)).numpy())  # type: ignore[attr-defined, arg-type]


def error(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.square(x - y).sum() / np.square(x - x.mean(0)).sum())


def test_points_of_a_product_grid_are_stored_exactly() -> None:
    rng = np.random.default_rng(0)
    letters = rng.standard_normal((4, 200, 3)).astype(np.float32)
    chosen = rng.integers(0, 200, (5000, 4))
    x = np.concatenate([letters[j, chosen[:, j]] for j in range(4)], axis=1)
    codec, facts = fit(x, 4, False, 0)
    np.testing.assert_array_equal(coded(x, codec), x)
    assert facts["error"] == 0
    assert facts["letters"] == 200


def test_a_rotated_grid_of_principal_directions_is_stored_to_rounding() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    grid = np.stack(np.meshgrid(*[np.arange(-2.0, 3)] * 6), -1).reshape(-1, 6) * [32, 16, 8, 4, 2, 1]
    x = (grid @ turn).astype(np.float32)  # 5 ** 6 points; each part takes 25 or 125 values, but for rounding
    assert error(x, given_back(x, 6)) < 1e-9
    assert error(x, given_back(x, 3)) < 1e-4


def test_more_bytes_and_the_rotation_lower_the_error() -> None:
    x = correlated()
    errors = [error(x, given_back(x, size)) for size in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4
    for size in (2, 4, 8):
        assert error(x, given_back(x, size)) < 0.7 * error(x, given_back(x, size, rotate=False))


def test_the_error_that_is_told_is_that_of_the_points() -> None:
    x = correlated()
    codec, facts = fit(x, 4, True, 0)
    assert facts["error"] == pytest.approx(error(x, coded(x, codec)), rel=1e-3)
    np.testing.assert_allclose(codec.rotation @ codec.rotation.T, np.eye(16), atol=1e-5)


def test_codes_name_the_nearest_centroids() -> None:
    x = correlated(700)
    codec, _ = fit(x, 4, True, 0)
    codes = Encoder(codec).codes(torch.from_numpy(x.reshape(7, 10, 10, 16)))
    assert codes.shape == (7, 10, 10, 4)
    parts = (x @ codec.rotation.T).reshape(700, 4, 1, 4)
    distances = np.square(parts - codec.centroids[None]).sum(-1)  # [n, 4, 256]
    taken = np.take_along_axis(distances, codes.reshape(700, 4).numpy().astype(int)[..., None], 2)[..., 0]
    np.testing.assert_allclose(taken, distances.min(2), atol=1e-3)


def test_threads_change_nothing_and_the_seed_does() -> None:
    x, before = correlated(20_000), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(fit(x, 4, True, 0)[0].digest)
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]
    assert fit(x, 4, True, 1)[0].digest != found[0]


def test_directions_are_dealt_out_by_their_variances() -> None:
    assert allocate(np.array([8.0, 4.0, 2.0, 1.0]), 2).tolist() == [0, 3, 1, 2]  # products 8 and 8
    assert allocate(np.array([1e-3, 1e-4, 1e-5, 1e-6]), 2).tolist() == [0, 3, 1, 2]  # whatever the unit
    variance = np.sort(np.random.default_rng(0).lognormal(0, 2, 64))[::-1]
    order = allocate(variance, 8)
    assert sorted(order.tolist()) == list(range(64))
    logs = np.log(variance)[order].reshape(8, 8).sum(1)
    assert logs.max() - logs.min() < np.log(variance).reshape(8, 8).sum(1).std()
    assert sorted(allocate(np.zeros(6), 3).tolist()) == list(range(6))


def test_few_points_have_fewer_centroids_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    x = correlated(90)
    codec, facts = fit(x, 4, False, 0)
    np.testing.assert_array_equal(coded(x, codec), x)
    assert facts["letters"] == 90
    assert "90 tokens take 90 values in a part of a code" in capsys.readouterr().err
    assert np.isfinite(coded(correlated(500, seed=1), codec)).all()


def test_equal_and_constant_points() -> None:
    x = np.full((1000, 6), 2.5, np.float32)
    np.testing.assert_allclose(given_back(x, 3), x, atol=1e-6)
    x = correlated(3000, 8)
    x[:, 4:] = 1
    assert error(x, given_back(x, 4)) < 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_an_error(bad: float) -> None:
    x = correlated(600)
    codec, _ = fit(x, 4, True, 0)
    x[7, 3] = bad
    with pytest.raises(NumericsError, match="some are NaN or infinite"):
        fit(x, 4, True, 0)
    with pytest.raises(NumericsError, match="NaN or infinite tokens"):
        Encoder(codec).as_stored(torch.from_numpy(x[:600].reshape(20, 30, 16)))
    assert finite(torch.from_numpy(x.reshape(6, 10, 10, 16))).tolist() == [False] + [True] * 5
    with pytest.raises(NumericsError, match="no tokens to fit"):
        fit(x[:0], 4, True, 0)
