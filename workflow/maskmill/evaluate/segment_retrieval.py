"""Nearest-segment retrieval: labels that the segments of a photo get from the labelled segments most like them.

Hwang et al., "SegSort" (ICCV 2019), section 3.4, and its code: the tokens of a photo are divided into segments by
spherical k-means with their places (`maskmill.numerics.vmf`). A segment of a labelled image has the majority class of
its tokens, and its vector is the direction of the sum of those tokens of it that have this class. A segment of another
image gets the class that most of its nearest labelled segments have. Nothing is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskmill.evaluate.readout import Half, Reading, no_pixel
from maskmill.evaluate.retrieval import Memory, chosen, directions
from maskmill.numerics.blocks import one_thread
from maskmill.progress import track
from maskmill.recipe.scoring import Evaluate, Retrieval, SegmentRetrieval


@dataclass(frozen=True)
class SegmentMemory:
    """Labelled segments that others are compared with; see `readout.Reader`."""

    memory: Memory
    params: SegmentRetrieval

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Votes [classes, h, w] for tokens [h, w, d]: of each cell how many neighbours of its segment have a class."""
        import torch

        h, w, d = tokens.shape
        rows = directions(tokens.reshape(h * w, d))
        places = segments_of(rows.reshape(h, w, d), self.params)
        vectors = torch.from_numpy(summed(rows, places)).to(self.memory.keys.device)
        with one_thread():
            _, found = self.memory.nearest(vectors)
        votes = self.memory.labels[found].sum(1).cpu().numpy()  # [segments, classes]
        return np.ascontiguousarray(votes[places].T.reshape(-1, h, w))


def learn(half: Half, settings: Evaluate, seed: int, threads: int) -> Reading:
    """Fill the memory; see `readout.Readout`."""
    params = settings.segment_retrieval or SegmentRetrieval()
    keys, labels = fill(half, params, seed)
    memory = Memory.of(keys, labels, Retrieval(neighbours=params.neighbours), threads)
    reader = SegmentMemory(memory, params)
    return Reading(reader, params.model_dump(mode="json"), {"segments": float(len(keys))})


def fill(half: Half, params: SegmentRetrieval, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions [m, d] and classes [m, classes] (0 or 1) of labelled segments, float32, of at most `bank` segments.

    Tokens without a scored pixel are in no segment; of equally frequent classes the first one counts.
    """
    ids = chosen(half.ids, max(1, params.bank // params.parts**2), seed)
    keys, labels = [], []
    for image_id, tokens, mass in track(half.images(ids), len(ids), "memory"):
        rows, store = directions(tokens), half.stores[image_id]
        height, width = (int(side) for side in store.grid[store.index(image_id)])
        places = segments_of(rows.reshape(height, width, -1), params)
        scored = mass.any(1)
        for segment in np.unique(places[scored]):
            inside = scored & (places == segment)
            own = mass[inside].argmax(1)
            majority = np.bincount(own, minlength=mass.shape[1]).argmax()
            keys.append(rows[inside][own == majority].sum(0))
            labels.append(np.eye(mass.shape[1], dtype=np.float32)[majority])
    if not keys:
        raise no_pixel()
    return directions(np.stack(keys)), np.stack(labels)


def segments_of(tokens: np.ndarray, params: SegmentRetrieval) -> np.ndarray:
    """The segment 0, 1, ... of each of tokens [h, w, d] of unit length: [h * w]."""
    import torch

    from maskmill.numerics import vmf

    with one_thread():
        return vmf.segments(torch.from_numpy(tokens), params.parts, params.iterations).numpy().ravel()


def summed(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Directions of the sums of rows [n, d] by their segment [n]: float32 [segments, d]."""
    total = np.zeros((int(places.max()) + 1, rows.shape[1]), np.float64)
    np.add.at(total, places, rows)
    return directions(total)
