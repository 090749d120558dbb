"""A taxonomy that was written for other clusters: its classes get the new clusters that have their members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from maskmill.taxonomy._document import Document, leaf_name
from maskmill.taxonomy._words import listed

MAJORITY = 0.5  # of a new cluster's places must have had one owner


@dataclass(frozen=True)
class Carried:
    """What became of a file.

    Attributes:
        owners: {new cluster 1..k: value of its owner}; clusters that no class could be found for are left out.
        notes: what could not be placed, in words.
    """

    owners: Mapping[int, int]
    notes: tuple[str, ...]


def carry(document: Document, counts: sp.csr_array) -> Carried:
    """Owners of the new clusters by overlap of members.

    A new cluster goes to the owner of more than half of its places; places of clusters without an owner count too, so
    that what had no name gets none. Parts of a split cluster are not known apart: it counts where all have one owner.

    Args:
        counts: [old values, new clusters + 1] of `_members.overlap`.
    """
    of_old = _owners(document, counts.shape[0])
    kinds = sorted(set(of_old.values()))
    member = np.zeros((len(kinds), counts.shape[0]))
    for old, value in of_old.items():
        member[kinds.index(value), old] = 1
    places = np.asarray(counts[1:].sum(axis=0)).ravel()  # of each new cluster, without what had no cluster before
    shares = (member @ counts) / np.maximum(places, 1)  # [kinds, new clusters + 1]
    best = shares.argmax(axis=0) if kinds else np.zeros(len(places), int)
    first, named = shares.max(axis=0, initial=0), shares.sum(axis=0)
    new = range(1, counts.shape[1])
    owners = {cluster: kinds[best[cluster]] for cluster in new if first[cluster] > MAJORITY}
    notes = _lost(document, owners) + _of_splits(document, of_old)
    unclear = [cluster for cluster in new if first[cluster] <= MAJORITY < named[cluster]]
    if unclear:
        notes.append(f"clusters {listed(unclear)} have members of several classes and none has more than half")
    absent = [cluster for cluster in new if not places[cluster]]
    if absent:
        notes.append(f"clusters {listed(absent)} lie in none of the images that the file knows")
    return Carried(owners, tuple(notes))


def _owners(document: Document, rows: int) -> dict[int, int]:
    """{old cluster: value of its owner} of clusters that have one owner as a whole."""
    whole: dict[int, set[int | None]] = {}
    leaves = document.leaves
    for cluster in range(1, rows):
        parts = document.split.get(cluster)
        named = [(cluster, None)] if parts is None else [(cluster, part) for part in range(parts)]
        whole[cluster] = {leaves.get(leaf) for leaf in named}
    return {
        cluster: value for cluster, values in whole.items() if len(values) == 1 and (value := values.pop()) is not None
    }


def _lost(document: Document, owners: Mapping[int, int]) -> list[str]:
    """Classes that had clusters and have none now."""
    before, now = set(document.leaves.values()), set(owners.values())
    return [
        f"class {name!r} has no cluster any more"
        for name, number in document.numbers.items()
        if number in before and number not in now
    ]


def _of_splits(document: Document, of_old: Mapping[int, int]) -> list[str]:
    lost = [leaf_name(cluster, None) for cluster in sorted(document.split) if cluster not in of_old]
    return [f"split clusters {', '.join(lost)} could not be followed"] if lost else []
