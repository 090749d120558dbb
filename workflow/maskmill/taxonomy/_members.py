"""Where the clusters of a taxonomy lay, as a text inside the file, and how the file is carried over to other clusters.

A clustering that is fitted again, with another seed, on more images or with other settings, has other clusters. The
text holds a coarse map of the clusters of some images; the new clusters of the same places say which new cluster has
the members of which old one.
"""

from __future__ import annotations

import base64
import binascii
import json
import textwrap
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import scipy.sparse as sp

from maskmill.errors import InputError
from maskmill.images.masks import to_size

GRID = 16  # cells a side of a coarse map
IMAGES = 96  # in the text
LARGEST = 8 << 20  # bytes that a text may unpack to
LINE = 100


def write(maps: Iterable[tuple[str, np.ndarray]], images: int = IMAGES) -> str:
    """The text of coarse cluster maps: of those with clusters that those before do not have, then of others."""
    found = dict(sorted(maps))
    seen: set[int] = set()
    new = []
    for image_id, values in found.items():
        there = set(np.unique(values).tolist()) - seen
        seen |= there
        new.append((not there, image_id))
    chosen = sorted(image_id for _, image_id in sorted(new)[:images])
    body = json.dumps(chosen).encode() + b"\n" + b"".join(found[image_id].tobytes() for image_id in chosen)
    return "\n".join(textwrap.wrap(base64.b64encode(zlib.compress(body, 9)).decode(), LINE)) + "\n"


def coarse(values: np.ndarray) -> np.ndarray:
    """Clusters [GRID, GRID] uint16 of a map [h, w]: those at the centres of the cells."""
    return to_size(values, (GRID, GRID)).astype("<u2")


def read(text: str, file: str) -> dict[str, np.ndarray]:
    """{id: clusters [GRID, GRID] uint16} of a text; a damaged one is an InputError that names the file."""
    try:
        packed = base64.b64decode("".join(text.split()), validate=True)
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(packed, LARGEST)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("cut off or too large")
        head, _, rest = body.partition(b"\n")
        ids = json.loads(head)
        if not isinstance(ids, list) or not all(isinstance(image_id, str) for image_id in ids):
            raise ValueError("names no images")
        values = np.frombuffer(rest, "<u2").reshape(len(ids), GRID, GRID)
        return {str(image_id): each for image_id, each in zip(ids, values, strict=True)}
    except (ValueError, binascii.Error, zlib.error, TypeError, RecursionError) as error:
        raise InputError(
            f"{file}: members: damaged ({error}); save the file again in the report, or remove the key"
        ) from None


def overlap(old: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], clusters: int) -> sp.csr_array:
    """Cells [old values, clusters + 1] with an old and a new value, over the images that both have; sparse."""
    both = [image_id for image_id in old if image_id in new]
    none = np.zeros(0, np.int64)
    rows = np.concatenate([none, *(old[image_id].ravel().astype(np.int64) for image_id in both)])
    columns = np.concatenate([none, *(to_size(new[i], old[i].shape).ravel().astype(np.int64) for i in both)])
    shape = 1 + int(rows.max(initial=0)), clusters + 1
    return sp.coo_array((np.ones(len(rows), np.int64), (rows, columns)), shape=shape).tocsr()
