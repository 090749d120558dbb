"""MaskCut: against a plain float64 MaskCut with the published rules, its own rules, painted tokens, scores."""

from __future__ import annotations

import numpy as np
import pytest
import reference_maskcut as plain
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_ncut import scene, second_vector

from maskmill.cut import maskcut
from maskmill.cut._engine import Spectrum
from maskmill.cut._object import object_of
from maskmill.cut._painting import ENDINGS, Painter
from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe import registry
from maskmill.recipe.base import validate

CUTLER = maskcut.Params(compat="cutler")
RETURNING = 41  # a scene of 16 x 16 tokens where the published rules reject the second mask and take it as the third


def settled(y: np.ndarray, values: np.ndarray) -> bool:
    """Whether float32 must give the same mask: no token at the mean, no tie for the seed, no other vector as good.

    The published corner rule also asks for the sign that LAPACK happened to return; ours knows no sign.
    """
    if (plain.foreground(y) != plain.foreground(-y)).any():
        return False
    margin = np.abs(y - y.mean()).min() / np.abs(y).max()
    return bool(values[1] - values[0] > 1e-2 and margin > 1e-3 and not object_of(y, corners=True).rivals)


def squares(places: list[tuple[int, int, int]], h: int = 14, w: int = 20) -> tuple[np.ndarray, list[np.ndarray]]:
    """Tokens of squares (top, left, side), each at right angles to the rest, on one background; and the masks."""
    tokens, masks = np.zeros((h, w, 1 + len(places)), np.float32), []
    tokens[..., 0] = 1
    for i, (top, left, side) in enumerate(places, start=1):
        mask = np.zeros((h, w), bool)
        mask[top : top + side, left : left + side] = True
        tokens[mask] = np.eye(1 + len(places))[i]
        masks.append(mask)
    return tokens, masks


def test_compat_is_the_published_maskcut() -> None:
    compared = objects = 0
    for seed in range(150):
        tokens = scene(8 + seed % 12, 8 + seed % 12, seed)
        expected, spectra = plain.maskcut(tokens)
        if not all(settled(y, values) for y, values in spectra):
            continue
        found, diagnostics = maskcut.cut(tokens, CUTLER, 0, "a")
        masks = [mask for mask in expected if mask.any()]
        assert found.max() == diagnostics["masks"] == len(masks)
        for i, mask in enumerate(masks, start=1):
            np.testing.assert_array_equal(found == i, mask)
        assert diagnostics["lambda_2"] == pytest.approx(spectra[0][1][0], abs=1e-4)
        compared, objects = compared + 1, objects + len(masks)
    assert compared >= 20
    assert objects > compared


def test_a_rejected_mask_comes_back_in_the_published_rules_only() -> None:
    tokens = scene(16, 16, RETURNING)
    expected, _ = plain.maskcut(tokens)
    assert [bool(mask.any()) for mask in expected] == [True, False, True]
    found, _ = maskcut.cut(tokens, CUTLER, 0, "a")
    np.testing.assert_array_equal(found, expected[0] + 2 * expected[2])
    ours, diagnostics = maskcut.cut(tokens, maskcut.Params(max_lambda=1), 0, "a")
    np.testing.assert_array_equal(ours, expected[0])
    assert diagnostics["ending"] in (ENDINGS["overlap"], ENDINGS["small"])


@pytest.mark.parametrize("n", [30, 200])
def test_painted_tokens_have_the_closed_form(n: int) -> None:
    """Y of a painted token is mean(y) / (1 - lambda_2), with plain mean: all of its weights are eps."""
    from maskmill.cut._affinity import BinaryAffinity
    from maskmill.cut._engine import solve

    tokens = scene(n // 10, 10, 3).reshape(n, -1)
    keep = np.random.default_rng(0).random(n) > 0.3
    painted = BinaryAffinity.of(torch.from_numpy(tokens), 0.15, 1e-3).painted(torch.from_numpy(keep))
    zeroed = plain.affinity((tokens * keep[:, None]).astype(np.float64), 0.15, 1e-3)
    np.testing.assert_allclose(painted.dense(), zeroed, atol=1e-12)
    np.testing.assert_allclose(painted.degree, zeroed.sum(1), rtol=1e-5)
    np.testing.assert_allclose(painted.double().degree, zeroed.sum(1), rtol=1e-12)
    joined = zeroed[np.ix_(keep, keep)] > 0.5
    m = int(keep.sum())
    assert painted.density == pytest.approx((joined.sum() - m) / (m * (m - 1)))
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((2, n)).astype(np.float32))
    np.testing.assert_allclose(painted.times(x), x.double().numpy() @ zeroed, atol=1e-3)
    found = solve(painted, 1, np.random.default_rng(0))
    y = found.vectors[0].double().numpy()
    np.testing.assert_allclose(y[~keep], y.mean() / (1 - found.values[0]), atol=1e-3 * np.abs(y).max())


