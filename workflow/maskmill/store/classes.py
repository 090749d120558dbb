"""Classes: what the stage taxonomy makes of clusters, how it is stored, and how vectors are scored against it.

Four kinds of rules give a vector its class. `merged`: classes own clusters of a codebook, or parts of a cluster that
was clustered again. `mixed`: every centroid has a share of every class, and the nearest ones are mixed. `linear`: one
vector of weights a class. `neighbours`: the nearest labelled vectors vote. The file holds no names, so that another
name for a class changes nothing that was made from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maskmill.errors import NumericsError, StoreError
from maskmill.store import codebook as books
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.codebook import Codebook
from maskmill.store.provenance import Provenance

BACKGROUND, IGNORE = 0, -1  # values of columns beside the classes 1..K
BACKGROUND_ROW = -2  # of a region that is background, in the column cluster of a table; -1 is ignore
Kind = Literal["merged", "mixed", "linear", "neighbours"]
NEEDS: dict[str, tuple[str, ...]] = {
    "merged": ("leaf_cluster", "leaf_column", "parts"),
    "mixed": ("centroids", "shares", "nearest", "temperature"),
    "linear": ("weights", "bias", "shift", "scale"),
    "neighbours": ("bank", "shares", "nearest", "temperature"),
}
_BOOK = "codebook."


@dataclass(frozen=True)
class Correction:
    """What is known better of one image: a class's value for a region, for all of another class, or for everything.

    Attributes:
        image: its id. value: the class, 1..K, or BACKGROUND or IGNORE. region: id of one region of a cut. was: the
            value that is replaced; with neither, the whole image has the value.
    """

    image: str
    value: int
    region: int | None = None
    was: int | None = None


@dataclass(frozen=True)
class Classes:
    """Rules that give vectors their classes.

    Attributes:
        count: K, number of classes.
        columns: [C] int32, the value of each column of scores: 1..K, BACKGROUND or IGNORE; a class without members has
            no column.
        kind: of the rules. tensors: their numbers, see `NEEDS`.
        book: the clusters, for kind merged.
        corrections: of single images. examples: ids of the images whose labels made the classes.
        confidence: [K] float32, how sure each class is, 0..1; NaN where nothing is known.
        notes: what could not be done as it was asked for, in words.
        hash: of what made the file (of one that was read).
    """

    count: int
    columns: np.ndarray
    kind: Kind
    tensors: Mapping[str, np.ndarray]
    book: Codebook | None = None
    corrections: tuple[Correction, ...] = ()
    examples: tuple[str, ...] = ()
    confidence: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    hash: str = field(default="", compare=False)

    def __len__(self) -> int:
        """Number of classes K."""
        return self.count

    @property
    def noise_is_background(self) -> bool:
        """False: background has a value of its own here."""
        return False

    def corrections_of(self, image_id: str) -> Sequence[Correction]:
        """Those of one image, in the order of the file."""
        return [each for each in self.corrections if each.image == image_id]


Labels = Codebook | Classes
"""What gives vectors a value of the masks: clusters, or the classes that were made of them."""


def write(path: str | Path, classes: Classes, provenance: Provenance | None = None) -> None:
    """Write classes as safetensors."""
    about = {
        "kind": classes.kind,
        "examples": list(classes.examples),
        "notes": list(classes.notes),
        "corrections": [[c.image, c.value, c.region, c.was] for c in classes.corrections],
    }
    tensors: dict[str, np.ndarray] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "count": np.array(classes.count, np.int64),
        "columns": classes.columns.astype(np.int32),
    }
    if classes.confidence is not None:
        tensors["confidence"] = classes.confidence.astype(np.float32)
    if classes.book is not None:
        tensors |= {_BOOK + name: value for name, value in books.tensors_of(classes.book).items()}
    write_tensors(path, tensors | dict(classes.tensors), provenance)


def read(path: str | Path) -> Classes:
    """Read classes; a file that holds none is a StoreError."""
    found = read_labels(path)
    if isinstance(found, Codebook):
        raise StoreError(f"{path}: holds clusters, no classes; give classes.safetensors of the stage taxonomy")
    return found


def read_labels(path: str | Path) -> Labels:
    """Clusters or classes, whichever the file holds; any other file is a StoreError."""
    tensors, provenance = read_tensors(path)
    if "columns" not in tensors or "about" not in tensors:
        return books.read(path)
    try:
        about: dict[str, Any] = json.loads(tensors.pop("about").tobytes())
        own = {name: tensors.pop(name) for name in NEEDS[about["kind"]]}
        rest = {name.removeprefix(_BOOK): value for name, value in tensors.items() if name.startswith(_BOOK)}
        return Classes(
            int(tensors["count"]),
            tensors["columns"],
            about["kind"],
            own,
            books.of_tensors(rest, path) if rest else None,
            tuple(Correction(*entry) for entry in about["corrections"]),
            tuple(about["examples"]),
            tensors.get("confidence"),
            tuple(about["notes"]),
            str(provenance.get("hash", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: no classes of this version ({error!r}); delete it and run snakemake again") from None


def merged(book: Codebook, values: Sequence[int], leaves: Sequence[int], parts: np.ndarray, count: int) -> Classes:
    """Classes that own clusters.

    Args:
        values: [L] of every leaf: 1..count, BACKGROUND or IGNORE. leaves: [L], the cluster 0..k-1 of each leaf,
            ascending; a cluster with several leaves is split, and k stands for noise.
        parts: [P, d] float32, the centroids of the leaves of split clusters, in the order of the leaves.
        count: number of classes K.
    """
    columns = np.array(sorted(set(values), key=lambda value: (value <= 0, -value if value <= 0 else value)), np.int32)
    place = {int(value): i for i, value in enumerate(columns)}
    tensors = {
        "leaf_cluster": np.asarray(leaves, np.int32),
        "leaf_column": np.array([place[value] for value in values], np.int32),
        "parts": np.asarray(parts, np.float32).reshape(-1, book.centroids.shape[1]),
    }
    return Classes(count, columns, "merged", tensors, book)


def scores(x: np.ndarray, labels: Labels) -> np.ndarray:
    """How well each cluster or each column of classes fits each vector: [n, C] float32, larger fits better.

    Of clusters and of classes that own clusters as `codebook.scores`: the score of the best cluster. A part of a split
    cluster has the cluster's score, less what it is behind the best part: so splitting one cluster moves no vector of
    another. Of the other kinds: probabilities.

    Args:
        x: [n, d] float16 or float32.

    Raises:
        NumericsError: another number of dimensions, or NaN in `x`.
    """
    if isinstance(labels, Codebook):
        return books.scores(x, labels)
    return {"merged": _merged, "mixed": _mixed, "linear": _linear, "neighbours": _voted}[labels.kind](x, labels)


def values(labels: Labels, dtype: np.dtype) -> np.ndarray:
    """The mask value [C] of every column of `scores`."""
    unknown = int(np.iinfo(dtype).max)
    if isinstance(labels, Codebook):
        noise = 0 if labels.noise_is_background else unknown
        return np.array([*range(1, len(labels) + 1), noise], dtype)[: len(labels) + labels.noise]
    return np.where(labels.columns == IGNORE, unknown, labels.columns).astype(dtype)


def assign(x: np.ndarray, labels: Classes) -> np.ndarray:
    """The value [n] int32 of every vector [n, d]: its class 1..K, BACKGROUND or IGNORE."""
    found = np.zeros(len(x), np.int32)
    step = max(1, books.BLOCK_BYTES // (4 * max(1, _widest(labels))))
    for start in range(0, len(x), step):
        found[start : start + step] = labels.columns[scores(x[start : start + step], labels).argmax(axis=1)]
    return found


def _widest(labels: Classes) -> int:
    """Numbers a vector that scoring holds at once."""
    if labels.book is not None:
        return len(labels.book.centroids)
    return max(len(value) for value in labels.tensors.values() if np.ndim(value))


def _merged(x: np.ndarray, labels: Classes) -> np.ndarray:
    book, cluster, column = labels.book, labels.tensors["leaf_cluster"], labels.tensors["leaf_column"]
    assert book is not None
    leaf = books.scores(x, book)[:, cluster]  # [n, L]
    parts, several = labels.tensors["parts"], np.flatnonzero(np.bincount(cluster)[cluster] > 1)
    if len(parts):
        own = books.scores(x, Codebook(parts, np.zeros(len(parts), np.int64), 0.0, book.spherical))  # [n, P]
        starts = np.flatnonzero(np.diff(cluster[several], prepend=-1))
        best = np.maximum.reduceat(own, starts, axis=1)  # [n, split clusters]
        leaf[:, several] += own - np.repeat(best, np.diff([*starts, len(several)]), axis=1)
    order = np.argsort(column, kind="stable")
    return np.asarray(np.maximum.reduceat(leaf[:, order], np.flatnonzero(np.diff(column[order], prepend=-1)), axis=1))


def _checked(x: np.ndarray, depth: int) -> np.ndarray:
    x = np.ascontiguousarray(x, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != depth:
        raise NumericsError(
            f"vectors of shape {x.shape} do not fit classes of {depth} dimensions; they must come from the same "
            "features and reduction as the labelled ones"
        )
    if not np.isfinite(x).all():
        raise NumericsError("vectors hold NaN or infinite values; check the features or the reduction that made them")
    return x


def _unit(x: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.einsum("ij,ij->i", x, x))
    return np.asarray(x / np.maximum(norms, np.finfo(np.float32).tiny)[:, None])


def _nearest_shares(similarity: np.ndarray, shares: np.ndarray, nearest: int, temperature: float) -> np.ndarray:
    """Shares [n, C] of the nearest rows of `shares` [m, C], mixed with the softmax of their similarity [n, m]."""
    nearest = min(nearest, similarity.shape[1])
    rows = np.argpartition(-similarity, nearest - 1, axis=1)[:, :nearest]
    close = np.take_along_axis(similarity, rows, 1) / temperature
    weight = np.exp(close - close.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    return np.asarray(np.einsum("nk,nkc->nc", weight, shares[rows]).astype(np.float32))


def _mixed(x: np.ndarray, labels: Classes) -> np.ndarray:
    found = labels.tensors
    near = books.scores(x, Codebook(found["centroids"], np.zeros(len(found["centroids"]), np.int64), 0.0, True))
    return _nearest_shares(near, found["shares"], int(found["nearest"]), float(found["temperature"]))


def _voted(x: np.ndarray, labels: Classes) -> np.ndarray:
    found = labels.tensors
    near = _unit(_checked(x, found["bank"].shape[1])) @ found["bank"].T
    return _nearest_shares(near, found["shares"], int(found["nearest"]), float(found["temperature"]))


def _linear(x: np.ndarray, labels: Classes) -> np.ndarray:
    found = labels.tensors
    ready = (_unit(_checked(x, found["weights"].shape[0])) - found["shift"]) / found["scale"]
    logits = ready @ found["weights"] + found["bias"]
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
