"""The cut methods: ncut against a plain TokenCut, its degenerate cases and ties, k-means and grid."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_ncut import scene, tokencut

from maskmill.cut import grid, kmeans, lost, maskcut, ncut
from maskmill.cut._object import PLATEAU, object_of
from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe import registry
from maskmill.recipe.base import validate

OBJECTS = [(ncut, ncut.Params()), (maskcut, maskcut.Params()), (lost, lost.Params())]
METHODS = [*OBJECTS, (kmeans, kmeans.Params()), (grid, grid.Params())]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(bool), b.astype(bool)
    return float((a & b).sum() / (a | b).sum())


def blob(h: int = 14, w: int = 20, depth: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of one object on a background at right angles to it, and the object's mask."""
    mask = np.zeros((h, w), bool)
    mask[3:9, 12:17] = True
    tokens = np.zeros((h, w, depth), np.float32)
    tokens[..., 0], tokens[mask, 0], tokens[mask, 1] = 1, 0, 1
    return tokens, mask


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 22), st.integers(6, 22))
def test_ncut_is_tokencut(seed: int, h: int, w: int) -> None:
    tokens = scene(h, w, seed)
    expected, y, values = tokencut(tokens)
    found, diagnostics = ncut.cut(tokens, ncut.Params(), 0, "a")
    density = diagnostics["density"]
    if density in (0.0, 1.0):
        return
    assert diagnostics["lambda_2"] == pytest.approx(values[0], abs=1e-4)
    margin = np.abs(y - y.mean()).min() / np.abs(y).max()
    peaks = np.sort(np.abs(y).ravel())[::-1]
    rivals = object_of(y).rivals
    if values[1] - values[0] > 1e-2 and margin > 1e-3 and not rivals and peaks[1] < peaks[0] * (1 - PLATEAU):
        assert iou(found, expected) == 1.0


def test_the_object_is_found_and_its_segment_is_one() -> None:
    tokens, mask = blob()
    found, diagnostics = ncut.cut(tokens, ncut.Params(), 0, "a")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask)
    a, b, eps = mask.sum(), (~mask).sum(), 1e-5
    exact = eps * b / (a + eps * b) + eps * a / (b + eps * a)
    assert diagnostics["lambda_2"] == pytest.approx(exact, abs=1e-6)
    assert diagnostics["confidence"] > 0.99
    assert diagnostics["outcome"] == ncut.TRAITS.outcomes["cut"]


@pytest.mark.parametrize("scale", [2.0**-60, 1e-6, 3.7, 1e6, 2.0**60])
def test_scaled_tokens_give_the_same_mask(scale: float) -> None:
    tokens = scene(12, 17, 4)
    plain, _ = ncut.cut(tokens, ncut.Params(), 0, "a")
    each = np.random.default_rng(0).uniform(0.5, 2, (12, 17, 1)).astype(np.float32)
    np.testing.assert_array_equal(ncut.cut(tokens * np.float32(scale), ncut.Params(), 0, "a")[0], plain)
    np.testing.assert_array_equal(ncut.cut(tokens * each, ncut.Params(), 0, "a")[0], plain)


@pytest.mark.parametrize("seed", range(6))
def test_a_flipped_image_has_the_flipped_mask(seed: int) -> None:
    tokens = scene(13, 18, seed)
    plain, diagnostics = ncut.cut(tokens, ncut.Params(), 0, "a")
    assert diagnostics["rivals"] == 0
    np.testing.assert_array_equal(ncut.cut(tokens[:, ::-1], ncut.Params(), 0, "a")[0], plain[:, ::-1])
    np.testing.assert_array_equal(ncut.cut(tokens.transpose(1, 0, 2), ncut.Params(), 0, "a")[0], plain.T)


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (2, 3), (3, 50), (40, 5)])
def test_any_grid(shape: tuple[int, int]) -> None:
    found, diagnostics = ncut.cut(scene(*shape, 1), ncut.Params(), 0, "a")
    assert found.shape == shape
    assert 0 <= diagnostics["confidence"] <= 1
    assert np.isfinite(list(diagnostics.values())).all()


