"""Classes: merging is the maximum, splitting moves nothing else, and what is written is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from maskmill.errors import NumericsError, StoreError
from maskmill.painting import scoring
from maskmill.store import classes as kinds
from maskmill.store import codebook as books
from maskmill.store.classes import BACKGROUND, IGNORE, Classes, Correction, Leaf, merged
from maskmill.store.codebook import Codebook


def book(m: int = 6, d: int = 5, spherical: bool = True, group: list[int] | None = None, seed: int = 0) -> Codebook:
    centroids = np.random.default_rng(seed).normal(size=(m, d)).astype(np.float32)
    if spherical:
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    k = m if group is None else max(group) + 1
    return Codebook(centroids, np.ones(k, np.int64), 0.0, spherical, group=None if group is None else np.array(group))


def leaves(values: Iterable[int], clusters: Iterable[int] | None = None) -> list[Leaf]:
    values = list(values)
    return [Leaf(c, v) for c, v in zip(range(len(values)) if clusters is None else clusters, values, strict=True)]


def points(n: int = 400, d: int = 5) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("spherical", [True, False])
def test_a_class_is_the_union_of_its_clusters(spherical: bool) -> None:
    x, clusters = points(), book(spherical=spherical)
    owners = [2, BACKGROUND, 1, 1, IGNORE, 2]
    found = merged(clusters, leaves(owners), np.zeros((0, 5)), 2)
    label, _ = books.assign(x, clusters)
    assert np.array_equal(scoring.assign(x, found), np.array(owners)[label])
    assert found.columns.tolist() == [1, 2, BACKGROUND, IGNORE]
    assert scoring.values(found, np.dtype(np.uint8)).tolist() == [1, 2, 0, 255]


@pytest.mark.parametrize("spherical", [True, False])
def test_splitting_one_cluster_moves_no_vector_of_another(spherical: bool) -> None:
    x, clusters = points(), book(spherical=spherical)
    parts = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)  # anywhere, nearer to others too
    if spherical:
        parts /= np.linalg.norm(parts, axis=1, keepdims=True)
    found = merged(clusters, leaves(range(1, 9), [0, 1, 2, 2, 2, 3, 4, 5]), parts, 8)
    label, _ = books.assign(x, clusters)
    value = scoring.assign(x, found)
    of_leaf = np.array([0, 1, 2, 2, 2, 3, 4, 5])[value - 1]
    assert np.array_equal(of_leaf, label)
    inside = label == 2
    nearest, _ = books.assign(x[inside], Codebook(parts, np.ones(3, np.int64), 0.0, spherical))
    assert np.array_equal(value[inside] - 3, nearest)
    assert len(np.unique(nearest)) >= 2


def test_noise_keeps_its_place() -> None:
    x, clusters = points(), book(group=[0, 0, 1, 2, 2, -1])
    found = merged(clusters, leaves([1, 1, 2, IGNORE]), np.zeros((0, 5)), 2)
    label, _ = books.assign(x, clusters)
    assert (label < 0).any()
    assert np.array_equal(scoring.assign(x, found), np.array([1, 1, 2, IGNORE])[label])


def test_nearest_centroids_are_mixed() -> None:
    """Two centroids, one half of each class: the class of the nearer one, and equal odds in the middle."""
    tensors = {
        "centroids": np.eye(2, dtype=np.float32), "shares": np.array([[1, 0], [0, 1]], np.float32),
        "nearest": np.array(2), "width": np.array(0.1), "spherical": np.array(1),
    }  # fmt: skip
    found = Classes(2, np.array([1, 2], np.int32), "mixed", tensors)
    odds = scoring.scores(np.array([[1, 0], [1, 1], [0, 3]], np.float32), found)
    assert odds[1] == pytest.approx([0.5, 0.5])
    assert odds[0] == pytest.approx([1 / (1 + np.exp(-10)), 1 / (1 + np.exp(10))], abs=1e-6)
    assert np.array_equal(scoring.assign(np.array([[1, 0], [0, 3]], np.float32), found), [1, 2])


def test_a_linear_rule_is_a_softmax() -> None:
    tensors = {
        "weights": np.array([[2, 0], [0, 1]], np.float32), "bias": np.array([0, 0.5], np.float32),
    }  # fmt: skip
    odds = scoring.scores(np.array([[3, 4]], np.float32), Classes(2, np.array([1, 2], np.int32), "linear", tensors))
    logits = np.array([2 * 0.6, 0.8 + 0.5])
    assert odds[0] == pytest.approx(np.exp(logits) / np.exp(logits).sum())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = merged(book(group=[0, 0, 1, 2, 2, -1]), leaves([1, 1, 2, IGNORE]), np.zeros((0, 5)), 2)
    fixes = (Correction("ä/b", 2, region=4), Correction("c", IGNORE, was=1))
    more = Classes(
        2, found.columns, "merged", found.tensors, found.book, fixes, ("one",), np.array([0.5, np.nan]), ("a note",)
    )
    kinds.write(tmp_path / "c.safetensors", more)
    back = kinds.read(tmp_path / "c.safetensors")
    assert (back.corrections, back.examples, back.notes, back.count) == (fixes, ("one",), ("a note",), 2)
    assert np.array_equal(scoring.scores(points(), back), scoring.scores(points(), found))
    assert back.corrections_of("c") == [fixes[1]]


def test_clusters_are_no_classes(tmp_path: Path) -> None:
    books.write(tmp_path / "b.safetensors", book())
    assert isinstance(kinds.read_labels(tmp_path / "b.safetensors"), Codebook)
    with pytest.raises(StoreError, match="holds clusters, no classes"):
        kinds.read(tmp_path / "b.safetensors")


@pytest.mark.parametrize("bad", [np.ones((2, 4), np.float32), np.full((2, 5), np.nan, np.float32)])
def test_vectors_that_do_not_fit(bad: np.ndarray) -> None:
    mixed = {
        "centroids": np.eye(5, dtype=np.float32), "shares": np.eye(5, dtype=np.float32), "nearest": np.array(1),
        "width": np.array(0.1), "spherical": np.array(1),
    }  # fmt: skip
    linear = {"weights": np.eye(5, dtype=np.float32), "bias": np.zeros(5, np.float32)}
    columns = np.arange(1, 6, dtype=np.int32)
    for found in (
        Classes(5, columns, "mixed", mixed),
        Classes(5, columns, "linear", linear),
        merged(book(), leaves([1] * 6), np.zeros((0, 5)), 1),
    ):
        with pytest.raises(NumericsError):
            scoring.scores(bad, found)
