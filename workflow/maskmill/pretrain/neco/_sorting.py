"""Differentiable sorting networks: numbers -> how likely each of them takes each place in their order.

Petersen, Borgelt, Kuehne and Deussen, "Differentiable sorting networks for scalable sorting and ranking supervision"
(ICML 2021) and "Monotonic differentiable sorting networks" (ICLR 2022). A sorting network is a fixed sequence of
comparators, each of which puts the smaller of two numbers on one wire and the larger on the other. Here a comparator
swaps in part: a number a on the wire of the smaller one keeps it by 1/2 + arctan(steepness * (b - a)) / pi, or by the
logistic function; the rest changes wires. The product of all layers is doubly stochastic, and the closer to a
permutation the steeper its comparators are.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

Kind = Literal["bitonic", "odd_even"]
Relaxation = Literal["cauchy", "logistic"]
UNSORTED = (22, 38, 42, 43, 44, 45, 46, 54)  # sizes that the published bitonic network does not sort
LARGEST = 64  # size up to which that was looked for


class Network(NamedTuple):
    """Comparators on n wires, in layers that follow one another.

    Attributes:
        partners: int64 [layers, n], the wire that each is compared with; a wire that is its own partner passes.
        signs: float32 [layers, n], 1 where the smaller number goes, -1 where the larger one goes, 0: the wire passes.
    """

    partners: torch.Tensor
    signs: torch.Tensor


def network(kind: Kind, size: int) -> Network:
    """A network that sorts `size` numbers in ascending order.

    Raises:
        ValueError: a bitonic network of a size that is not sorted.
    """
    if kind == "odd_even":
        return _stacked(size, [[(a, a + 1) for a in range(i % 2, size - 1, 2)] for i in range(size)])
    if size in UNSORTED or size > LARGEST:
        raise ValueError(f"{size} numbers: the bitonic network of this size does not sort; odd_even does")
    return _stacked(size, _bitonic(size))


def _bitonic(size: int) -> list[list[tuple[int, int]]]:
    """Batcher's bitonic network of the next power of two, less its first wires and all comparators on them.

    What is left sorts all square numbers, among others (`UNSORTED`); the published one is the same.
    """
    blocks = math.ceil(math.log2(size))
    dropped = 2**blocks - size
    found = []
    for block in range(blocks):
        for inner in range(block, -1, -1):
            pairs = []
            for low in range(dropped, 2**blocks):
                if (low >> inner) % 2:  # the upper wire of a comparator
                    continue
                high = low + 2**inner
                descending = (low >> (block + 1)) % 2
                first, second = (high, low) if descending else (low, high)
                pairs.append((first - dropped, second - dropped))
            found.append(pairs)
    return found


def _stacked(size: int, comparators: list[list[tuple[int, int]]]) -> Network:
    """comparators: of each layer, (wire of the smaller number, wire of the larger one)."""
    partners = torch.arange(size).repeat(len(comparators), 1)
    signs = torch.zeros(len(comparators), size)
    for layer, pairs in enumerate(comparators):
        for low, high in pairs:
            partners[layer, low], partners[layer, high] = high, low
            signs[layer, low], signs[layer, high] = 1.0, -1.0
    return Network(partners, signs)


def order(values: torch.Tensor, sorting: Network, steepness: float, relaxation: Relaxation = "cauchy") -> torch.Tensor:
    """Relaxed permutation matrices that sort rows of numbers.

    Args:
        values: [rows, n]. sorting: of `network`, for n numbers, on the same device. steepness: how sharply near numbers
            are told apart.

    Returns:
        [n, rows, n]: share of place j (first axis, ascending) that number i (last axis) of a row has. Shares of a place
        add up to one, and so do those of a number.
    """
    rows, n = values.shape
    x = values.T  # [wires, rows]
    shares = torch.eye(n, dtype=values.dtype, device=values.device)[:, None, :].expand(n, rows, n)
    for partner, sign in zip(sorting.partners, sorting.signs.to(values.dtype), strict=True):
        difference = x[partner] - x
        moved = _exchanged(steepness * sign[:, None] * difference, relaxation)
        x = x + moved * difference
        shares = shares + moved[..., None] * (shares[partner] - shares)
    return shares


def _exchanged(v: torch.Tensor, relaxation: Relaxation) -> torch.Tensor:
    """Share that changes wires; v: how far a number is on the right side of its partner, times the steepness."""
    if relaxation == "logistic":
        return torch.sigmoid(-v)
    return 0.5 - torch.atan(v) / math.pi