def test_objects_are_found_one_by_one_and_the_background_is_none() -> None:
    tokens, masks = squares([(1, 1, 4), (6, 12, 6), (1, 8, 3)])
    found, diagnostics = maskcut.cut(tokens, maskcut.Params(masks=6), 0, "a")
    assert found.dtype == np.uint8
    assert found.max() == diagnostics["masks"] == 3
    sizes = [36, 16, 9]  # the larger, the cheaper to cut off
    for i, size in enumerate(sizes, start=1):
        (mask,) = (mask for mask in masks if mask.sum() == size)
        np.testing.assert_array_equal(found == i, mask)
    assert diagnostics["ending"] == ENDINGS["no structure"]  # what is left is the background, all joined
    scores = diagnostics["scores"]
    assert (scores.shape, scores.dtype) == ((6,), np.float32)
    assert ((scores > 0) == [True, True, True, False, False, False]).all()
    assert diagnostics["confidence"] == pytest.approx(scores[0])


def test_masks_is_a_maximum() -> None:
    tokens, _ = squares([(1, 1, 4), (6, 12, 6), (1, 8, 3)])
    for masks in (1, 2):
        found, diagnostics = maskcut.cut(tokens, maskcut.Params(masks=masks), 0, "a")
        assert found.max() == masks == len(diagnostics["scores"])
        assert diagnostics["ending"] == ENDINGS["enough"]


def test_split_gives_each_part_of_a_cut_its_own_mask() -> None:
    tokens, masks = squares([(1, 1, 3), (6, 12, 5)])
    tokens[masks[1]] = tokens[2, 2]  # both of one kind: one side of one cut
    split, diagnostics = maskcut.cut(tokens, maskcut.Params(split=True), 0, "a")
    np.testing.assert_array_equal(split, 1 * masks[1] + 2 * masks[0])  # the larger of equal peaks first
    assert diagnostics["scores"][0] == diagnostics["scores"][1]
    seed_only, _ = maskcut.cut(tokens, maskcut.Params(masks=1), 0, "a")
    np.testing.assert_array_equal(seed_only, masks[1])
    alone, _ = maskcut.cut(tokens, maskcut.Params(masks=1, split=True), 0, "a")
    np.testing.assert_array_equal(alone, masks[1])


def spectrum(mask: np.ndarray) -> Spectrum:
    """A clear cut whose object is `mask`."""
    y = torch.from_numpy(np.where(mask, 3.0, -1.0).ravel().astype(np.float32))[None]
    return Spectrum(np.array([0.1, 0.8]), y, 0.0, 8)


def test_masks_are_compared_with_all_before_not_with_the_last_only() -> None:
    one, two, both = (np.zeros((10, 10), bool) for _ in range(3))
    one[2:5, 1:4], two[2:5, 4:8], both[2:5, 1:10] = True, True, True  # both: IoU 0.44 with two, 0.78 with all before
    ours, theirs = Painter(10, 10, maskcut.Params()), Painter(10, 10, CUTLER)
    for mask in (one, two, both):
        for painter in (ours, theirs):
            painter.take(spectrum(mask), 0.5)
    assert ours.ending == "overlap"
    assert theirs.ending == "enough"
    np.testing.assert_array_equal(ours.result()[0], 1 * one + 2 * two)
    np.testing.assert_array_equal(theirs.result()[0], 1 * one + 2 * two + 3 * (both & ~one & ~two))


def test_small_masks_and_weak_cuts_end_the_image() -> None:
    big, dot = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    big[2:8, 2:8], dot[15, 11:15] = True, True  # 4 of 400 tokens: not above 1 %
    painter = Painter(20, 20, maskcut.Params())
    painter.take(spectrum(big), 0.5)
    painter.take(spectrum(dot), 0.5)
    assert painter.ending == "small"
    painter = Painter(20, 20, maskcut.Params())
    painter.take(spectrum(big), 0.5)
    weak = spectrum(np.roll(big, 9, 1))
    painter.take(Spectrum(np.array([0.85, 0.9]), weak.vectors, 0.0, 8), 0.5)  # 364 of 400 unpainted: 0.819 at most
    assert painter.ending == "weak cut"
    assert painter.result()[0].max() == 1


