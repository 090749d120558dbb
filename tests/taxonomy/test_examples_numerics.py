"""Votes, probe, neighbours and suggestions against closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from maskmill.errors import NumericsError
from maskmill.numerics import mixing
from maskmill.numerics.mixing import Anchors
from maskmill.store.codebook import Codebook
from maskmill.taxonomy import _graph, _neighbours, _probe, _suggest, _votes
from maskmill.taxonomy._votes import Voting


def graph_of(count: int, edges: list[tuple[int, int, float]]) -> sp.csr_array:
    """A symmetric graph of weighted edges."""
    dense = np.zeros((count, count))
    for a, b, weight in edges:
        dense[a, b] = dense[b, a] = weight
    return sp.csr_array(dense)


def codebook(
    count: int = 12, depth: int = 5, spherical: bool = True, seed: int = 0, group: list[int] | None = None
) -> Codebook:
    """Random centroids."""
    points = np.random.default_rng(seed).standard_normal((count, depth))
    if spherical:
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    clusters = count if group is None else max(group) + 1
    members = None if group is None else np.array(group, np.int32)
    return Codebook(points.astype(np.float32), np.ones(clusters, np.int64), 0.0, spherical, group=members)


def labelled(count: int = 200, depth: int = 5, classes: int = 3, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [n, d] and shares [n, K] whose rows sum to 1, to less (void pixels), or to 0."""
    draws = np.random.default_rng(seed)
    x = draws.standard_normal((count, depth)).astype(np.float32)
    return x, (draws.dirichlet(np.ones(classes) / 2, count) * draws.choice([0, 0.5, 1], (count, 1))).astype(np.float32)


def test_between_two_labels_of_a_path_the_values_are_linear() -> None:
    path = graph_of(5, [(i, i + 1, 0.3) for i in range(4)])
    values, weight = np.zeros((5, 2)), np.zeros(5)
    values[0], values[4], weight[[0, 4]] = (1, 0), (0, 1), 1e9
    found = _graph.harmonic(path, values, weight, smoothing=1.0)
    np.testing.assert_allclose(found[:, 1], [0, 0.25, 0.5, 0.75, 1], atol=1e-7)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-7)


def test_a_node_between_three_labels_is_their_mean_by_weight() -> None:
    star = graph_of(4, [(0, 1, 1.0), (0, 2, 2.0), (0, 3, 5.0)])
    values, weight = np.vstack([np.zeros(3), np.eye(3)]), np.array([0, 1e9, 1e9, 1e9])
    np.testing.assert_allclose(_graph.harmonic(star, values, weight, 1.0)[0], [1 / 8, 2 / 8, 5 / 8], atol=1e-7)


def test_little_evidence_gives_way_by_hand() -> None:
    """Two nodes, an edge of weight 1, smoothing s: (e1 + s) a - s b = e1, (e2 + s) b - s a = 0."""
    e1, e2, s = 2.0, 1.0, 0.5
    found = _graph.harmonic(graph_of(2, [(0, 1, 1.0)]), np.array([[1.0], [0.0]]), np.array([e1, e2]), s)[:, 0]
    np.testing.assert_allclose(found, np.linalg.solve([[e1 + s, -s], [-s, e2 + s]], [e1, 0]), atol=1e-12)


def test_the_leak_is_the_chance_to_lose_the_way() -> None:
    """Of an unlabelled end beside a sure label: one step that is taken with probability 1 / (1 + leak)."""
    found = _graph.harmonic(graph_of(2, [(0, 1, 0.7)]), np.ones((2, 1)), np.array([1e12, 0]), 1.0, leak=0.25)[:, 0]
    np.testing.assert_allclose(found, [1, 0.8], atol=1e-9)


def test_what_no_label_reaches_is_nothing() -> None:
    found = _graph.harmonic(graph_of(4, [(0, 1, 1.0), (2, 3, 1.0)]), np.ones((4, 1)), np.array([1.0, 0, 0, 0]), 1.0)
    np.testing.assert_allclose(found[:, 0], [1, 1, 0, 0], atol=1e-9)


def test_conjugate_gradients_find_what_the_factorisation_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _graph.centroid_graph(_graph.index_of(codebook(60).centroids, True), 6, 0.1)
    draws = np.random.default_rng(0)
    values, weight = draws.dirichlet(np.ones(3), 60), np.where(draws.random(60) < 0.3, 5.0, 0.0)
    exact = _graph.harmonic(graph, values, weight, 0.1, 0.05)
    monkeypatch.setattr(_graph, "DIRECT", 0)
    np.testing.assert_allclose(_graph.harmonic(graph, values, weight, 0.1, 0.05), exact, atol=1e-6)


