"""K groups of a token graph at once, without eigenvectors: what the cut `kcut` computes.

Notation: affinity A [n, n], degree d = A 1; of group k the indicator z_k, its weight inside q_k = z_k A z_k and its
volume v_k = d z_k. Ncut = K - J with J = sum_k q_k / v_k, which is what is raised here, never lowered:

1. A fine partition: every token joins one of some hundred seeds, some on an even grid, some farthest from all others;
   there are about twice as many as groups where that is more.
2. The fine groups are joined, each time the two whose union costs least J, until K are left, and then exchanged.
3. The tokens: `alternate`, then single exchanges.

Steps 1 and 2 are a multilevel start (Dhillon, Guan, Kulis, "Weighted graph cuts without eigenvectors", TPAMI 2007).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from maskmill.cut._partition import group_sums
from maskmill.cut._weighted import WeightedAffinity

SIDE = 10  # seeds a side of the image
FARTHEST = 44  # more seeds at least, where the image differs most from those so far; with many groups more of them
FINE_STEPS = 5  # of the fine partition: it need not converge
STEPS = 100  # of the groups themselves; there were never more than 30
FREE = 1e-5  # J that two groups of the same tokens differ by from their union: they are one
GAIN = 1e-9  # least J that an exchange must bring
INERTIA = (0.05, 5.0)  # the first regularisation tried, and the last


@dataclass(frozen=True)
class Partition:
    """Groups 0..k-1 of tokens: labels int64 [n], and J after every step that was taken, ascending."""

    labels: np.ndarray
    trace: list[float] = field(default_factory=list)


def partition(affinity: WeightedAffinity, groups: int, shape: tuple[int, int]) -> Partition:
    """At most `groups` groups of the tokens of a grid [h, w], none of them empty; nothing is drawn at random.

    There are fewer where there are fewer tokens, or fewer kinds of them.
    """
    matrix, degree = affinity.matrix, affinity.degree.double().numpy()
    n = len(degree)
    even = _even(shape)
    farthest = max(FARTHEST, 2 * groups - len(even))  # twice as many seeds as groups: fine groups are only ever joined
    fine = _fine(matrix, degree, even, farthest) if n > SIDE**2 + farthest else np.arange(n)
    small = between(matrix, fine)  # [m, m]
    volume = np.bincount(fine, degree)
    coarse = joined(small, volume, groups)
    count = int(coarse.max()) + 1
    trace = [objective(group_sums(torch.from_numpy(small), coarse, count), volume, coarse)]
    coarse, steps = exchanged(torch.from_numpy(small), volume, coarse, count)
    labels, more = alternate(matrix, degree, coarse[fine], count)
    labels, last = exchanged(matrix, degree, labels, count)
    return Partition(labels, trace + steps + more + last)


def between(matrix: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """z_k A z_l of all pairs of groups: float64 [k, k], symmetric."""
    count = int(labels.max()) + 1
    rows = torch.from_numpy(group_sums(matrix, labels, count).T.copy())  # [n, k]
    both = torch.zeros(count, count, dtype=rows.dtype).index_add_(0, torch.from_numpy(labels), rows).numpy()
    return (both + both.T) / 2


def inside(products: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """q_k [count] of the groups' `group_sums` [count, n]."""
    return np.bincount(labels, products[labels, np.arange(len(labels))], minlength=len(products))


def objective(products: np.ndarray, degree: np.ndarray, labels: np.ndarray) -> float:
    """J of groups none of which is empty, by their `group_sums`."""
    return float((inside(products, labels) / np.bincount(labels, degree, minlength=len(products))).sum())


def alternate(
    matrix: torch.Tensor, degree: np.ndarray, labels: np.ndarray, count: int, steps: int = STEPS
) -> tuple[np.ndarray, list[float]]:
    """All tokens at once choose their groups, again and again: labels, and J after each step.

    The fractional quadratic transform of J (Shen, Yu, "Fractional programming for communication systems", 2018) is
    sum_k 2 y_k F z_k - |y_k|^2 d z_k with A = F' F, largest at y_k = F z_k / v_k. With these y fixed it is a sum over
    the tokens, so that each goes where 2 (A z_k)_i / v_k - d_i q_k / v_k^2 is largest, and J can not fall. Where A has
    negative eigenvalues it can: then sigma D is added to A, which lowers every Ncut by the same, makes A definite
    where sigma is large enough, and here keeps a token where it is unless it gains enough. A step that would lower J or
    empty a group is tried again with twice the sigma; after each step taken sigma is halved.
    """
    trace: list[float] = []
    products, sigma = group_sums(matrix, labels, count), 0.0
    while len(trace) < steps:
        volume, own = np.bincount(labels, degree, minlength=count)[:, None], np.arange(count)[:, None] == labels
        value = objective(products, degree, labels)
        plain = 2 * products / volume - degree * (inside(products, labels)[:, None] / volume**2)
        pull = degree * (2.0 * own - 1) / volume
        while sigma <= INERTIA[1]:
            new = (plain + sigma * pull).argmax(0)
            if (new == labels).all():
                return labels, trace
            if np.bincount(new, minlength=count).all():
                found = group_sums(matrix, new, count)
                if objective(found, degree, new) > value:
                    break
            sigma = max(2 * sigma, INERTIA[0])
        else:
            return labels, trace
        labels, products, sigma = new, found, sigma / 2
        trace.append(objective(products, degree, labels))
    return labels, trace


