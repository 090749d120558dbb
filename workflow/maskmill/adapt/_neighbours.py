"""The images (or crops) most like each one: mean tokens, cosine, the k nearest of all.

In place of STEGO's dense N x N product: blocks of rows against blocks of columns with a running top k, so that memory
is O(block x N); above `EXACT_POINTS` items NN-descent, seeded (see `maskmill.numerics.neighbours`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskmill.adapt._data import CROPS, Crops, crop, shown_ids
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.numerics.blocks import one_thread
from maskmill.numerics.neighbours import EXACT_POINTS, NeighbourIndex
from maskmill.store.artefact import read_table, write_table
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged


@dataclass(frozen=True)
class Neighbours:
    """Nearest items of every item, itself left out.

    Attributes:
        ids: of the images, sorted; item j is crop j % CROPS[crops] of image j // CROPS[crops].
        found: [n, k] int32, nearest first. similarity: [n, k] float32, cosine. hash: of what made the table.
    """

    ids: Sequence[str]
    crops: Crops
    found: np.ndarray
    similarity: np.ndarray
    hash: str = ""


def neighbours_of(neighbours: Neighbours | None, crops: Crops, k: int) -> np.ndarray:
    """Rows [n, k] of the table that a training needs.

    Raises:
        ConfigError: none is given, or it is of other crops or of fewer neighbours.
    """
    if neighbours is None:
        raise ConfigError("adapt: this method needs the table of nearest images; give --neighbours")
    if neighbours.crops != crops or neighbours.found.shape[1] < k:
        made = f"crops {neighbours.crops} and {neighbours.found.shape[1]} neighbours"
        raise ConfigError(f"--neighbours: made for {made}, the section asks for {crops} and {k}; make it again")
    return neighbours.found[:, :k]


def vectors(stores: Sequence[str | Path], crops: Crops) -> tuple[list[str], np.ndarray]:
    """Ids [n], sorted, and the mean token of each item, [n * crops, d] float32; one image is held at a time.

    Tokens that show no data count in no mean of an item that has others; images without any data are left out.
    """
    opened = [Ragged(path) for path in stores]
    ids = sorted(image_id for store in opened for image_id in shown_ids(store))
    place = {image_id: i for i, image_id in enumerate(ids)}
    depth, count = next((store.depth or 1 for store in opened), 1), CROPS[crops]
    out = np.zeros((len(ids) * count, depth), np.float32)
    for store in opened:
        for image_id, tokens in store.images():
            if image_id not in place:
                continue
            valid = store.valid(image_id)
            for which in range(count):
                view = crop(tokens, crops, which).reshape(-1, depth)
                if valid is not None and (there := crop(valid, crops, which).ravel()).any():
                    view = view[there]
                out[place[image_id] * count + which] = view.mean(axis=0, dtype=np.float32)
    return ids, out


def search(ids: Sequence[str], x: np.ndarray, crops: Crops, k: int, seed: int, exact: int = EXACT_POINTS) -> Neighbours:
    """The k nearest other items of each by cosine.

    Args:
        x: [n, d] float32, one vector an item.

    Raises:
        NumericsError: k or fewer items, or NaN.
    """
    if len(x) <= k:
        raise NumericsError(f"adapt.neighbours: {k} neighbours need more than {len(x)} images; use more images, or set "
                            f"adapt.neighbours to {max(1, len(x) - 1)} or less")  # fmt: skip
    found, distance = NeighbourIndex.of(x, "cosine", "adapt").graph(k + 1, seed, exact)
    return Neighbours(ids, crops, found[:, 1:].astype(np.int32), 1 - distance[:, 1:])


def run(stores: Sequence[str | Path], crops: Crops, k: int, out: str | Path, threads: int, seed: int = 0) -> None:
    """Write the table of one feature set: Parquet with image, crop, neighbours (rows of the table), similarity.

    Args:
        stores: of all shards; the table does not depend on how images are spread over them.
    """
    import pyarrow as pa
    import torch

    torch.set_num_threads(threads)
    with one_thread():
        ids, x = vectors(stores, crops)
    found = search(ids, x, crops, k, seed)
    count = CROPS[crops]
    body = pa.table(
        {
            "image": pa.array([image_id for image_id in ids for _ in range(count)]),
            "crop": pa.array(np.tile(np.arange(count), len(ids)), pa.int8()),
            "neighbours": pa.FixedSizeListArray.from_arrays(pa.array(found.found.ravel(), pa.int32()), k),
            "similarity": pa.FixedSizeListArray.from_arrays(pa.array(found.similarity.ravel(), pa.float32()), k),
        }
    )
    settings = {"crops": crops, "neighbours": k, "seed": seed}
    write_table(out, body, Provenance.of("adapt", settings, [Ragged(path).hash for path in stores]))


def read(path: str | Path, ids: Sequence[str]) -> Neighbours:
    """The table of a feature set with these images.

    Raises:
        StoreError: another table, or one of other images.
    """
    table = read_table(path, ["image", "crop", "neighbours", "similarity"])
    images = table["image"].to_pylist()
    count = 1 + max(table["crop"].to_pylist(), default=0)
    if images[::count] != list(ids):
        raise StoreError(f"{path}: its images are not those of the features; delete it and run again")
    k = table["neighbours"].type.list_size
    found, similarity = (
        table[name].combine_chunks().flatten().to_numpy().reshape(-1, k) for name in ("neighbours", "similarity")
    )
    crops: Crops = "five" if count == CROPS["five"] else "none"
    made = json.loads((table.schema.metadata or {}).get(b"maskmill", b"{}"))
    return Neighbours(ids, crops, found, similarity, str(made.get("hash", "")))
