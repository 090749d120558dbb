"""Content-defined shards: adding images changes only the shards that they fall into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

RADIUS = 0.65  # neighbours on either side, and
LONGEST = 1.6  # largest shard, both in shard sizes: chosen together so that the mean is one shard size


def shard_names(ids: Sequence[str], digests: Sequence[str], shard_size: int) -> list[str]:
    """The shard of each image, in the order given; `ids` are unique, `digests` say what the files hold.

    Images are sorted by id; a shard starts at each image whose hashed id is the smallest among its neighbours, and
    longer stretches are cut again where the hash is smallest. So whether a shard starts somewhere is decided by the
    ids around it alone: an insertion changes the shard that it falls into, and rarely one beside it. Shards hold
    `shard_size` images on average, never less than half and never more than 1.6 times that (standard deviation 0.3);
    up to `shard_size` images are one shard.

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

    if len(hashes) <= shard_size:
        return [0] if len(hashes) else []
    radius, least, most = int(RADIUS * shard_size), max(1, shard_size // 2), int(LONGEST * shard_size)
    # Beyond both ends lies -1: an image without a whole neighbourhood starts no shard, and end shards are not tiny.
    lowest = minimum_filter1d(hashes, 2 * radius + 1, mode="constant", cval=-1.0)
    inner = np.flatnonzero(lowest == hashes)
    stretches = list(pairwise([0, *inner[inner > 0].tolist(), len(hashes)]))[::-1]
    starts: list[int] = []
    while stretches:
        start, stop = stretches.pop()
        if stop - start <= most:
            starts.append(start)
            continue
        middle = start + least + int(np.argmin(hashes[start + least : stop - least + 1]))
        stretches += [(middle, stop), (start, middle)]
    return starts


def _hash(image_id: str) -> int:
    """48 bits: exact as a float64, which is what the minimum filter works on."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=6).digest(), "little")


def _name(ids: Sequence[str], digests: Sequence[str]) -> str:
    total = hashlib.blake2b(digest_size=5)
    for image_id, digest in zip(ids, digests, strict=True):
        total.update(f"{image_id}\0{digest}\n".encode())
    return "s" + total.hexdigest()