@pytest.mark.parametrize("spherical", [True, False])
def test_the_graph_is_that_of_all_pairs(spherical: bool) -> None:
    book = codebook(20, spherical=spherical)
    points = book.centroids.astype(np.float64)
    if spherical:
        away = 1 - points @ points.T
    else:
        points -= points.mean(axis=0)
        away = np.square(points[:, None] - points[None]).sum(axis=2) / (2 * np.square(points).sum(axis=1).mean())
    np.fill_diagonal(away, np.inf)
    order, plain = np.argsort(away, axis=1)[:, :4], np.zeros((20, 20))
    for i, row in enumerate(order):
        for j in row:
            plain[i, j] = plain[j, i] = np.exp(-away[i, j] / 0.2)
    found = _graph.centroid_graph(_graph.index_of(book.centroids, spherical), 4, 0.2).toarray()
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize(("nearest", "columns", "bytes_"), [(3, 16384, 1 << 20), (3, 5, 64), (50, 4, 1)])
def test_mixtures_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch, spherical: bool, nearest: int, columns: int, bytes_: int
) -> None:
    monkeypatch.setattr(mixing, "COLUMNS", columns)
    monkeypatch.setattr(mixing, "BLOCK_BYTES", bytes_)
    book, (x, shares) = codebook(spherical=spherical), labelled(30)
    values = np.random.default_rng(3).random((12, 3))
    anchors, (centroids, rows) = Anchors(book.centroids, spherical, nearest, 0.2), (book.centroids, x)
    if not spherical:
        centroids, rows = centroids - centroids.mean(axis=0), x - centroids.mean(axis=0)
        scale = np.square(centroids).sum(axis=1).mean()
    mean, collected = np.zeros((30, 3)), np.zeros((12, 3))
    for n, row in enumerate(rows.astype(np.float64)):
        if spherical:
            near = centroids @ row / np.linalg.norm(row)
        else:
            near = -np.square(centroids - row).sum(axis=1) / (2 * scale)
        best = np.argsort(-near)[:nearest]
        weight = np.exp((near[best] - near.max()) / 0.2)
        weight /= weight.sum()
        mean[n] = weight @ values[best]
        collected[best] += weight[:, None] * shares[n]
    np.testing.assert_allclose(anchors.mean(x, values), mean, atol=1e-5)
    np.testing.assert_allclose(anchors.collect(x, shares), collected, atol=1e-4)


def test_votes_by_hand() -> None:
    """Three clusters far from each other, one voice a vector: the votes of a class count by the root of its share."""
    book = Codebook(np.eye(3, dtype=np.float32), np.ones(3, np.int64), 0.0, True)
    x = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 1]]
    shares = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    named = _votes.fit(x, shares, book, Voting(nearest=1, smoothing=1e-9, leak=0.0))
    first = 3 / np.sqrt(0.8), 1 / np.sqrt(0.2)
    np.testing.assert_allclose(named.shares[0], np.array(first) / sum(first), atol=1e-6)
    np.testing.assert_allclose(named.shares[1], [1, 0], atol=1e-6)
    np.testing.assert_allclose(named.evidence, [4, 1, 0])


@pytest.mark.parametrize("method", ["votes", "probe", "neighbours"])
def test_the_order_of_images_changes_nothing(method: str) -> None:
    book, (x, shares), rows = codebook(), labelled(), labelled(50, seed=9)[0]
    images = np.repeat(np.arange(4), 50)
    order = np.concatenate([np.arange(50) + 50 * i for i in (2, 0, 3, 1)])

    def found(order: np.ndarray) -> np.ndarray:
        if method == "votes":
            return _votes.score(rows, book, _votes.fit(x[order], shares[order], book).shares)
        if method == "probe":
            return _probe.score(rows, _probe.fit(x[order], shares[order], images[order]))
        return _neighbours.score(rows, _neighbours.fit(x[order], shares[order]))

    np.testing.assert_allclose(found(order), found(np.arange(200)), atol=2e-3 if method == "probe" else 1e-5)


def test_scores_are_probabilities() -> None:
    book, (x, shares), rows = codebook(40), labelled(), labelled(50, seed=9)[0]
    for chances in (
        _votes.score(rows, book, _votes.fit(x, shares, book).shares),
        _probe.score(rows, _probe.fit(x, shares, np.arange(200) % 3)),
        _neighbours.score(rows, _neighbours.fit(x, shares)),
    ):
        assert chances.shape == (50, 3)
        assert chances.min() >= 0
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)


