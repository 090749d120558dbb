"""Prepares the data of the next steps while a step is computed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def ahead(make: Callable[[A], B], items: Iterable[A], count: int = 2) -> Iterator[B]:
    """`make` of each item, in order, by one thread that is at most `count` items ahead."""
    rest = iter(items)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = deque(pool.submit(make, item) for item in itertools.islice(rest, count))
        while waiting:
            ready = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in itertools.islice(rest, 1))
            yield ready
