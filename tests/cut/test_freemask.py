"""Free Mask: against a plain float64 version of the published rules, its filters, disjoint segments, bad tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_ncut import scene

from maskmill.cut import freemask
from maskmill.errors import ConfigError, NumericsError
from maskmill.images.instances import COMPARED, matrix_nms
from maskmill.recipe import registry
from maskmill.recipe.base import validate

PARAMS = freemask.Params()


def plain_maps(tokens: np.ndarray, factors: tuple[int, ...]) -> np.ndarray:
    """Queries as means of two by two middle tokens of each block (what bilinear sampling at its centre reads)."""
    h, w, d = tokens.shape
    rows = []
    for factor in factors:
        first = factor // 2 - 1 if factor > 1 else 0
        offsets = (0, 1) if factor > 1 else (0,)
        y = np.arange(h // factor) * factor + first
        x = np.arange(w // factor) * factor + first
        rows.append(np.mean([tokens[(y + a)[:, None], x + b] for a in offsets for b in offsets], 0).reshape(-1, d))
    queries, keys = np.concatenate(rows).astype(np.float64), tokens.reshape(-1, d).astype(np.float64)
    cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        keys / np.linalg.norm(keys, axis=1, keepdims=True)
    ).T
    cosines -= cosines.min(1, keepdims=True)
    return (cosines / cosines.max(1, keepdims=True)).reshape(-1, h, w)


def plain_nms(masks: np.ndarray, scores: np.ndarray, sigma: float) -> np.ndarray:
    """SOLOv2's definition, one pair at a time."""
    n = len(masks)
    iou = [[float((a & b).sum() / (a | b).sum()) for b in masks] for a in masks]
    own = [max([iou[i][j] for i in range(j)], default=0.0) for j in range(n)]
    factors = [min([np.exp(-sigma * (iou[i][j] ** 2 - own[i] ** 2)) for i in range(j)] + [1.0]) for j in range(n)]
    return scores * np.array(factors)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(8, 12), (16, 8)]))
def test_maps_and_scores_are_those_of_the_definition(seed: int, grid: tuple[int, int]) -> None:
    tokens = scene(*grid, seed)
    maps = freemask.similarities(tokens, PARAMS.scales)
    expected = plain_maps(tokens, (1, 2, 4))
    np.testing.assert_allclose(maps, expected, atol=2e-5)
    masks = maps >= 0.5
    kept = masks.sum((1, 2)) > 1
    maps, masks = maps[kept], masks[kept]
    maskness = (maps * masks).sum((1, 2), dtype=np.float64) / masks.sum((1, 2))
    order = np.argsort(-maskness, kind="stable")
    scores = plain_nms(masks[order], maskness[order], PARAMS.sigma)
    best = np.argsort(-scores, kind="stable")[:20]
    found, ranks = freemask.proposals(freemask.similarities(tokens, PARAMS.scales), PARAMS)
    np.testing.assert_allclose(ranks, scores[best], atol=1e-6)
    np.testing.assert_array_equal(found, masks[order][best])


def test_suppression_is_the_same_in_parts() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((COMPARED + 40, 4, 6)) < 0.5
    masks[:, 0, 0] = True
    scores = np.sort(rng.random(len(masks)))[::-1]
    found = matrix_nms(masks, np.ones(len(masks), np.int64), scores)
    flat = masks.reshape(len(masks), -1).astype(int)
    both = flat @ flat.T
    iou = np.triu(both / (flat.sum(1)[:, None] + flat.sum(1) - both), 1)
    decay = np.exp(-2 * (iou**2 - iou.max(0)[:, None] ** 2))
    np.testing.assert_allclose(found, scores * np.where(np.triu(np.ones_like(iou), 1) > 0, decay, 1).min(0))


