"""Seeded draws that depend on the seed and the image id only: never on shard, order or worker."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from maskmill.store.manifest import owner
from maskmill.store.ragged import Ragged
from maskmill.store.valid import all_valid_only

FEW = 16  # a store of which no more than every sixteenth image is wanted is read image by image, not from end to end


def rng(seed: int, *keys: str) -> np.random.Generator:
    """A generator for (seed, keys), the same on every machine."""
    digest = hashlib.blake2b("\0".join([str(seed), *keys]).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def batch_rows(step: int, size: int, count: int, seed: int, key: str) -> np.ndarray:
    """Which of `count` things batch `step` of `size` takes [size]: each once before any comes again, in a new order.

    It depends on nothing but the arguments, so that a training can begin at any step.
    """
    first, last = step * size, (step + 1) * size
    parts = []
    for turn in range(first // count, -(-last // count)):
        start = turn * count
        parts.append(_turn(count, turn, seed, key)[max(first, start) - start : last - start])
    return np.concatenate(parts)


@lru_cache(maxsize=2)  # a batch may span two turns
def _turn(count: int, turn: int, seed: int, key: str) -> np.ndarray:
    return rng(seed, key, str(turn)).permutation(count)


def sample_rows(stores: Iterable[Ragged], max_points: int, seed: int) -> np.ndarray:
    """At most `max_points` rows [m, d] float32 over all stores, images in the order of their ids.

    All rows when they fit. Otherwise every image gives an even quota, drawn without replacement by the generator of
    (seed, image id); an image smaller than the quota gives all it has. Where there are more images than `max_points`,
    as many of them give one row each, drawn by (seed, image id) as well, and the others are not read. Rows that show no
    data (`Ragged.valid`) do not exist for the draw.

    All windows of a large image share the quota of one image, wherever they are stored, and are drawn from as one: by
    area. They never give more rows than all other images together, so that one slide among photos does not decide
    alone what the clusters are.
    """
    return sample_of_images(stores, max_points, seed)[0]


def sample_of_images(stores: Iterable[Ragged], max_points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `sample_rows`, and of each the image that it is of [m] int64: 0, 1, ... in the order of their ids."""
    stores = all_valid_only(list(stores))
    places = sorted(_places(stores, max_points, seed))
    sizes = np.array([stores[s].offsets[i + 1] - stores[s].offsets[i] for _, s, i in places], dtype=np.int64)
    rows_of = _rows_of([image_id for image_id, _, _ in places], sizes, max_points, seed)
    picked = {(s, i): rows for (_, s, i), rows in zip(places, rows_of, strict=True)}
    ends = np.cumsum([len(picked[s, i]) for _, s, i in places])
    end = {(s, i): int(stop) for (_, s, i), stop in zip(places, ends, strict=True)}
    depth = next((store.depth or 1 for store in stores), 1)
    out = np.empty((int(ends[-1]) if len(ends) else 0, depth), np.float32)
    for place, rows in _gather(stores, picked):
        out[end[place] - len(rows) : end[place]] = rows
    images = np.repeat(np.arange(len(places)), [len(picked[s, i]) for _, s, i in places])
    return out[:max_points], images[:max_points]


def _places(stores: Sequence[Ragged], limit: int, seed: int) -> Iterable[tuple[str, int, int]]:
    """(id, store, position) of the pictures that are drawn from: all, or `limit` of those that have rows."""
    if sum(len(store) for store in stores) <= limit:
        return ((image_id, s, i) for s, store in enumerate(stores) for i, image_id in enumerate(store.ids))
    filled = (
        (image_id, s, i)
        for s, store in enumerate(stores)
        for i, image_id in enumerate(store.ids)
        if store.offsets[i + 1] > store.offsets[i]
    )
    order = _orderer(seed)
    return heapq.nsmallest(limit, filled, key=lambda place: order(place[0]))


def smallest(ids: Iterable[str], limit: int, seed: int) -> list[int]:
    """Places of the images that are drawn from where no more than `limit` are wanted, ascending.

    The ids are gone through once and not kept.
    """
    found = heapq.nsmallest(limit, ((key, place) for place, key in enumerate(map(_orderer(seed), ids))))
    return sorted(place for _, place in found)


def _orderer(seed: int) -> Callable[[str], bytes]:
    """Image id -> where the image stands in the draw of images: the BLAKE2b of both, which begins alike for all."""
    begun = hashlib.blake2b(f"{seed}\0image\0".encode(), digest_size=8)

    def order(image_id: str) -> bytes:
        rest = begun.copy()
        rest.update(image_id.encode())
        return rest.digest()

    return order


def _rows_of(ids: Sequence[str], sizes: np.ndarray, limit: int, seed: int) -> list[np.ndarray]:
    """Which rows each picture gives, of `sizes` [n] int64; the windows of one image are drawn from as one."""
    owners: dict[str, list[int]] = {}
    for i, image_id in enumerate(ids):
        owners.setdefault(owner(image_id), []).append(i)
    totals = np.array([sizes[members].sum() for members in owners.values()], dtype=np.int64)
    windowed = np.array([len(members) > 1 for members in owners.values()], dtype=bool)
    most = np.where(windowed, np.minimum(totals, np.maximum(totals.sum() - totals, 1)), totals)
    if len(owners) == 1:
        most = totals
    quota = _quota(most, limit)
    rows: list[np.ndarray] = [np.zeros(0, np.int64)] * len(ids)
    for (image_id, members), total, bound in zip(owners.items(), totals.tolist(), most.tolist(), strict=True):
        taken = drawn(total, min(quota, bound), seed, image_id)
        ends = np.cumsum(sizes[members])
        for i, part, end in zip(members, np.split(taken, np.searchsorted(taken, ends[:-1])), ends, strict=True):
            rows[i] = part - (end - sizes[i])
    return rows


def _quota(sizes: np.ndarray, max_points: int) -> int:
    """Largest rows an image such that the total stays within `max_points` (at least 1)."""
    if sizes.sum() <= max_points:
        return int(sizes.max(initial=0))
    low, high = 1, int(sizes.max(initial=1))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= max_points else (low, middle - 1)
    return low


def drawn(size: int, quota: int, seed: int, image_id: str) -> np.ndarray:
    """Which of an image's `size` rows are drawn, ascending: `quota` of them, or all where there are no more."""
    if size <= quota:
        return np.arange(size)
    return np.sort(rng(seed, image_id).choice(size, quota, replace=False))


def _gather(
    stores: Sequence[Ragged], picked: dict[tuple[int, int], np.ndarray]
) -> Iterable[tuple[tuple[int, int], np.ndarray]]:
    """Read each store once, in file order, about one chunk in memory at a time; of few images only their chunks."""
    wanted: dict[int, list[int]] = {}
    for s, i in sorted(place for place, rows in picked.items() if len(rows)):
        wanted.setdefault(s, []).append(i)
    for s, images in wanted.items():
        if len(images) * FEW > len(stores[s]):
            chosen = set(images)
            read = ((i, values) for i, (_, values) in enumerate(stores[s].images()) if i in chosen)
        else:
            read = ((i, stores[s][i]) for i in images)
        for i, values in read:
            yield (s, i), values.reshape(-1, values.shape[-1])[picked[s, i]].astype(np.float32)
