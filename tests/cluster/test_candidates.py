"""The choice between the prototypes of a head and k-means of its codes, which no label decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskmill.cluster import kmeans
from maskmill.cluster._candidates import choose, read_candidates
from maskmill.cluster.prototypes import Params
from maskmill.cluster.prototypes import fit as prototypes
from maskmill.cluster.run import OptionalFiles, fit
from maskmill.errors import NumericsError, StoreError
from maskmill.recipe.model import CANDIDATES, chosen_from
from maskmill.store import codebook as books
from maskmill.store.artefact import write_tensors
from maskmill.store.codebook import Codebook
from maskmill.store.ragged import RaggedWriter


def points() -> np.ndarray:
    """Three bundles of directions, 40 points each."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.eye(3)[i] + rng.normal(0, 0.1, (40, 3)) for i in range(3)]).astype(np.float32)


def head(folder: Path, weight: np.ndarray) -> Path:
    write_tensors(folder / "head.safetensors", {"head.prototypes.weight": weight.astype(np.float32)})
    return folder / "head.safetensors"


def mean_distance(book: Codebook, x: np.ndarray) -> float:
    """By hand: the mean of 1 - the largest cosine."""
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return float(np.mean(1 - (unit @ book.centroids.T).max(axis=1)))


def test_the_closer_centres_are_taken_and_say_so(tmp_path: Path) -> None:
    x = points()
    far = np.array([[1, 0.9, 0], [0, 1, 0], [0.5, 0.5, 1.0]])
    found = {
        "prototypes": prototypes(x, Params(clusters=3), 0, head=head(tmp_path, far))[0],
        "kmeans": kmeans.fit(x, kmeans.Params(clusters=3), 0)[0],
    }
    for name, book in found.items():
        books.write(tmp_path / f"{name}.safetensors", book)
    chosen = choose(read_candidates(tmp_path, chosen_from("auto")))
    assert CANDIDATES[int(chosen.diagnostics["candidate"])] == "kmeans"
    np.testing.assert_array_equal(chosen.centroids, found["kmeans"].centroids)
    for name, book in found.items():
        assert chosen.diagnostics[f"candidate_{name}"] == pytest.approx(mean_distance(book, x), abs=1e-6)
    only = choose(read_candidates(tmp_path, chosen_from("prototypes")))
    assert CANDIDATES[int(only.diagnostics["candidate"])] == "prototypes"


def test_prototypes_that_have_converged_are_kept(tmp_path: Path) -> None:
    """k-means of one iteration from a poor start does not beat the three means."""
    x = points()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([unit[40 * i : 40 * i + 40].mean(axis=0) for i in range(3)])
    exact = prototypes(x, Params(clusters=3), 0, head=head(tmp_path, means))[0]
    poor = Codebook(exact.centroids[[0, 0, 1]] + np.float32(0.05), exact.counts, 2 * exact.inertia, True)
    assert CANDIDATES[int(choose({"prototypes": exact, "kmeans": poor}).diagnostics["candidate"])] == "prototypes"


def test_a_candidate_that_cannot_be_made_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prototypes that lie where no vector is: one of them takes all; k-means of the same vectors is fine."""
    x = np.abs(points())
    collapsed = np.array([[1, 1, 1], [-1, -1, 0], [0, -1, -1.0]])
    with RaggedWriter(tmp_path / "s0.zarr", "features", dtype="float32", depth=3) as out:
        out.append("a", x.reshape(12, 10, 3).astype(np.float32))
    parts = tmp_path / "candidates"
    own = {"method": "prototypes", "clusters": 3}
    with pytest.raises(NumericsError, match="one prototype takes every token"):
        fit([tmp_path / "s0.zarr"], own, 0, tmp_path / "o", 1, "cpu", OptionalFiles(head=head(tmp_path, collapsed)))
    asked = OptionalFiles(head=head(tmp_path, collapsed), candidate=True)
    fit([tmp_path / "s0.zarr"], own, 0, parts / "prototypes.safetensors", 1, "cpu", asked)
    assert "no candidate: cluster: one prototype takes every token" in capsys.readouterr().err
    k_means = {"method": "kmeans", "clusters": 3}
    fit([tmp_path / "s0.zarr"], k_means, 0, parts / "kmeans.safetensors", 1, "cpu", OptionalFiles(candidate=True))
    fit([tmp_path / "s0.zarr"], own, 0, tmp_path / "chosen.safetensors", 1, "cpu", OptionalFiles(candidates=parts))
    chosen = books.read(tmp_path / "chosen.safetensors")
    assert CANDIDATES[int(chosen.diagnostics["candidate"])] == "kmeans"
    with pytest.raises(NumericsError, match="neither of prototypes makes two clusters of the codes"):
        choose(read_candidates(parts, ("prototypes",)))


def test_candidates_of_other_vectors_are_refused() -> None:
    rows, counts = np.eye(3, dtype=np.float32), np.array([5, 3, 2])
    whole, less = Codebook(rows, counts, 1.0, True), Codebook(rows, counts - 1, 1.0, True)
    with pytest.raises(StoreError, match="prototypes, kmeans are of different vectors"):
        choose({"prototypes": whole, "kmeans": less})