def test_noise_gets_no_vote_and_no_name() -> None:
    book, (x, shares) = codebook(group=[*range(8), -1, -1, -1, -1]), labelled()
    # The convention of the store: noise is last.
    named = _votes.fit(x, shares, book)
    assert not named.shares[8:].any()
    assert not named.evidence[8:].any()
    np.testing.assert_allclose(named.shares[:8].sum(axis=1), 1, atol=1e-6)
    assert (_votes.score(x, book, named.shares).sum(axis=1) <= 1 + 1e-5).all()


def test_confidence_falls_with_the_way_to_the_labels() -> None:
    """A chain of centroids on a circle, a label at one end."""
    angle = np.linspace(0, 2.0, 9)
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    book = Codebook(points, np.ones(9, np.int64), 0.0, True)
    named = _votes.fit(points[:1], np.array([[1, 0]], np.float32), book, Voting(nearest=1, neighbours=2))
    np.testing.assert_allclose(named.shares[:, 0], 1, atol=1e-6)
    assert (np.diff(named.confidence) < 0).all()
    sure = named.class_confidence(np.ones(9))
    assert 0 < sure[0] < 1
    assert sure[1] == 0


def test_a_mixed_centroid_is_marked_and_split() -> None:
    book = Codebook(np.array([[1, 0], [0, 1]], np.float32), np.ones(2, np.int64), 0.0, True)
    left, right = np.tile([1.0, 0.3], (10, 1)), np.tile([1.0, -0.3], (10, 1))
    x = np.concatenate([left, right, np.tile([0.0, 1.0], (10, 1))]).astype(np.float32)
    shares = np.eye(2, dtype=np.float32)[np.repeat([0, 1, 0], 10)]
    settings = Voting(nearest=1, prior=0)
    mixed = _votes.fit(x, shares, book, settings).mixed()
    assert mixed.tolist() == [True, False]
    new = _votes.split(x, shares, book, mixed)
    assert new.group is not None
    assert new.group.tolist() == [0, 0, 1]
    np.testing.assert_allclose(new.centroids[:2], np.array([[1, 0.3], [1, -0.3]]) / np.hypot(1, 0.3), atol=1e-6)
    found = _votes.score(x, new, _votes.fit(x, shares, new, settings).shares, settings)
    assert (found.argmax(axis=1) == shares.argmax(axis=1)).all()


def test_the_probe_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One label a vector, no weights: the same optimum as LogisticRegression's, on the same standardised vectors."""
    monkeypatch.setattr(_probe, "ALONE", 1e-2)
    x, truth = labelled(300)[0], np.random.default_rng(5).integers(3, size=300)
    x[:, 0] += truth
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    z = (unit - unit.mean(axis=0)) / unit.std(axis=0)
    model = LogisticRegression(C=1 / (2 * 1e-2 * 300), tol=1e-8, max_iter=5000).fit(z, truth)
    probe = _probe.fit(x, np.eye(3, dtype=np.float32)[truth], np.zeros(300, np.int64), prior=0)
    np.testing.assert_allclose(_probe.score(x, probe), model.predict_proba(z), atol=2e-4)


def test_the_probe_never_predicts_a_class_without_a_label() -> None:
    x, shares = labelled()
    shares[:, 1] = 0
    assert _probe.score(x, _probe.fit(x, shares, np.arange(200) % 4))[:, 1].max() < 1e-6


def test_a_penalty_is_chosen_on_images_left_out() -> None:
    """Labels that have nothing to do with the vectors ask for the strongest penalty, clear ones for a weak one."""
    draws = np.random.default_rng(0)
    x, images = draws.standard_normal((240, 20)).astype(np.float32), np.arange(240) % 6
    chance = np.eye(2, dtype=np.float32)[draws.integers(2, size=240)]
    clear = np.eye(2, dtype=np.float32)[(x[:, 0] > 0).astype(int)]
    assert _probe.fit(x, chance, images).penalty == max(_probe.PENALTIES)
    assert _probe.fit(x, clear, images).penalty < 0.1


