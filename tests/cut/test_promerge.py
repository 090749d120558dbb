"""The cut `promerge`: each of its steps against a naive one, overlapping objects, and images without any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.cut import promerge
from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe.base import validate


def drawn(h: int, w: int, seed: int, depth: int = 7) -> np.ndarray:
    """A background with noise, and rectangles of a few materials on it."""
    rng = np.random.default_rng(seed)
    materials = rng.standard_normal((5, depth))
    label = np.zeros((h, w), np.int64)
    for k in range(1, 5):
        y, x = rng.integers(0, h), rng.integers(0, w)
        label[y : y + rng.integers(1, h // 2 + 2), x : x + rng.integers(1, w // 2 + 2)] = k
    return (materials[label] + 0.4 * rng.standard_normal((h, w, depth))).astype(np.float32)


def parts_of(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts by a search from each pixel."""
    left, found = {tuple(p) for p in np.argwhere(mask)}, []
    while left:
        edge, part = [left.pop()], np.zeros_like(mask)
        while edge:
            y, x = edge.pop()
            part[y, x] = True
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    edge.append(near)
        found.append(part)
    return found


def naive(tokens: np.ndarray, params: promerge.Params) -> list[np.ndarray]:
    """Objects of an image, largest first, one prompt and one mask at a time."""
    h, w, _ = tokens.shape
    unit = tokens.astype(np.float64) / np.linalg.norm(tokens, axis=2, keepdims=True)
    front, back = [], []
    for i in range(0, h, params.stride):
        for j in range(0, w, params.stride):
            mask = unit @ unit[i, j] > params.tau
            sides = [mask[0].mean(), mask[-1].mean(), mask[:, 0].mean(), mask[:, -1].mean()]
            if sum(side > 0.5 for side in sides) >= params.sides:
                back.append(mask)
                continue
            own = next(part for part in parts_of(mask) if part[i, j])
            front += [part for part in parts_of(mask) if part.sum() >= params.part * own.sum()]
    if not back or np.mean(ground := np.mean(back, 0) > params.votes) < params.least_background:
        return []
    far, covered, kept = unit[ground].mean(0), np.zeros((h, w), bool), []
    for part in sorted(front, key=np.sum):
        new = part & ~covered
        mostly = new.any() and (new & ground).sum() / new.sum() < params.background_overlap
        if mostly and unit[part].mean(0) @ far < params.background_cosine:
            kept.append(part)
            covered |= part
    objects: list[np.ndarray] = []
    for part in sorted(kept, key=np.sum, reverse=True):
        joins = []
        for each in objects:
            share = (each & part).sum() / part.sum()
            alike = unit[each].mean(0) @ unit[part].mean(0) >= params.alike
            if share > params.overlap or (share > params.touch and alike):
                joins.append(each)
        objects = [each for each in objects if not any(each is one for one in joins)] + [np.any([part, *joins], 0)]
    return sorted(objects, key=np.sum, reverse=True)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), h=st.integers(2, 12), w=st.integers(2, 12), stride=st.integers(1, 3),
    overlap=st.sampled_from([0.2, 0.5]), far=st.sampled_from([0.1, 0.6]),
)  # fmt: skip
def test_objects_are_those_of_a_naive_search(
    seed: int, h: int, w: int, stride: int, overlap: float, far: float
) -> None:
    tokens = drawn(h, w, seed)
    params = promerge.Params(stride=stride, overlap=overlap, background_cosine=far, least_background=0.02)
    unit = tokens.reshape(h * w, -1) / np.linalg.norm(tokens.reshape(h * w, -1), axis=1, keepdims=True)
    parts, ground, _ = promerge.proposals(unit, (h, w), params)
    found = []
    if ground.any() and ground.mean() >= params.least_background:
        found = promerge.united(promerge.filtered(parts, unit, ground, params), unit, params)
    expected = naive(tokens, params)
    assert {mask.tobytes() for mask in found} == {mask.tobytes() for mask in expected}
    segments, values = promerge.cut(tokens, params, 0, "a")
    painted = np.zeros((h, w), np.int64)
    for i, mask in enumerate(found):
        painted[mask.reshape(h, w)] = i + 1
    assert np.array_equal(segments > 0, painted > 0)
    assert len(np.unique(np.stack([segments, painted]).reshape(2, -1), axis=1).T) == len(np.unique(painted))
    assert values["objects"] == segments.max()
    assert (values["outcome"] == promerge.OUTCOMES["cut"]) == segments.any()