def exchanged(
    matrix: torch.Tensor, degree: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, list[float]]:
    """One token at a time moves to the group where J gains most, until none gains: labels, and J after each move.

    No group is emptied. `matrix` may be that of fine groups: then whole groups of tokens move.
    """
    labels, rows, n = labels.copy(), matrix.numpy(), len(labels)
    products, every, own = group_sums(matrix, labels, count), np.arange(n), rows.diagonal().astype(np.float64)
    weight, volume = inside(products, labels), np.bincount(labels, degree, minlength=count)
    size, trace = np.bincount(labels, minlength=count), []
    for _ in range(10 * n if count > 1 else 0):
        ratio = weight / volume
        left = volume[labels] - degree
        with np.errstate(divide="ignore", invalid="ignore"):
            loss = ratio[labels] - (weight[labels] - 2 * products[labels, every] + own) / left
        loss[size[labels] == 1] = np.inf
        gain = (weight[:, None] + 2 * products + own) / (volume[:, None] + degree) - ratio[:, None]
        gain[labels, every] = -np.inf
        to = gain.argmax(0)
        total = gain[to, every] - loss
        i = int(total.argmax())
        if not total[i] > GAIN:
            break
        here, there = labels[i], to[i]
        weight[here] += own[i] - 2 * products[here, i]
        weight[there] += own[i] + 2 * products[there, i]
        for group, sign in ((here, -1), (there, 1)):
            volume[group] += sign * degree[i]
            products[group] += sign * rows[i]
            size[group] += sign
        labels[i] = there
        trace.append(float((weight / volume).sum()))
    return labels, trace


def joined(between: np.ndarray, volume: np.ndarray, groups: int) -> np.ndarray:
    """Labels [m] of m fine groups joined until `groups` are left, each time the two whose union costs least J.

    Groups of the same tokens are joined beyond that: parting them brings nothing.
    """
    pairs, volume = between.copy(), volume.copy()
    labels, numbers = np.arange(len(volume)), np.arange(len(volume))
    while len(volume) > 1:
        weight = pairs.diagonal()
        ratio = weight / volume
        union = (weight[:, None] + weight + 2 * pairs) / (volume[:, None] + volume)
        cost = ratio[:, None] + ratio - union
        np.fill_diagonal(cost, np.inf)
        first, second = sorted(divmod(int(cost.argmin()), len(volume)))
        if len(volume) <= groups and abs(cost[first, second]) > FREE:
            break
        pairs[first] += pairs[second]
        pairs[:, first] += pairs[:, second]
        volume[first] += volume[second]
        labels[labels == numbers[second]] = numbers[first]
        pairs = np.delete(np.delete(pairs, second, 0), second, 1)
        volume, numbers = np.delete(volume, second), np.delete(numbers, second)
    return np.searchsorted(numbers, labels)


def _fine(matrix: torch.Tensor, degree: np.ndarray, even: np.ndarray, farthest: int) -> np.ndarray:
    """Labels [n] of the fine partition from the seeds `even` and so many farthest ones; every label has a token."""
    rows = matrix.numpy()
    seeds = np.unique(np.concatenate([even, _farthest(rows, degree, farthest)]))
    own = rows.diagonal()[seeds].astype(np.float64)
    labels = (2 * rows[seeds] / degree[seeds, None] - degree * (own / degree[seeds] ** 2)[:, None]).argmax(0)
    labels[seeds] = np.arange(len(seeds))
    return alternate(matrix, degree, labels, len(seeds), FINE_STEPS)[0]


def _even(shape: tuple[int, int]) -> np.ndarray:
    """Tokens on an even grid of SIDE x SIDE places of a grid [h, w], fewer where it has fewer rows or columns."""
    rows, columns = (((np.arange(SIDE) + 0.5) * length / SIDE).astype(np.int64) for length in shape)
    return np.unique(rows[:, None] * shape[1] + columns)


def _farthest(rows: np.ndarray, degree: np.ndarray, count: int) -> np.ndarray:
    """Tokens each of which costs most in the groups of those before it; the first is the one of the largest degree."""
    own = rows.diagonal() / degree**2
    nearest, seeds = np.full(len(degree), np.inf), [int(degree.argmax())]
    while len(seeds) < count:
        seed = seeds[-1]
        nearest = np.minimum(nearest, own - 2 * rows[seed] / (degree * degree[seed]) + own[seed])
        nearest[seed] = -np.inf
        seeds.append(int((degree * nearest).argmax()))
    return np.array(seeds)
