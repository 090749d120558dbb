"""Dense nearest-neighbour retrieval: labels that tokens get from the labelled tokens most like them.

Balazevic et al., "Towards In-Context Scene Understanding" (NeurIPS 2023), section 3: a memory of tokens of labelled
images, each with the distribution of the classes over its pixels. A token of another image is compared with all of
them by cosine; its k nearest vote with their distributions, weighted by a softmax of the cosines divided by a
temperature. The votes are interpolated to the pixels. Nothing is trained, so the score says how the features lie, not
what a classifier makes of them.

The memory is bounded as in the open re-implementation (open-hummingbird-eval): every image gives an equal share of it.
Of an image with more tokens than that, those of classes that are rare in the image come first. Every class of a token
counts the image's tokens that have it; the sum of these counts times a uniform number is the token's key, and the
smallest keys are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from maskmill.device import pick
from maskmill.errors import NumericsError
from maskmill.evaluate.readout import Half, Reading, no_pixel
from maskmill.numerics.blocks import one_thread, ordered
from maskmill.numerics.mixing import largest
from maskmill.numerics.neighbours import unit_rows
from maskmill.numerics.sampling import rng
from maskmill.progress import track
from maskmill.recipe.scoring import Evaluate, Retrieval

if TYPE_CHECKING:
    import torch

ROWS, COLUMNS = 256, 16384  # a block of cosines: 16 MiB a thread


@dataclass(frozen=True)
class Memory:
    """Labelled tokens that other tokens are compared with.

    Attributes:
        keys: [n, d] float32 of unit length. labels: [n, classes] float32. params: of the retrieval.
        threads: CPU threads that blocks of rows are spread over; the result does not depend on it.
    """

    keys: torch.Tensor
    labels: torch.Tensor
    params: Retrieval
    threads: int = 1

    @classmethod
    def of(
        cls, keys: np.ndarray, labels: np.ndarray, params: Retrieval, threads: int = 1, device: str = "auto"
    ) -> Memory:
        """From `directions` [n, d] of tokens and their distributions [n, classes], both float32."""
        import torch

        place = pick(device)
        return cls(torch.from_numpy(keys).to(place), torch.from_numpy(labels).to(place), params, threads)

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Votes [classes, h, w] for tokens [h, w, d]."""
        h, w, d = tokens.shape
        return self.votes(tokens.reshape(h * w, d)).T.reshape(-1, h, w)

    def votes(self, tokens: np.ndarray) -> np.ndarray:
        """Votes [m, classes] float32 for tokens [m, d]; of one row they sum to at most 1."""
        import torch

        rows = torch.from_numpy(directions(tokens)).to(self.keys.device)
        with one_thread():
            workers = self.threads if rows.device.type == "cpu" else 1
            parts = list(ordered(self._block, rows.split(ROWS), workers))
        return torch.cat(parts).cpu().numpy()

    def _block(self, rows: torch.Tensor) -> torch.Tensor:
        """Votes of some rows."""
        cosine, found = self.nearest(rows)
        share = (cosine / self.params.temperature).softmax(1)  # [m, k]
        return (share[:, None] @ self.labels[found])[:, 0]  # [m, 1, k] @ [m, k, classes]

    def nearest(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and places [m, k] of the nearest keys of rows [m, d] of unit length, the nearest first.

        All keys are compared; only ties within float32 rounding depend on the sizes of the blocks.
        """
        return largest(rows, self.keys, self.params.neighbours, columns=COLUMNS)


def directions(tokens: np.ndarray) -> np.ndarray:
    """Tokens [m, d] as float32 of unit length; tokens that are not finite are a NumericsError."""
    with np.errstate(invalid="ignore", over="ignore"):  # reported as an error below
        found = unit_rows(tokens.astype(np.float32))
    if not np.isfinite(found).all():
        raise NumericsError("retrieval: the features hold NaN or infinite values; check the features that made them")
    return np.ascontiguousarray(found)


def learn(half: Half, settings: Evaluate, seed: int, threads: int) -> Reading:
    """Fill the memory; see `readout.Readout`."""
    params = settings.retrieval or Retrieval()
    keys, labels = fill(half, params.bank, seed)
    reader = Memory.of(keys, labels, params, threads)
    return Reading(reader, params.model_dump(mode="json"), {"tokens": float(len(keys))})


def fill(half: Half, bank: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions [m, d] and target mass [m, classes] of at most `bank` tokens, an equal share an image; float32.

    Where there are more images than that, as many are drawn, and give a token each. A token without a scored pixel has
    no vote and is left out.
    """
    ids = chosen(half.ids, bank, seed)
    quota, size = bank // len(ids), 0
    keys: np.ndarray = np.empty((0, 0), np.float32)
    labels: np.ndarray = np.empty((0, 0), np.float32)
    for image_id, tokens, mass in track(half.images(ids), len(ids), "memory"):
        rows = rare_first(mass, quota, rng(seed, image_id))
        if not size:  # pages of memory that are never written cost nothing
            most = len(ids) * quota
            keys, labels = (np.empty((most, part.shape[1]), np.float32) for part in (tokens, mass))
        keys[size : size + len(rows)], labels[size : size + len(rows)] = directions(tokens[rows]), mass[rows]
        size += len(rows)
    if not size:
        raise no_pixel()
    return keys[:size], labels[:size]


def chosen(ids: Sequence[str], count: int, seed: int) -> list[str]:
    """All ids, or `count` of them drawn by the seed and each id, in their order."""
    if len(ids) <= count:
        return list(ids)
    drawn = set(sorted(ids, key=lambda image_id: rng(seed, "memory", image_id).random())[:count])
    return [image_id for image_id in ids if image_id in drawn]


def rare_first(mass: np.ndarray, quota: int, draws: np.random.Generator) -> np.ndarray:
    """Places, ascending, of at most `quota` tokens of an image that have a scored pixel, rare classes first.

    Args:
        mass: [tokens, classes], the share of each class in each token.
    """
    present = mass > 0
    usable = np.flatnonzero(present.any(axis=1))
    if len(usable) <= quota:
        return usable
    frequency = present.sum(axis=0)  # tokens that have each class
    keys = (present[usable] @ frequency) * draws.random(len(usable))
    return np.sort(usable[np.argsort(keys, kind="stable")[:quota]])