def two_objects() -> tuple[np.ndarray, np.ndarray]:
    label = np.zeros((12, 16), np.int64)
    label[3:9, 2:7], label[4:8, 10:14] = 1, 2
    return np.eye(5, dtype=np.float32)[label], label


def test_two_objects_on_a_background() -> None:
    tokens, label = two_objects()
    segments, found = promerge.cut(tokens, promerge.Params(stride=3), 0, "a")
    assert np.array_equal(segments, label)
    assert segments.dtype == np.uint8
    assert found["scores"].tolist() == [1.0, 1.0] + [0.0] * 62  # at right angles to the background
    assert (found["confidence"], found["outcome"], found["prompts"]) == (1.0, 0.0, 4 * 6)
    assert found["background"] == pytest.approx((label == 0).mean())
    again, _ = promerge.cut(7.5 * tokens, promerge.Params(stride=3), 5, "b")
    assert np.array_equal(again, segments)


def test_the_smaller_object_has_what_two_share_and_only_the_largest_are_kept() -> None:
    """Columns 2 to 4, 5, and 6 to 7: the one between is like both of the others, which are not alike."""
    tokens = np.tile(np.eye(4, dtype=np.float32)[0], (12, 16, 1))
    tokens[3:9, 2:6, :2] += [-1, 1]
    tokens[3:9, 5:8, [0, 2]] += np.array([[0, 1], [-1, 1], [-1, 1]])
    apart = promerge.Params(stride=1, overlap=1.0, touch=1.0)
    segments, found = promerge.cut(tokens, apart, 0, "a")
    assert segments[3].tolist() == [0, 0, 1, 1, 1, 2, 2, 2] + [0] * 8
    assert found["objects"] == found["parts"] == 2
    one, few = promerge.cut(tokens, apart.model_copy(update={"masks": 1}), 0, "a")
    assert one[3].tolist() == [0, 0, 1, 1, 1, 1] + [0] * 10
    assert few["scores"].shape == (1,)
    joined, _ = promerge.cut(tokens, promerge.Params(stride=1), 0, "a")
    assert joined[3].tolist() == [0, 0, 1, 1, 1, 1, 1, 1] + [0] * 8


@pytest.mark.parametrize(
    ("tokens", "outcome"),
    [
        (np.ones((1, 1, 4)), "no object"),
        (np.full((6, 7, 4), 0.3), "no object"),
        (np.zeros((6, 7, 4)), "no background"),
        (np.eye(30).reshape(5, 6, 30), "no background"),
    ],
)
def test_images_without_objects(tokens: np.ndarray, outcome: str) -> None:
    segments, found = promerge.cut(tokens.astype(np.float32), promerge.Params(), 0, "a")
    assert not segments.any()
    assert found["outcome"] == promerge.TRAITS.outcomes[outcome]
    assert found["confidence"] == 0
    assert not found["scores"].any()
    assert set(found) == set(promerge.cut(two_objects()[0], promerge.Params(), 0, "a")[1])


def test_settings_and_tokens_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="stride"):
        validate(promerge.Params, {"stride": 0}, "x.yaml", "cut")
    bad = drawn(4, 4, 0)
    bad[1, 2, 0] = np.inf
    with pytest.raises(NumericsError, match="photo: 1 of 16 tokens are NaN"):
        promerge.cut(bad, promerge.Params(), 0, "photo")
