"""A taxonomy that was written for other clusters: its classes get the new clusters that have their members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from maskmill.taxonomy._document import Document, leaf_name

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


def carry(document: Document, counts: np.ndarray) -> Carried:
    """Owners of the new clusters by overlap of members.

    A new cluster goes to the owner of more than half of its places; places of clusters without an owner count too, so
    that what had no name gets none. Parts of a split cluster are not known apart: it counts where all have one owner.

    Args:
        counts: [old values, new clusters + 1] of `_members.overlap`.
    """
    of_old = _owners(document, len(counts))
    kinds = sorted(set(of_old.values()))
    owners: dict[int, int] = {}
    unclear = []
    for cluster in range(1, counts.shape[1]):
        places = counts[1:, cluster]
        total = int(places.sum())
        if not total:
            continue
        shares = {
            kind: sum(int(places[old - 1]) for old, value in of_old.items() if value == kind) / total for kind in kinds
        }
        best = max(shares, key=lambda kind: (shares[kind], -kind), default=None)
        if best is not None and shares[best] > MAJORITY:
            owners[cluster] = best
        elif sum(shares.values()) > MAJORITY:
            unclear.append(cluster)
    notes = _lost(document, owners) + _of_splits(document, of_old)
    if unclear:
        notes.append(f"clusters {_list(unclear)} have members of several classes and none has more than half")
    absent = [cluster for cluster in range(1, counts.shape[1]) if not counts[1:, cluster].any()]
    if absent:
        notes.append(f"clusters {_list(absent)} lie in none of the images that the file knows")
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


def _list(clusters: list[int], most: int = 12) -> str:
    more = f" and {len(clusters) - most} more" if len(clusters) > most else ""
    return ", ".join(map(str, clusters[:most])) + more
