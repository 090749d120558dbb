"""The cut `spectral`: its graph and vectors against a plain reference, closed forms, symmetries, no structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_dsm import colour_graph, eigenpairs, graph
from reference_ncut import scene

from maskmill.cut import spectral
from maskmill.cut._engine import solve
from maskmill.cut._partition import (
    background_of,
    by_kmeans,
    by_qr,
    compact,
    eigengap_groups,
    group_scores,
    ncut_confidence,
)
from maskmill.cut._weighted import WeightedAffinity, add_sparse, neighbour_colours, positive_cosines
from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe.base import validate

FIEDLER = spectral.Params(mode="fiedler")
QR = spectral.Params(partition="qr", vectors=4, segments=4, background="none")


def parts(regions: np.ndarray, across: float = 0.0, noise: float = 0.0) -> np.ndarray:
    """Tokens [h, w, d] whose cosine is 1 within a region of regions [h, w] and `across` between two."""
    kinds = int(regions.max()) + 1
    gram = np.full((kinds, kinds), across) + (1 - across) * np.eye(kinds)
    tokens = np.linalg.cholesky(gram)[regions]
    tokens = np.concatenate([tokens, np.zeros((*regions.shape, 5))], 2)
    return (tokens + noise * np.random.default_rng(0).standard_normal(tokens.shape)).astype(np.float32)


def stripes(h: int = 12, w: int = 15, kinds: int = 3) -> np.ndarray:
    """Upright stripes 0..kinds-1 of different widths."""
    edges = np.cumsum(np.arange(1, kinds) * 2 * w // (kinds * (kinds + 1)))
    return np.broadcast_to(np.searchsorted(edges, np.arange(w), side="right"), (h, w)).copy()


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


def span_cosine(y: np.ndarray, exact: np.ndarray, degree: np.ndarray) -> float:
    one, two = (np.linalg.qr((rows * np.sqrt(degree)).T)[0] for rows in (y, exact))
    return float(np.linalg.svd(one.T @ two, compute_uv=False).min())


# the graph


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20))
def test_cosines_are_those_of_the_reference(seed: int, h: int, w: int) -> None:
    tokens = scene(h, w, seed, 16).reshape(h * w, -1)
    matrix = positive_cosines(torch.from_numpy(tokens))
    assert torch.equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix, graph(tokens.astype(np.float64)), atol=2e-6)


def test_strips_meet_without_a_seam() -> None:
    tokens = scene(20, 31, 1, 16).reshape(620, -1)  # three strips
    matrix = positive_cosines(torch.from_numpy(tokens))
    assert torch.equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix, graph(tokens.astype(np.float64)), atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9))
def test_colour_neighbours_are_those_of_the_reference(seed: int, h: int, w: int) -> None:
    colour = np.random.default_rng(seed).random((h, w, 3))  # no two distances are equal
    found = neighbour_colours(colour).toarray()
    np.testing.assert_array_equal(found, colour_graph(colour))
    np.testing.assert_array_equal(found, found.T)
    n = h * w
    assert found.sum() == 2 * n * (min(20, n) + min(10, n))
    assert (found.diagonal() == 4).all()  # itself, in both searches, in both directions


def test_colours_are_added_with_their_weight() -> None:
    tokens, colour = scene(7, 8, 0, 16), np.random.default_rng(0).random((7, 8, 3))
    matrix = add_sparse(positive_cosines(torch.from_numpy(tokens.reshape(56, -1))), neighbour_colours(colour), 10)
    np.testing.assert_allclose(matrix, graph(tokens.reshape(56, -1).astype(float), colour, 10), atol=1e-5)


def test_a_token_without_edges_is_joined_to_itself() -> None:
    tokens = scene(6, 7, 0, 16).reshape(42, -1)
    tokens[5] = 0
    affinity = WeightedAffinity.of(positive_cosines(torch.from_numpy(tokens)))
    assert affinity.degree[5] == affinity.matrix[5, 5] == 1
    assert affinity.matrix[5].sum() == 1
    x = torch.randn(3, 42, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(affinity.times(x), x.double().numpy() @ affinity.dense(), atol=1e-4)
    np.testing.assert_allclose(affinity.double().degree, affinity.dense().sum(1), rtol=1e-12)
    assert affinity.double().degree.dtype == torch.float64


# the vectors


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 22), st.integers(5, 22), st.integers(2, 21), st.booleans())
def test_vectors_are_those_of_the_reference(seed: int, h: int, w: int, vectors: int, coloured: bool) -> None:
    tokens = scene(h, w, seed, 32).reshape(h * w, -1)
    colour = np.random.default_rng(seed).random((h, w, 3)) if coloured else None
    exact = graph(tokens.astype(np.float64), colour, 10.0 * coloured)
    values, y = eigenpairs(exact, vectors)
    matrix = positive_cosines(torch.from_numpy(tokens))
    if colour is not None:
        add_sparse(matrix, neighbour_colours(colour), 10)
    found = solve(WeightedAffinity.of(matrix), vectors - 1, np.random.default_rng(seed))
    np.testing.assert_allclose(found.values[: vectors - 1], values[1:vectors], atol=2e-4)
    if values[vectors] - values[vectors - 1] > 1e-3:  # the span is determined
        assert span_cosine(found.vectors.double().numpy(), y[1:], exact.sum(1)) > 1 - 1e-3


@pytest.mark.parametrize(("a", "b", "across"), [(3, 12, 0.3), (5, 10, 0.05), (2, 13, 0.7)])
def test_two_groups_have_the_closed_form(a: int, b: int, across: float) -> None:
    """A = 1 inside, c across: y is constant on each side, lambda_2 = Ncut, and the smaller side has the larger y."""
    h = 12
    regions = np.repeat([[0] * a + [1] * b], h, axis=0)
    found, diagnostics = spectral.cut(parts(regions, across), FIEDLER, 0, "a")
    one, two, c = h * a, h * b, across
    exact = c * two / (one + c * two) + c * one / (two + c * one)
    np.testing.assert_array_equal(found, regions == 0)
    assert diagnostics["lambda_2"] == pytest.approx(exact, abs=1e-5)
    assert diagnostics["confidence"] == pytest.approx(1 - exact, abs=1e-5)
    volume_1, volume_2 = one * (one + c * two), two * (two + c * one)
    expected = (one / (one + c * two) - volume_1 / (volume_1 + volume_2)) / (volume_2 / (volume_1 + volume_2))
    np.testing.assert_allclose(diagnostics["scores"], [expected], atol=1e-5)
    matrix = positive_cosines(torch.from_numpy(parts(regions, across).reshape(h * (a + b), -1)))
    y = solve(WeightedAffinity.of(matrix), 1, np.random.default_rng(0)).vectors[0].reshape(h, -1)
    assert float(y[0, 0] / y[0, -1]) == pytest.approx(-volume_2 / volume_1, rel=1e-3)  # of y, not of D^1/2 y


def test_more_vectors_than_the_first_look_has() -> None:
    tokens = torch.from_numpy(scene(14, 14, 0, 32).reshape(196, -1))
    found = solve(WeightedAffinity.of(positive_cosines(tokens)), 30, np.random.default_rng(0))
    values, _ = eigenpairs(graph(tokens.double().numpy()), 31)
    np.testing.assert_allclose(found.values[:30], values[1:31], atol=2e-4)


# one object


def two_parts() -> np.ndarray:
    y = np.full((7, 9), -0.1)
    y[1, 1] = y[2, 2] = y[3, 3] = 0.5  # joined at corners only
    y[5, 6:8] = 0.9
    return y


def test_a_segmentation_is_the_whole_smaller_side() -> None:
    y = two_parts()
    np.testing.assert_array_equal(spectral.fiedler_mask(y, "all"), y > 0)
    np.testing.assert_array_equal(spectral.fiedler_mask(-y, "all"), y > 0)  # DSM's sign rule
    assert spectral.Params().component == "all"


def test_a_box_is_of_the_largest_eight_connected_part_of_the_smaller_side() -> None:
    y = two_parts()
    mask = spectral.fiedler_mask(y, "largest")
    assert mask.sum() == 3
    assert mask[3, 3]
    np.testing.assert_array_equal(spectral.fiedler_mask(-y, "largest"), mask)


def test_the_cut_keeps_the_parts_that_it_is_asked_for() -> None:
    regions = np.zeros((10, 14), np.int64)
    regions[1:4, 1:5] = regions[6:9, 9:12] = 1  # two things of one kind
    for component, expected in (("all", regions == 1), ("largest", (regions == 1) & (np.arange(10) < 5)[:, None])):
        params = spectral.Params(mode="fiedler", component=component)
        np.testing.assert_array_equal(spectral.cut(parts(regions, 0.2), params, 0, "a")[0], expected)


@pytest.mark.parametrize("seed", range(4))
def test_fiedler_flips_with_the_image_and_sees_no_scale(seed: int) -> None:
    tokens = scene(13, 18, seed)
    plain, _ = spectral.cut(tokens, FIEDLER, 0, "a")
    np.testing.assert_array_equal(spectral.cut(tokens[:, ::-1], FIEDLER, 0, "a")[0], plain[:, ::-1])
    np.testing.assert_array_equal(spectral.cut(tokens.transpose(1, 0, 2), FIEDLER, 0, "a")[0], plain.T)
    each = np.random.default_rng(0).uniform(0.5, 2, (13, 18, 1)).astype(np.float32)
    for scale in (2.0**-60, 1e6):
        np.testing.assert_array_equal(spectral.cut(tokens * each * np.float32(scale), FIEDLER, 0, "a")[0], plain)


# many segments


@pytest.mark.parametrize("partition", ["kmeans", "qr"])
def test_stripes_are_found_and_numbered_by_their_first_token(partition: str) -> None:
    regions = stripes(kinds=4)
    params = spectral.Params(partition=partition, vectors=4, segments=4, background="none")
    found, diagnostics = spectral.cut(parts(regions, 0.1, 0.05), params, 0, "a")
    np.testing.assert_array_equal(found, regions + 1)
    assert found.dtype == np.uint8
    assert diagnostics["scores"].shape == (4,)
    assert (diagnostics["scores"] > 0.3).all()


def test_background_has_most_of_the_border_and_is_nobodys_segment() -> None:
    regions = np.zeros((12, 15), np.int64)
    regions[3:6, 3:6], regions[7:11, 8:13] = 1, 2
    params = spectral.Params(vectors=3, segments=3)
    found, diagnostics = spectral.cut(parts(regions, 0.1), params, 0, "a")
    np.testing.assert_array_equal(found, regions)
    assert diagnostics["scores"].shape == (2,)
    everything, _ = spectral.cut(parts(regions, 0.1), params.model_copy(update={"background": "none"}), 0, "a")
    np.testing.assert_array_equal(everything, regions + 1)


def test_corners_of_the_border_count_twice() -> None:
    """4 x 4: label 1 has two corners and one more (5 of 16), label 0 three (3), label 2 four and two corners (8)."""
    labels = np.array([[1, 0, 0, 2], [1, 9, 9, 2], [0, 9, 9, 2], [1, 2, 2, 2]])
    assert background_of(labels) == 2
    labels[3, 3] = labels[3, 2] = 0  # now 0 has 6, 1 has 5, 2 has 5
    assert background_of(labels) == 0


def test_cluster_zero_does_not_become_background() -> None:
    """In the published code the segments of cluster 0 vanish into the background."""
    from maskmill.paint.run import paint_regions, region_labels

    regions = np.zeros((10, 10), np.int64)
    regions[2:5, 2:5], regions[6:9, 5:9] = 1, 2
    found, _ = spectral.cut(parts(regions, 0.1), spectral.Params(vectors=3, segments=3), 0, "a")
    table = region_labels([(1, 0, 0.0), (2, 1, 0.0)], np.array([1.0, 1.0]), 2, 255)
    np.testing.assert_array_equal(paint_regions(found, table, 2, (10, 10)), regions)


def test_adaptive_takes_the_groups_before_the_largest_gap() -> None:
    assert eigengap_groups(np.array([0, 0.9, 0.91, 0.93])) == 3  # the gap after lambda_1 does not count
    assert eigengap_groups(np.array([0, 0.1, 0.2, 0.8, 0.85])) == 3
    assert eigengap_groups(np.array([0, 0.1, 0.7, 0.72])) == 2
    assert eigengap_groups(np.array([0, 0.1])) == 2
    params = spectral.Params(adaptive=True, vectors=8, background="none")
    for kinds in (2, 3, 5):
        found, diagnostics = spectral.cut(parts(stripes(12, 30, kinds), 0.1, 0.1), params, 0, "a")
        assert found.max() == kinds == diagnostics["groups"]
        assert diagnostics["scores"].shape == (8,)


def test_vectors_that_are_not_unique_are_not_used() -> None:
    """Three flat regions have two vectors beside the constant one; all others share the eigenvalue 1."""
    regions = stripes(12, 15, 3)
    found, diagnostics = spectral.cut(parts(regions, 0.2), spectral.Params(background="none"), 0, "a")
    assert diagnostics["vectors"] == 3
    np.testing.assert_array_equal(found, regions + 1)
    again, _ = spectral.cut(parts(regions, 0.2), spectral.Params(background="none"), 7, "b")
    np.testing.assert_array_equal(again, found)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_permuted_and_flipped_tokens_give_the_same_groups(seed: int) -> None:
    regions = stripes(10, 12, 4)
    tokens = parts(regions, 0.2) + 0.1 * scene(10, 12, seed, 9)
    plain, _ = spectral.cut(tokens, QR, 0, "a")
    flipped, _ = spectral.cut(tokens[::-1, ::-1], QR, 0, "a")
    assert same_partition(flipped[::-1, ::-1], plain)
    order = np.random.default_rng(seed).permutation(120)
    shuffled, _ = spectral.cut(tokens.reshape(120, -1)[order].reshape(10, 12, -1), QR, 0, "a")
    assert same_partition(shuffled.ravel(), plain.ravel()[order])
    np.testing.assert_array_equal(spectral.cut(tokens * np.float32(1e5), QR, 0, "a")[0], plain)


def test_colours_cut_where_the_tokens_do_not() -> None:
    tokens = parts(np.zeros((12, 16), np.int64)) + 0.05 * scene(12, 16, 0, 6)
    colour = np.zeros((12, 16, 3), np.float32)
    colour[3:9, 4:12] = 1
    found, _ = spectral.cut(tokens, FIEDLER.model_copy(update={"colour_weight": 10.0}), 0, "a", colour=colour)
    np.testing.assert_array_equal(found, colour[..., 0] == 1)


# against other implementations


@pytest.mark.parametrize("seed", range(5))
def test_qr_labels_are_those_of_scikit_learn(seed: int) -> None:
    spectral_module = pytest.importorskip("sklearn.cluster._spectral")
    y = np.linalg.qr(np.random.default_rng(seed).standard_normal((90, 6)))[0]
    np.testing.assert_array_equal(by_qr(y.T), spectral_module.cluster_qr(y))
    _, smooth = eigenpairs(graph(scene(9, 10, seed).reshape(90, -1).astype(float)), 5)
    np.testing.assert_array_equal(by_qr(smooth), spectral_module.cluster_qr(smooth.T))


@pytest.mark.parametrize("partition", ["kmeans", "qr"])
def test_groups_are_those_of_scikit_learn(partition: str) -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    tokens = parts(stripes(10, 14, 4), 0.2) + 0.08 * scene(10, 14, 3, 9)
    params = QR.model_copy(update={"partition": partition})
    found, _ = spectral.cut(tokens, params, 0, "a")
    labels = cluster.spectral_clustering(
        graph(tokens.reshape(140, -1).astype(float)),
        n_clusters=4,
        assign_labels={"qr": "cluster_qr"}.get(partition, partition),
        random_state=0,
    )
    assert same_partition(found.ravel(), labels)


# no structure, wrong input


def degenerate() -> dict[str, np.ndarray]:
    return {
        "one token": np.ones((1, 1, 5), np.float32),
        "no structure": np.full((9, 12, 5), 0.3, np.float32),
        "no unique cut": np.eye(30, dtype=np.float32).reshape(5, 6, 30),
    }


@pytest.mark.parametrize("mode", ["fiedler", "kway"])
@pytest.mark.parametrize("outcome", list(degenerate()))
def test_no_structure_is_said_and_not_drawn(outcome: str, mode: str) -> None:
    params = spectral.Params(mode=mode)
    found, diagnostics = spectral.cut(degenerate()[outcome], params, 0, "a")
    assert diagnostics["outcome"] == spectral.TRAITS.outcomes[outcome]
    assert diagnostics["confidence"] == 0
    assert not found.any()
    normal = spectral.cut(scene(8, 8, 0), params, 0, "a")[1]
    assert {k: np.shape(v) for k, v in diagnostics.items()} == {k: np.shape(v) for k, v in normal.items()}


def test_equal_halves_have_no_second_vector_of_their_own() -> None:
    found, diagnostics = spectral.cut(parts(np.repeat([[0] * 5, [1] * 5, [2] * 5], 3, 0)), FIEDLER, 0, "a")
    assert diagnostics["outcome"] == spectral.TRAITS.outcomes["no unique cut"]
    assert not found.any()


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (2, 2), (2, 3), (3, 50)])
@pytest.mark.parametrize("params", [FIEDLER, QR, spectral.Params(), spectral.Params(adaptive=True, vectors=6)])
def test_any_grid(shape: tuple[int, int], params: spectral.Params) -> None:
    found, diagnostics = spectral.cut(scene(*shape, 1), params, 0, "a")
    assert found.shape == shape
    assert 0 <= diagnostics["confidence"] <= 1
    assert all(np.isfinite(value).all() for value in diagnostics.values())
    assert (diagnostics["scores"][int(found.max()) :] == 0).all()


def test_nan_is_named() -> None:
    tokens = scene(6, 6, 0)
    tokens[2, 3, 1] = np.nan
    with pytest.raises(NumericsError, match="cat/1: 1 of 36 tokens"):
        spectral.cut(tokens, spectral.Params(), 0, "cat/1")


def test_qr_needs_as_many_vectors_as_segments() -> None:
    with pytest.raises(ConfigError, match="partition: qr gives one group a vector"):
        validate(spectral.Params, {"partition": "qr"}, "r.yaml", "cut")


# scores


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_scores_are_the_naive_ones(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((20, 20))
    matrix += matrix.T
    labels = compact(np.concatenate([np.arange(k), rng.integers(0, k, 20 - k)]))
    member = labels[None] == np.arange(k)[:, None]
    total, cut = 0.0, 0.0
    scores = group_scores(member.astype(float) @ matrix, matrix.sum(1), labels)
    for c in range(k):
        inside, volume = matrix[member[c]][:, member[c]].sum(), matrix[member[c]].sum()
        total = matrix.sum()
        cut += (volume - inside) / volume
        expected = (inside / volume - volume / total) / (1 - volume / total)
        assert scores[c] == pytest.approx(np.clip(expected, 0, 1), abs=1e-9)
    confidence = ncut_confidence(member.astype(float) @ matrix, matrix.sum(1), labels)
    assert confidence == pytest.approx(np.clip(1 - cut / (k - 1), 0, 1), abs=1e-9)


def test_kmeans_is_seeded_and_sees_no_scale() -> None:
    y = np.random.default_rng(0).standard_normal((3, 80))
    one = by_kmeans(y, 5, np.random.default_rng(1), 4)
    np.testing.assert_array_equal(one, by_kmeans(y * 1e-6, 5, np.random.default_rng(1), 4))
    np.testing.assert_array_equal(one, by_kmeans(y, 5, np.random.default_rng(1), 4))