def degenerate() -> dict[str, np.ndarray]:
    equal = np.zeros((3, 9, 5), np.float32)  # three equal groups at right angles: no second vector is better
    for group in range(3):
        equal[group, :, group] = 1
    return {
        "one token": np.ones((1, 1, 5), np.float32),
        "all joined": np.full((9, 12, 5), 0.3, np.float32),
        "none joined": np.eye(30, dtype=np.float32).reshape(5, 6, 30),
        "no unique cut": equal,
    }


@pytest.mark.parametrize("method", [ncut, maskcut])
@pytest.mark.parametrize("outcome", list(degenerate()))
def test_no_structure_is_said_and_not_drawn(outcome: str, method: object) -> None:
    cut, params = method.cut, method.Params()  # type: ignore[attr-defined]
    found, diagnostics = cut(degenerate()[outcome], params, 0, "a")
    assert diagnostics["outcome"] == method.TRAITS.outcomes[outcome]  # type: ignore[attr-defined]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    assert not np.any(diagnostics.get("scores", 0))
    assert set(diagnostics) == set(cut(scene(6, 6, 0), params, 0, "a")[1])


@pytest.mark.parametrize(("method", "params"), OBJECTS)
def test_equal_tokens_have_no_object(method: object, params: object) -> None:
    for tokens in (np.full((7, 7, 4), -0.3), np.zeros((7, 7, 4)), np.ones((1, 1, 4))):
        found, diagnostics = method.cut(tokens.astype(np.float32), params, 0, "a")  # type: ignore[attr-defined]
        assert not found.any()
        assert diagnostics["confidence"] == 0
        assert diagnostics["outcome"] != 0
    published = maskcut.Params(compat="cutler")
    assert not maskcut.cut(np.ones((7, 7, 4), np.float32), published, 0, "a")[0].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_permuted_tokens_are_split_alike(seed: int) -> None:
    """The side of the cut knows no places: shuffled tokens have the shuffled side."""
    tokens = scene(11, 12, seed)
    _, y, values = tokencut(tokens)
    margin = np.abs(y - y.mean()).min() / np.abs(y).max()
    assume(values[1] - values[0] > 1e-2 and margin > 1e-3)
    assume(y.max() < 0.99 * -y.min() or -y.min() < 0.99 * y.max())  # the peak is on one side
    order = np.random.default_rng(seed).permutation(132)
    whole = ncut.Params(component="all")
    side = ncut.cut(tokens, whole, 0, "a")[0].reshape(132)
    shuffled = tokens.reshape(132, -1)[order].reshape(11, 12, -1)
    np.testing.assert_array_equal(ncut.cut(shuffled, whole, 0, "a")[0].reshape(132), side[order])


def test_black_images_have_no_structure() -> None:
    found, diagnostics = ncut.cut(np.zeros((11, 11, 4), np.float32), ncut.Params(), 0, "a")
    assert diagnostics["outcome"] == ncut.TRAITS.outcomes["none joined"]
    assert not found.any()


def test_ties_do_not_depend_on_rounding() -> None:
    y = np.full((10, 16), -1.0)
    y[1:4, 2:5] = 5  # 9 tokens
    y[5:9, 10:13] = 5  # 12 tokens of the same value: the larger one is the object
    y[9, 0] = 5  # a lone token
    noise = np.random.default_rng(0)
    for _ in range(20):
        found = object_of(y * (1 + 1e-6 * noise.standard_normal(y.shape)))
        assert (found.seed, found.rivals, int(found.mask.sum())) == ((5, 10), 2, 12)
        assert object_of(-y).seed == (5, 10)
    equal = np.full((6, 12), -1.0)
    equal[1:3, 1:3] = equal[1:3, 8:10] = 5  # equally large: the first, row by row
    assert object_of(equal).seed == (1, 1)


