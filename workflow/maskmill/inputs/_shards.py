"""Content-defined shards: adding images changes only the shards that they fall into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def shard_names(ids: Sequence[str], digests: Sequence[str], shard_size: int) -> list[str]:
    """The shard of each image, in the order given; `ids` are unique, `digests` say what the files hold.

    Images are sorted by id; a shard starts at each image whose hashed id is the smallest among its neighbours,
    `shard_size // 2` on either side. So shards hold `shard_size` images on average and at least half of that, fewer
    images than `shard_size` are one shard, and whether a shard starts somewhere is decided by that neighbourhood
    alone: an insertion can not move boundaries further away. Longer stretches than `2 * shard_size` (1 in 100) are
    cut into equal parts.

    The name is a hash of the members' ids and contents: one name is always the same content.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    starts = _starts(np.array([_hash(ids[i]) for i in order], dtype=np.float64), shard_size)
    names = [""] * len(ids)
    for start, stop in pairwise([*starts, len(ids)]):
        members = order[start:stop]
        name = _name([ids[i] for i in members], [digests[i] for i in members])
        for i in members:
            names[i] = name
    return names


def _starts(hashes: np.ndarray, shard_size: int) -> list[int]:
    """Where each shard starts, given the hashes [n] in the order of the ids."""
    from scipy.ndimage import minimum_filter1d

    if not len(hashes):
        return []
    # Beyond both ends lies -1: an image without a whole neighbourhood starts no shard, and end shards are not tiny.
    lowest = minimum_filter1d(hashes, 2 * (shard_size // 2) + 1, mode="constant", cval=-1.0)
    edges = [0, *np.flatnonzero((lowest == hashes) & (np.arange(len(hashes)) > 0)).tolist(), len(hashes)]
    starts: list[int] = []
    for start, stop in pairwise(edges):
        parts = -(-(stop - start) // (2 * shard_size))
        starts += [start + (stop - start) * part // parts for part in range(parts)]
    return starts


def _hash(image_id: str) -> int:
    """48 bits: exact as a float64, which is what the minimum filter works on."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=6).digest(), "little")


def _name(ids: Sequence[str], digests: Sequence[str]) -> str:
    total = hashlib.blake2b(digest_size=5)
    for image_id, digest in zip(ids, digests, strict=True):
        total.update(f"{image_id}\0{digest}\n".encode())
    return "s" + total.hexdigest()
