"""From labelled vectors to classes, by each method of the source `examples`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from maskmill.errors import InputError
from maskmill.store.classes import BACKGROUND, IGNORE, Classes
from maskmill.store.codebook import Codebook
from maskmill.taxonomy import Clustered
from maskmill.taxonomy import _neighbours as neighbours
from maskmill.taxonomy import _probe as probe
from maskmill.taxonomy import _votes as votes
from maskmill.taxonomy._labelled import Labelled
from maskmill.taxonomy._words import listed


def learn(method: str, found: Labelled, background: int | None, given: Clustered) -> Classes:
    """Classes of what the labelled images say.

    Args:
        method: clusters, probe or neighbours. background: the label id that becomes background, if any.

    Raises:
        InputError: the labels hold no class beside the background.
    """
    labels = [label for label in found.classes if label != background]
    if not labels:
        raise InputError(f"taxonomy.labels: they hold nothing but the background ({background}); label other images")
    columns = np.array([BACKGROUND if label == background else labels.index(label) + 1 for label in found.classes])
    fitted: dict[str, Any] = {"clusters": _clusters, "probe": _probe, "neighbours": _neighbours}[method](found, given)
    confidence = fitted.pop("confidence", None)
    return Classes(
        len(labels),
        np.append(columns, fitted.pop("more", [])).astype(np.int32),
        book=None,
        examples=found.ids,
        label_ids=tuple(labels),
        background_label=background if background in found.classes else None,
        confidence=None if confidence is None else confidence[columns > 0],
        **fitted,
    )


def _clusters(found: Labelled, given: Clustered) -> dict[str, Any]:
    settings, book = votes.Voting(), given.book
    named = votes.fit(found.vectors, found.shares, book, settings)
    shares, more, notes = _with_unreached(named.shares, book)
    tensors = {
        "centroids": book.centroids,
        "shares": shares,
        "nearest": np.array(settings.nearest, np.int64),
        "width": np.array(settings.width, np.float64),
        "spherical": np.array(book.spherical, np.uint8),
    }
    return {
        "kind": "mixed",
        "tensors": tensors,
        "confidence": named.class_confidence(_sizes(book)),
        "notes": (*_notes(named, book), *notes),
        "more": more,
    }


def _with_unreached(shares: np.ndarray, book: Codebook) -> tuple[np.ndarray, list[int], list[str]]:
    """Shares [m, C + columns] in which every centroid has a value, the values of the columns added, and notes.

    A centroid that no label reaches is ignore; one of noise is what noise is to the clustering.
    """
    group = np.arange(len(shares)) if book.group is None else book.group
    noise, empty = group < 0, ~shares.any(axis=1)
    values = np.where(noise & book.noise_is_background, BACKGROUND, IGNORE)
    more = sorted({int(value) for value in values[empty]}, reverse=True)
    added = np.stack([(empty & (values == value)) for value in more], axis=1) if more else np.zeros((len(shares), 0))
    lost = sorted({int(c) + 1 for c in group[empty & ~noise]})
    notes = [f"clusters {listed(lost)} are like none that a label reaches, so they are ignore"] if lost else []
    return np.concatenate([shares, added.astype(np.float32)], axis=1), more, notes


def _sizes(book: Codebook) -> np.ndarray:
    """Points of each centroid [m]; those of a cluster of several centroids are divided among them."""
    if book.group is None:
        return book.counts.astype(np.float64)
    several = np.bincount(book.group[book.group >= 0], minlength=len(book))
    sizes = np.zeros(len(book.group))
    alive = book.group >= 0
    sizes[alive] = (book.counts / np.maximum(several, 1))[book.group[alive]]
    return sizes


def _notes(named: votes.Named, book: Codebook) -> Sequence[str]:
    """Which clusters have members of several classes, so that a person may split them."""
    mixed = np.flatnonzero(named.mixed())
    if not len(mixed):
        return []
    group = np.arange(len(named.shares)) if book.group is None else book.group
    clusters = sorted({int(group[i]) + 1 for i in mixed})
    return [f"clusters {listed(clusters)} have labelled members of several classes"]


def _probe(found: Labelled, given: Clustered) -> dict[str, Any]:
    fitted = probe.fit(found.vectors, found.shares, found.files, seed=given.seed)
    return {"kind": "linear", "tensors": {"weights": fitted.weights, "bias": fitted.bias}}


def _neighbours(found: Labelled, given: Clustered) -> dict[str, Any]:
    bank = neighbours.fit(found.vectors, found.shares, seed=given.seed)
    tensors = {
        "centroids": bank.keys,
        "shares": bank.votes,
        "nearest": np.array(neighbours.NEAREST, np.int64),
        "width": np.array(neighbours.TEMPERATURE, np.float64),
        "spherical": np.array(1, np.uint8),
    }
    return {"kind": "mixed", "tensors": tensors}