def test_ties_of_both_signs_are_seen() -> None:
    y = np.repeat([[-1.0, -1, 1, 1, 1, 1], [-1, -1, 1, 1, 1, 1]], 2, axis=0)
    found = object_of(y)
    assert (found.seed, found.rivals) == ((0, 2), 1)


def test_largest_component_is_an_option() -> None:
    y = np.full((8, 12), -1.0)
    y[1, 1] = 9  # the seed
    y[4:8, 5:10] = 3
    assert int(object_of(y).mask.sum()) == 1
    largest = object_of(y, component="largest")
    assert (largest.seed, int(largest.mask.sum())) == ((1, 1), 20)


def test_the_border_decides_which_side_is_the_object() -> None:
    """A large block inside (y = 0.4, 0.5 at its heart) against a background whose corner has the largest |y|."""
    y = np.full((8, 8), -0.3)
    y[2:6, 2:6] = 0.4
    y[3, 3] = 0.5
    y[0, 0] = -0.9
    block = np.zeros((8, 8), bool)
    block[2:6, 2:6] = True
    np.testing.assert_array_equal(object_of(y).mask, ~block)
    for sign in (1, -1):
        found = object_of(sign * y, border=True)
        np.testing.assert_array_equal(found.mask, block)
        assert found.seed == (3, 3)


def test_the_whole_side_holds_every_component() -> None:
    y = np.full((6, 9), -0.2)
    y[1:3, 1:3], y[3:5, 6:8] = 0.8, 0.7
    assert object_of(y, border=True).mask.sum() == 4
    np.testing.assert_array_equal(object_of(y, component="all", border=True).mask, y > 0)


def test_sides_that_touch_the_border_alike_are_left_to_the_peak() -> None:
    y = np.tile([-0.5, -0.5, 0.6, 0.4], (4, 1))
    np.testing.assert_array_equal(object_of(y, border=True).mask, object_of(y).mask)


def test_components_are_four_connected() -> None:
    y = np.full((6, 6), -1.0)
    y[0, 0] = y[1, 1] = y[1, 2] = 5
    assert int(object_of(y).mask.sum()) == 2


def test_the_seed_is_on_the_side_of_the_mean_not_of_the_sign() -> None:
    y = np.array([[0.1, 0.1, 0.1, 3.0, 0.9, 0.1]])  # all positive: mean 0.72
    np.testing.assert_array_equal(object_of(y).mask, [[False, False, False, True, True, False]])


@pytest.mark.parametrize(("method", "params"), METHODS[:-1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_broken_tokens_name_the_image(method: object, params: object, bad: float) -> None:
    tokens = scene(5, 6, 0)
    tokens[2, 3, 1] = bad
    with pytest.raises(NumericsError, match=r"cat/007: 1 of 30 tokens are NaN or infinite"):
        method.cut(tokens, params, 0, "cat/007")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "body", "key"),
    [
        ("ncut", {"tau": 1.0}, "cut.tau"),
        ("ncut", {"tau": -1}, "cut.tau"),
        ("ncut", {"tau": float("nan")}, "cut.tau"),
        ("ncut", {"eps": 0}, "cut.eps"),
        ("ncut", {"component": "big"}, "cut.component"),
        ("kmeans", {"segments": 1}, "cut.segments"),
        ("kmeans", {"segments": 255}, "cut.segments"),
        ("grid", {"rows": 0}, "cut.rows"),
        ("grid", {"columns": 16}, "cut.columns"),
    ],
)
def test_parameters_out_of_range(name: str, body: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        validate(registry.load("cut", name).Params, body, "config.yaml", "cut")


@pytest.mark.parametrize(("method", "params"), METHODS)
def test_the_same_seed_gives_the_same_bytes(method: object, params: object) -> None:
    tokens = scene(11, 15, 8)
    one, two = (method.cut(tokens, params, 3, "a") for _ in range(2))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(one[0], two[0])
    for name, value in one[1].items():
        np.testing.assert_array_equal(value, two[1][name])


def test_kmeans_finds_well_separated_groups() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (12, 14))
    tokens = (10 * np.eye(5)[truth] + 0.1 * rng.standard_normal((12, 14, 5))).astype(np.float32)
    segments, diagnostics = kmeans.cut(tokens, kmeans.Params(segments=5), 0, "a")
    assert len(set(zip(segments.ravel(), truth.ravel(), strict=True))) == 5
    assert diagnostics["confidence"] > 0.99
    first = [int(np.flatnonzero(segments.ravel() == label)[0]) for label in range(1, 6)]
    assert first == sorted(first)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 20))
