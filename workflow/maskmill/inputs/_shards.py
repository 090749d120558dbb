"""Content-defined shards: adding images changes only the shards that they fall into."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def shard_names(ids: Sequence[str], digests: Sequence[str], shard_size: int) -> list[str]:
    """The shard of each image; `ids` are sorted and unique.

    A shard ends after an image whose hashed id says so (one in `shard_size / 2`, once the shard has `shard_size / 2`
    images) or at `2 * shard_size` images. The rule looks at ids only, so boundaries find each other again
    after an insertion. The name is a hash of the members' ids and contents: one name is always the same content.
    """
    names: list[str] = []
    start = 0
    least, most = max(1, shard_size // 2), 2 * shard_size
    spread = max(1, shard_size - least)
    for i, image_id in enumerate(ids):
        size = i + 1 - start
        here = int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little") % spread == 0
        if (size >= least and here) or size >= most or i + 1 == len(ids):
            names += [_name(ids[start : i + 1], digests[start : i + 1])] * size
            start = i + 1
    return names


def _name(ids: Sequence[str], digests: Sequence[str]) -> str:
    total = hashlib.blake2b(digest_size=5)
    for image_id, digest in zip(ids, digests, strict=True):
        total.update(f"{image_id}\0{digest}\n".encode())
    return "s" + total.hexdigest()