def test_objects_are_disjoint_numbered_by_score_and_what_fills_the_photo_is_none() -> None:
    tokens = np.zeros((20, 20, 3), np.float32)
    tokens[..., 0] = 1
    tokens[10:16, 2:8] = [0, 1, 0]
    tokens[8:18, 12:16] = [0.1, 0, 1]
    segments, diagnostics = freemask.cut(tokens, PARAMS, 0, "a")
    assert segments.dtype == np.uint8
    assert diagnostics["masks"] == 2
    assert {36, 40} == {int((segments == i).sum()) for i in (1, 2)}
    assert not segments[:8].any()
    scores = diagnostics["scores"]
    assert (scores.shape, scores.dtype) == ((20,), np.float32)
    assert scores[0] >= scores[1] > 0.7
    assert not scores[2:].any()
    assert diagnostics["confidence"] == scores[0]
    assert diagnostics["outcome"] == freemask.OUTCOMES["cut"]


def test_filters_look_at_the_centre_the_width_and_the_score() -> None:
    masks = np.zeros((4, 10, 20), bool)
    masks[0, :3, 2:6] = True  # rows 0 to 2: centre 1.5 of 10
    masks[1, 4:8, :19] = True  # 19 of 20 columns
    masks[2, 4:8, :18] = True
    masks[3, 5:9, 2:6] = True
    scores = np.array([0.9, 0.9, 0.8, 0.69])
    kept, values = freemask.filtered(masks, scores, PARAMS)
    np.testing.assert_array_equal(kept, masks[2:3])
    assert values.tolist() == [0.8]
    lax = freemask.Params(top=0, width=1, least_score=0)
    assert len(freemask.filtered(masks, scores, lax)[0]) == 4


def test_a_mask_that_better_ones_cover_is_no_segment() -> None:
    tokens = scene(16, 12, 5)
    params = freemask.Params(least_score=0, top=0, width=1, masks=5)
    segments, diagnostics = freemask.cut(tokens, params, 0, "a")
    masks, scores = freemask.proposals(freemask.similarities(tokens, params.scales), params)
    masks, scores = freemask.filtered(masks, scores, params)
    union, number = np.zeros((16, 12), bool), 0
    for mask, score in zip(masks, scores, strict=True):
        new = mask & ~union
        union |= mask
        if new.any():
            number += 1
            np.testing.assert_array_equal(segments == number, new)
            assert diagnostics["scores"][number - 1] == pytest.approx(score)
    assert segments.max() == number == diagnostics["masks"]
    again, _ = freemask.cut(tokens, params, 7, "b")
    np.testing.assert_array_equal(again, segments)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (3, 2), (6, 6)])
def test_without_structure_there_is_no_mask(shape: tuple[int, int]) -> None:
    segments, diagnostics = freemask.cut(np.ones((*shape, 4), np.float32), PARAMS, 0, "a")
    assert not segments.any()
    assert diagnostics["outcome"] == freemask.OUTCOMES["no structure"]
    assert diagnostics["confidence"] == 0


def test_broken_tokens_name_the_image() -> None:
    tokens = scene(5, 5, 0)
    tokens[2, 3, 1] = np.nan
    with pytest.raises(NumericsError, match="cat/007: 1 of 25 tokens"):
        freemask.cut(tokens, PARAMS, 0, "cat/007")


@pytest.mark.parametrize("body", [{"tau": 0}, {"scales": []}, {"masks": 256}, {"width": 0}, {"least_score": 1}])
def test_parameters_out_of_range(body: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"cut.{next(iter(body))}"):
        validate(registry.load("cut", "freemask").Params, body, "config.yaml", "cut")
    assert freemask.regions_per_image(PARAMS, 0) == 20


@pytest.mark.parametrize("scale", [-1, 0, 2.5, 1e9, float("nan")])
def test_scales_out_of_range(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"cut\.scales\.1"):
        validate(registry.load("cut", "freemask").Params, {"scales": [1.0, scale]}, "config.yaml", "cut")
    assert freemask.Params(scales=[2.0]).scales == [2.0]