def test_kmeans_is_a_fixed_point(seed: int, k: int) -> None:
    tokens = scene(9, 10, seed)
    segments, diagnostics = kmeans.cut(tokens, kmeans.Params(segments=k), seed, "a")
    x = tokens.reshape(90, -1).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = segments.ravel()
    assert labels.min() == 1
    assert len(np.unique(labels)) == labels.max() <= k
    centres = np.stack([x[labels == label].mean(0) for label in range(1, labels.max() + 1)])
    distance = np.square(x[:, None] - centres).sum(2)
    assert (distance[np.arange(90), labels - 1] <= distance.min(1) + 1e-5).all()
    inertia, total = distance.min(1).sum(), np.square(x - x.mean(0)).sum()
    assert diagnostics["confidence"] == pytest.approx(1 - inertia / total, abs=1e-3)


def test_kmeans_has_no_more_groups_than_kinds_of_tokens() -> None:
    tokens = np.zeros((4, 6, 3), np.float32)
    tokens[:2, :, 0], tokens[2:, :, 1] = 1, 5
    segments, diagnostics = kmeans.cut(tokens, kmeans.Params(segments=8), 0, "a")
    assert diagnostics["groups"] == 2
    np.testing.assert_array_equal(segments, np.repeat([[1], [2]], 2, axis=0).repeat(6, axis=1))
    same, diagnostics = kmeans.cut(np.full((4, 6, 3), 0.7, np.float32), kmeans.Params(), 0, "a")
    assert not same.any()
    assert diagnostics["confidence"] == 0


def test_kmeans_position_makes_compact_groups() -> None:
    tokens = np.ones((16, 16, 3), np.float32) + 1e-3 * scene(16, 16, 0, 3)
    segments, _ = kmeans.cut(tokens, kmeans.Params(segments=4, position=5.0), 0, "a")
    rows, columns = np.mgrid[:16, :16]
    spread = [rows[segments == s].std() + columns[segments == s].std() for s in range(1, 5)]
    assert max(spread) < 7  # a scattered group has 9.2


def test_grid_is_rectangles() -> None:
    segments, _ = grid.cut(np.zeros((6, 9, 1), np.float32), grid.Params(rows=2, columns=3), 0, "a")
    np.testing.assert_array_equal(segments, np.repeat(np.repeat([[1, 2, 3], [4, 5, 6]], 3, 0), 3, 1))
    for h, w in [(1, 1), (2, 30), (31, 3), (7, 5)]:
        segments, _ = grid.cut(np.zeros((h, w, 1), np.float32), grid.Params(rows=15, columns=15), 0, "a")
        assert sorted(np.unique(segments)) == list(range(1, min(15, h) * min(15, w) + 1))
        sizes = np.bincount(segments.ravel())[1:]
        assert sizes.max() <= (-(-h // min(15, h))) * (-(-w // min(15, w)))


def test_loading_a_method_imports_no_torch() -> None:
    code = (
        "import sys; from maskmill.recipe import registry;"
        "[registry.load('cut', n) for n in registry.available('cut')];"
        "sys.exit(any(m in sys.modules for m in ('torch', 'scipy', 'zarr')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
