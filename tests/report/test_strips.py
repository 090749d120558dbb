"""Pieces, shares and neighbours of clusters, against plain counts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from maskmill.report import _editor, _strips
from maskmill.report._strips import Layer
from maskmill.store.codebook import Codebook


def layers(images: int = 6, clusters: int = 5, seed: int = 0) -> dict[str, Layer]:
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(images):
        values = ndimage.zoom(rng.integers(0, clusters + 1, (4, 5)), 3, order=0).astype(np.uint8)
        found[f"i{i}"] = Layer(values, rng.integers(0, 256, values.shape).astype(np.uint8))
    return found


def test_components_are_those_of_every_value() -> None:
    values = np.random.default_rng(1).integers(0, 3, (17, 23))
    numbers = _strips.components(values)
    for value in range(3):
        want, count = ndimage.label(values == value)
        pairs = set(zip(want[values == value].tolist(), numbers[values == value].tolist(), strict=True))
        assert len(pairs) == count == len({b for _, b in pairs})
    assert _strips.components(np.zeros((1, 1), np.uint8)).tolist() == [[0]]


def test_typical_pieces_are_the_surest_and_doubtful_ones_the_least_sure() -> None:
    given = layers()
    found = _strips.strips(given, 5, 3, 2)
    for c, strips in enumerate(found):
        best = {}
        for image, layer in given.items():
            numbers, count = ndimage.label(layer.values == c + 1)
            sums = ndimage.sum(layer.margins / 255, numbers, range(1, count + 1))
            if count:
                best[image] = float(np.max(sums))
        want = sorted(best, key=lambda image: (-best[image], image))[:3]
        assert [piece.image for piece in strips.typical] == want
        assert len({piece.image for piece in strips.typical}) == 3
        chosen = {(p.image, p.number) for p in strips.typical}
        assert not chosen & {(p.image, p.number) for p in strips.doubtful}
        means = [p.margin for p in strips.doubtful]
        assert means == sorted(means)
    assert all(not s.typical and not s.doubtful for s in _strips.strips(given, 5, 0, 0))


def test_one_image_gives_several_pieces_only_where_others_have_none() -> None:
    values = np.zeros((8, 8), np.uint8)
    values[0, 0] = values[4:6, 4:6] = 1
    sure = np.full((8, 8), 200, np.uint8)
    alone = _strips.strips({"a": Layer(values, sure)}, 1, 2, 1)[0]
    assert [piece.box for piece in alone.typical] == [(0.5, 0.5, 0.75, 0.75), (0, 0, 0.125, 0.125)]
    both = _strips.strips({"a": Layer(values, sure), "b": Layer(values, sure)}, 1, 2, 1)[0]
    assert [piece.image for piece in both.typical] == ["a", "b"]


def test_shares_are_those_of_the_average_image() -> None:
    given = layers()
    want = [np.mean([(layer.values == c).mean() for layer in given.values()]) for c in range(1, 6)]
    np.testing.assert_allclose(_strips.shares(given, 5), want)
    assert _strips.shares({}, 3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("group", [None, [0, 0, 1, 2, 2, 2, 3, -1]])
def test_neighbours_are_the_nearest_centroids(spherical: bool, group: list[int] | None) -> None:
    rng = np.random.default_rng(2)
    centroids = rng.normal(size=(8, 3)).astype(np.float32) + (0 if spherical else 5)
    if spherical:
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    owner = np.arange(8) if group is None else np.array(group)
    k = int(owner.max()) + 1
    book = Codebook(centroids, np.ones(k, np.int64), 0.0, spherical, group=None if group is None else owner)
    distance = np.full((k, k), np.inf)
    for i, a in enumerate(owner):
        for j, b in enumerate(owner):
            if min(a, b) >= 0 and a != b:
                own = 1 - centroids[i] @ centroids[j] if spherical else np.sum((centroids[i] - centroids[j]) ** 2)
                distance[a, b] = min(distance[a, b], own)
    assert _strips.neighbours(book, 2).tolist() == np.argsort(distance, axis=1)[:, :2].tolist()
    assert _strips.neighbours(book, 99).shape == (k, k - 1)


def test_pieces_are_bounded_for_any_number_of_clusters() -> None:
    assert _editor.quota(8, 8) == (8, 4)
    assert _editor.quota(0, 8) == (0, 0)
    for clusters in (1, 50, 500, 5000):
        typical, doubtful = _editor.quota(8, clusters)
        assert typical >= 2
        assert doubtful >= 1
        assert (typical + doubtful) * clusters <= _editor.CROPS or typical + doubtful == 3
    assert max(_strips.coarser(np.zeros((301, 170)), 64).shape) <= 64
