"""Fixed blocks of rows and work on them in threads: results do not depend on thread count, shards or file order."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from maskmill.store.ragged import Ragged
from maskmill.store.valid import all_valid_only

A = TypeVar("A")
B = TypeVar("B")
READ_CHUNKS = 4  # chunks a read: 16 MiB


def by_id(stores: Sequence[Ragged], rows: int = 8192) -> Iterator[np.ndarray]:
    """All rows of `stores` in blocks of `rows` rows [rows, d] float32, images in the order of their ids.

    The blocks do not depend on how the images are spread over the stores. One block and one read are held. Rows that
    show no data (`Ragged.valid`) are left out.
    """
    reads = (store.rows(start, stop) for store, start, stop in _runs(all_valid_only(stores)))
    return (block.astype(np.float32, copy=False) for block in rows_in_blocks(reads, rows))


def codes_by_id(stores: Sequence[Ragged], rows: int = 8192) -> Iterator[np.ndarray]:
    """The codes [rows, bytes] uint8 of the blocks of `by_id`, of product-quantised stores."""
    return rows_in_blocks((store.stored(start, stop) for store, start, stop in _runs(all_valid_only(stores))), rows)


def rows_in_blocks(reads: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """What is read, in blocks of `rows` rows; the last may have fewer."""
    parts: list[np.ndarray] = []
    held = 0
    for part in reads:
        while held + len(part) >= rows:
            parts.append(part[: rows - held])
            part = part[rows - held :]
            yield np.concatenate(parts)
            parts, held = [], 0
        if len(part):
            parts.append(part)
            held += len(part)
    if parts:
        yield np.concatenate(parts)


def _runs(stores: Sequence[Ragged]) -> Iterator[tuple[Ragged, int, int]]:
    """Store, first and last row of the images in the order of their ids; neighbours in a store are read at once.

    A chunk holds several images: image by image, it would be decoded several times.
    """
    places = sorted((image_id, s, i) for s, store in enumerate(stores) for i, image_id in enumerate(store.ids))
    k = 0
    while k < len(places):
        _, s, first = places[k]
        store, last, limit = stores[s], first + 1, READ_CHUNKS * stores[s].values.chunks[0]
        k += 1
        while (
            k < len(places) and places[k][1:] == (s, last) and store.offsets[last + 1] - store.offsets[first] <= limit
        ):
            last, k = last + 1, k + 1
        yield store, int(store.offsets[first]), int(store.offsets[last])


@contextlib.contextmanager
def one_thread() -> Iterator[int]:
    """Inside, torch uses one thread, so that a matrix product does not depend on the thread count; yields the count."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def ordered(function: Callable[[A], B], items: Iterable[A], threads: int, each: int = 2) -> Iterator[B]:
    """`function` of each item, in order, computed by `threads` threads; at most `each` items a thread are in flight.

    Run it inside `one_thread()`; every worker sets its own torch threads to one as well.
    """
    import torch

    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        flying: deque[Future[B]] = deque()
        for item in items:
            flying.append(pool.submit(function, item))
            if len(flying) >= each * threads:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
