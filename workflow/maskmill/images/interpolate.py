"""Bilinear interpolation between token grids, by two small matrix products; cells are areas, edge cells extend."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

BLOCK = 64  # classes upsampled at once: bounds the memory for hundreds of clusters


def matrix(source: int, target: int) -> np.ndarray:
    """Matrix [target, source] float32 of linear interpolation between the cell centres of two grids of one length."""
    at = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)  # target centres in source cells
    low = np.minimum(at.astype(np.int64), max(source - 2, 0))
    share = at - low
    weights = np.zeros((target, source), np.float32)
    weights[np.arange(target), low] = 1 - share
    weights[np.arange(target), np.minimum(low + 1, source - 1)] += share
    return weights


def overlap(fine: int, coarse: int) -> np.ndarray:
    """Length that each of `fine` equal cells of [0, 1] shares with each of `coarse` ones [fine, coarse], in fine cells.

    Exact: edges are compared as whole numbers of 1 / (fine * coarse).
    """
    a, b = np.arange(fine + 1) * coarse, np.arange(coarse + 1) * fine
    shared = np.minimum(a[1:, None], b[None, 1:]) - np.maximum(a[:-1, None], b[None, :-1])
    return np.maximum(shared, 0) / coarse


def resize_maps(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Maps [c, h, w] -> [c, H, W] float32.

    In torch, whose thread count the caller sets: one thread for results that depend on nothing else.
    """
    import torch

    h, w = maps.shape[1:]
    maps = np.ascontiguousarray(maps, dtype=np.float32)
    if (h, w) == size:
        return maps
    wide = torch.from_numpy(maps) @ _tensor(w, size[1]).T  # [c, h, W]
    return torch.matmul(_tensor(h, size[0]), wide).numpy()


@lru_cache(maxsize=1024)
def _tensor(source: int, target: int) -> torch.Tensor:
    import torch

    return torch.from_numpy(matrix(source, target))


def upsample_scores(scores: np.ndarray, factor: int) -> np.ndarray:
    """Index of the highest interpolated score, [h * factor, w * factor] int64; a tie goes to the lowest index.

    Args:
        scores: [k, h, w] float.
    """
    return best_scores(scores, (scores.shape[1] * factor, scores.shape[2] * factor))


def best_scores(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`upsample_scores` on a grid of any size (H, W)."""
    best = np.full(size, -np.inf, np.float32)
    label = np.zeros(size, np.int64)
    for start in range(0, len(scores), BLOCK):
        fine = resize_maps(scores[start : start + BLOCK], size)
        winner = fine.argmax(axis=0)
        value = np.take_along_axis(fine, winner[None], axis=0)[0]
        better = value > best
        best[better], label[better] = value[better], winner[better] + start
    return label


def upsample_softmax(logits: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """`upsample_scores` of logits [k, h, w], and the softmax of the winner, float32 of the same size."""
    k, h, w = logits.shape
    size = (h * factor, w * factor)
    best = np.full(size, -np.inf, np.float32)
    label, total = np.zeros(size, np.int64), np.zeros(size, np.float32)  # total: sum of exp(logit - best)
    for start in range(0, k, BLOCK):
        fine = resize_maps(logits[start : start + BLOCK], size)
        winner = fine.argmax(axis=0)
        value = np.take_along_axis(fine, winner[None], axis=0)[0]
        better = value > best
        label[better] = winner[better] + start
        top = np.maximum(best, value)
        total = total * np.exp(best - top) + np.exp(fine - top).sum(axis=0)
        best = top
    return label, 1 / total


def softmax_at(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Softmax [H, W] float32 of the class `label` [H, W] in logits [k, h, w], interpolated to its grid."""
    best = np.full(label.shape, -np.inf, np.float32)
    total, chosen = np.zeros(label.shape, np.float32), np.zeros(label.shape, np.float32)
    for start in range(0, len(logits), BLOCK):
        fine = resize_maps(logits[start : start + BLOCK], label.shape)
        top = np.maximum(best, fine.max(axis=0))
        total = total * np.exp(best - top) + np.exp(fine - top).sum(axis=0)
        best = top
        inside = (label >= start) & (label < start + len(fine))
        own = np.take_along_axis(fine, np.where(inside, label - start, 0)[None], axis=0)[0]
        chosen[inside] = own[inside]
    return np.asarray(np.exp(chosen - best) / total)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels [h, w] -> [H, W] of the same type: the label with most bilinear weight.

    The boundary between two labels becomes smooth instead of a staircase; a tie goes to the lowest label.
    """
    if labels.shape == tuple(size):
        return labels.copy()
    present, one_hot = one_hots(labels)
    return present[best_scores(one_hot, size)]


def majority(labels: np.ndarray, factor: int) -> np.ndarray:
    """Labels [h * factor, w * factor] -> [h, w]: what most of a cell is; a tie goes to the lowest label."""
    if factor == 1:
        return labels
    present, maps = one_hots(labels)
    k, height, width = maps.shape
    shares = maps.reshape(k, height // factor, factor, width // factor, factor).sum(axis=(2, 4))
    return present[shares.argmax(axis=0)]


def one_hots(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct labels [k], ascending, and for each its 0/1 map: [k, h, w] float32."""
    present, index = np.unique(labels, return_inverse=True)
    index = index.reshape(labels.shape)
    return present, (index[None] == np.arange(len(present))[:, None, None]).astype(np.float32)