def test_painted_against_the_rest_is_no_object() -> None:
    """Where the rest has no structure of its own, that cut is the best: it costs the unpainted share."""
    from maskmill.cut._affinity import BinaryAffinity
    from maskmill.cut._engine import solve

    n = 400
    edges = np.random.default_rng(0).random((n, n)) < 0.7
    edges = (np.triu(edges, 1) | np.triu(edges, 1).T | np.eye(n, dtype=bool)).astype(np.float32)
    keep = np.arange(n) >= 100
    affinity = BinaryAffinity.from_edges(torch.from_numpy(edges), 1e-5).painted(torch.from_numpy(keep))
    found = solve(affinity, 1, np.random.default_rng(0))
    assert found.values[0] == pytest.approx(0.75, abs=1e-3)
    painter = Painter(20, 20, maskcut.Params())
    painter.keep = keep.reshape(20, 20)
    painter.take(found, affinity.density)
    assert painter.ending == "weak cut"


def test_any_grid_but_not_with_the_published_rules() -> None:
    for shape in [(1, 12), (12, 1), (3, 50), (13, 9)]:
        found, diagnostics = maskcut.cut(scene(*shape, 1), maskcut.Params(), 0, "a")
        assert found.shape == shape
        assert np.isfinite(diagnostics["scores"]).all()
    with pytest.raises(ConfigError, match=r"cat/007: cut\.compat: .*square.*3x50"):
        maskcut.cut(scene(3, 50, 1), CUTLER, 0, "cat/007")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_a_flipped_or_scaled_image_has_the_same_masks(seed: int) -> None:
    tokens = scene(13, 17, seed)
    plain_, _ = maskcut.cut(tokens, maskcut.Params(), 0, "a")
    y, values = second_vector(plain.affinity(tokens.reshape(221, -1).astype(np.float64), 0.15, 1e-5))
    assume(settled(y.reshape(13, 17), values))
    for scale in (2.0**-40, 2.0**40):
        np.testing.assert_array_equal(maskcut.cut(tokens * np.float32(scale), maskcut.Params(), 0, "a")[0], plain_)
    one = maskcut.Params(masks=1)
    first = maskcut.cut(tokens, one, 0, "a")[0]
    np.testing.assert_array_equal(maskcut.cut(tokens[:, ::-1], one, 0, "a")[0], first[:, ::-1])


def test_three_corners_say_which_side_is_the_background() -> None:
    y = np.full((9, 9), 1.0)
    y[3:6, 3:6] = -0.4
    y[8, 8] = -0.1
    y[7, 7] = 5.0  # the largest |y| is on the side with three corners
    found = object_of(y, corners=True)
    np.testing.assert_array_equal(np.argwhere(found.mask)[[0, -1]], [[3, 3], [5, 5]])
    assert found.mask.sum() == 9
    assert object_of(y).seed == (7, 7)
    for sign in (1, -1):
        np.testing.assert_array_equal(object_of(sign * y, corners=True).mask, found.mask)
    np.testing.assert_array_equal(plain.foreground(y), found.mask)
    assert plain.foreground(-y).sum() == 71  # the published rule depends on the sign: here it takes the background


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"tau": -0.1}, "cut.tau"), ({"tau": 1}, "cut.tau"), ({"tau": float("nan")}, "cut.tau"),
        ({"masks": 0}, "cut.masks"), ({"masks": 65}, "cut.masks"), ({"overlap": 0}, "cut.overlap"),
        ({"min_area": 1}, "cut.min_area"), ({"compat": "cutlerr"}, "cut.compat"),
        ({"compat": "cutler", "split": True}, "drop split or compat"),
    ],
)  # fmt: skip
def test_parameters_out_of_range(body: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        validate(registry.load("cut", "maskcut").Params, body, "config.yaml", "cut")


def test_broken_tokens_name_the_image() -> None:
    tokens = scene(5, 5, 0)
    tokens[2, 3, 1] = np.inf
    with pytest.raises(NumericsError, match="cat/007: 1 of 25 tokens"):
        maskcut.cut(tokens, maskcut.Params(), 0, "cat/007")