def test_neighbours_are_those_of_a_loop() -> None:
    (x, shares), rows = labelled(), labelled(40, seed=7)[0]
    found = _neighbours.score(rows, _neighbours.fit(x, shares), nearest=9, temperature=0.1)
    kept = shares.any(axis=1)
    keys, votes = x[kept].astype(np.float64), shares[kept] / np.sqrt(shares.sum(axis=0) / shares.sum())
    for row, chances in zip(rows.astype(np.float64), found, strict=True):
        cosine = keys @ row / np.linalg.norm(keys, axis=1) / np.linalg.norm(row)
        best = np.argsort(-cosine)[:9]
        vote = np.exp(cosine[best] / 0.1) @ votes[best]
        np.testing.assert_allclose(chances, vote / vote.sum(), atol=1e-4)


@pytest.mark.parametrize("bad", ["void", "nan", "depth"])
def test_bad_vectors_are_said(bad: str) -> None:
    book, (x, shares) = codebook(), labelled()
    if bad == "void":
        shares[:] = 0
    elif bad == "nan":
        x[shares.any(axis=1)] = np.nan
    with pytest.raises(NumericsError, match="taxonomy: "):
        _votes.fit(x[:, :3] if bad == "depth" else x, shares, book)
    if bad != "depth":
        with pytest.raises(NumericsError, match="taxonomy: "):
            _probe.fit(x, shares, np.zeros(200, np.int64))
        with pytest.raises(NumericsError, match="taxonomy: "):
            _neighbours.score(x, _neighbours.fit(x, shares))


def test_one_cluster_and_one_class() -> None:
    book, (x, shares) = codebook(1), labelled(classes=1)
    named = _votes.fit(x, shares, book)
    np.testing.assert_allclose(_votes.score(x, book, named.shares), 1, atol=1e-6)


def alike(count: int, edges: list[tuple[int, int, float]]) -> sp.csc_array:
    """Likeness with ones on the diagonal."""
    return sp.csc_array(graph_of(count, edges) + sp.eye_array(count))


def test_suggestions_by_hand() -> None:
    """Of a like pair and a lone cluster: one of the pair first, then the lone one, though the other is larger."""
    chosen, gains = _suggest.clusters(np.array([100, 81, 16]), np.ones(3), alike(3, [(0, 1, 0.8)]), 3)
    assert chosen.tolist() == [0, 2, 1]
    np.testing.assert_allclose(gains, [10 + 0.8 * 9, 4, 0.2 * 9])


def test_suggestions_skip_what_is_named_and_what_is_sure() -> None:
    area, unsure = np.array([8, 4, 2, 1]), np.array([1, 0.1, 1, 1])
    named = np.array([True, False, False, False])
    assert _suggest.clusters(area, unsure, alike(4, []), 9, named)[0].tolist() == [2, 3, 1]
    near_a_name = alike(4, [(0, 2, 0.9)])
    assert _suggest.clusters(area, unsure, near_a_name, 9, named)[0].tolist() == [3, 1, 2]


def test_what_greedy_choice_covers_falls_and_is_near_the_best() -> None:
    likeness, area = _suggest.likeness(codebook(12)), np.random.default_rng(2).random(12)
    chosen, gains = _suggest.clusters(area, np.ones(12), likeness, 3)
    assert (np.diff(gains) <= 1e-12).all()

    def covered(some: tuple[int, ...]) -> float:
        return float(np.sqrt(area) @ likeness.toarray()[:, list(some)].max(axis=1))

    np.testing.assert_allclose(covered(tuple(chosen)), gains.sum(), rtol=1e-9)
    best = max(covered((a, b, c)) for a in range(12) for b in range(a) for c in range(b))
    assert gains.sum() >= (1 - 1 / np.e) * best


def test_images_that_show_other_things_come_first() -> None:
    tallies = np.array([[90, 6, 0], [80, 5, 0], [0, 0, 40]])
    chosen, gains = _suggest.images(tallies, np.array([170, 11, 40]), np.ones(3), alike(3, []), 3)
    assert chosen.tolist() == [0, 2, 1]
    assert (np.diff(gains) <= 0).all()


def test_clusters_of_several_centroids_are_as_like_as_their_likest() -> None:
    book = codebook(6, group=[0, 0, 1, 1, 2, -1])
    fine = _graph.centroid_graph(_graph.index_of(book.centroids, True), 200, 0.4).toarray()
    found = _suggest.likeness(book).toarray()
    np.testing.assert_allclose(found[0, 1], fine[:2, 2:4].max(), rtol=1e-6)
    np.testing.assert_allclose(found[2, 1], fine[4, 2:4].max(), rtol=1e-6)
    np.testing.assert_array_equal(found.diagonal(), 1)
