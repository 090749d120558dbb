"""Classes: what the stage taxonomy makes of clusters, and how it is stored; `maskmill.painting.scoring` uses it.

Three kinds of rules give a vector its class. `merged`: classes own clusters of a codebook, or parts of a cluster that
was clustered again. `mixed`: every centroid, or every labelled vector, has a share of every class, and the nearest ones
are mixed. `linear`: one vector of weights a class. The file holds no names, so that another name for a class changes
nothing that was made from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from maskmill.errors import StoreError
from maskmill.store import codebook as books
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.calibration import Calibration
from maskmill.store.codebook import Codebook
from maskmill.store.provenance import Provenance

BACKGROUND, IGNORE = 0, -1  # values of columns beside the classes 1..K
BACKGROUND_ROW = -2  # of a region that is background, in the column cluster of a table; -1 is ignore
Kind = Literal["merged", "mixed", "linear"]
NEEDS: dict[str, tuple[str, ...]] = {
    "merged": ("leaf_cluster", "leaf_column", "leaf_open", "parts"),
    "mixed": ("centroids", "shares", "nearest", "width", "spherical"),
    "linear": ("weights", "bias"),
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
        corrections: of single images. examples: ids of the images whose labels made the classes. label_ids: [K], the
            label id of each class, where labels made them. background_label: that of the background.
        unnamed: what became of clusters that nobody has decided: ignore, background or keep.
        confidence: [K] float32, how sure each class is, 0..1; NaN where nothing is known.
        notes: what could not be done as it was asked for, in words.
        calibration: how often a class is right, where labels made the classes.
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
    label_ids: tuple[int, ...] = ()
    background_label: int | None = None
    unnamed: str = "ignore"
    calibration: Calibration | None = None
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
        return self._by_image.get(image_id, ())

    @cached_property
    def _by_image(self) -> Mapping[str, list[Correction]]:
        found: dict[str, list[Correction]] = {}
        for each in self.corrections:
            found.setdefault(each.image, []).append(each)
        return found


Labels = Codebook | Classes
"""What gives vectors a value of the masks: clusters, or the classes that were made of them."""


def write(path: str | Path, classes: Classes, provenance: Provenance | None = None) -> None:
    """Write classes as safetensors."""
    about: dict[str, Any] = {
        "kind": classes.kind,
        "examples": list(classes.examples),
        "notes": list(classes.notes),
        "label_ids": list(classes.label_ids),
        "background_label": classes.background_label,
        "unnamed": classes.unnamed,
        "corrections": [[c.image, c.value, c.region, c.was] for c in classes.corrections],
    }
    if classes.calibration is not None:
        about["calibration"] = classes.calibration.stored()
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
            tuple(about["label_ids"]),
            about["background_label"],
            str(about["unnamed"]),
            Calibration.restored(about["calibration"]) if "calibration" in about else None,
            str(provenance.get("hash", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: no classes of this version ({error!r}); delete it and run snakemake again") from None


@dataclass(frozen=True)
class Leaf:
    """A cluster 0..k-1, or a part of one that is split; k stands for noise.

    Attributes:
        value: 1..K, BACKGROUND or IGNORE. open: nobody has decided its value.
    """

    cluster: int
    value: int
    open: bool = False


def merged(book: Codebook, leaves: Sequence[Leaf], parts: np.ndarray, count: int) -> Classes:
    """Classes that own clusters.

    Args:
        leaves: [L], clusters ascending; one with several leaves is split.
        parts: [P, d] float32, the centroids of the leaves of split clusters, in the order of the leaves.
        count: number of classes K.
    """
    values = [leaf.value for leaf in leaves]
    columns = np.array(sorted(set(values), key=lambda value: (value <= 0, -value if value <= 0 else value)), np.int32)
    place = {int(value): i for i, value in enumerate(columns)}
    tensors: dict[str, np.ndarray] = {
        "leaf_cluster": np.array([leaf.cluster for leaf in leaves], np.int32),
        "leaf_column": np.array([place[value] for value in values], np.int32),
        "leaf_open": np.array([leaf.open for leaf in leaves], np.uint8),
        "parts": np.asarray(parts, np.float32).reshape(-1, book.centroids.shape[1]),
    }
    return Classes(count, columns, "merged", tensors, book)
