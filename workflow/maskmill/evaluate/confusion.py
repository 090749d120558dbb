"""The confusion matrix between predictions and labels, in int64, image by image, with bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskmill.images.masks import to_size
from maskmill.recipe.scoring import ScoreSize

STRIP = 1 << 22  # pixels compared at once, so that a huge label does not need many times its own memory
LABELS = 1 << 16  # label ids are 0..65535
VOID, NEW = -1, -2


class Confusion:
    """Counts [rows, classes] int64: prediction rows against the scored label ids; void pixels are not counted.

    Args:
        rows: number of prediction rows; predictions are 0..rows - 1.
        classes: scored label ids, all others are void; None scores every id that occurs.
        ignore: label ids that are void.
    """

    def __init__(self, rows: int, classes: Sequence[int] | None, ignore: Sequence[int]) -> None:
        self.rows, self._open = rows, classes is None
        self._ids: list[int] = list(dict.fromkeys(classes or ()))
        self._column = np.full(LABELS, NEW if self._open else VOID, np.int32)
        self._column[[i for i in ignore if 0 <= i < LABELS]] = VOID
        for column, label in enumerate(self._ids):
            if 0 <= label < LABELS:  # others never occur
                self._column[label] = column
        self._counts = np.zeros((rows, len(self._ids)), np.int64)
        self._seen = np.zeros(LABELS, np.int64)

    @property
    def seen(self) -> dict[int, int]:
        """{label id: its pixels}, of void ids too."""
        return {int(label): int(self._seen[label]) for label in np.flatnonzero(self._seen)}

    @property
    def classes(self) -> list[int]:
        """Scored label ids, ascending: the columns of `counts`."""
        return sorted(self._ids)

    @property
    def order(self) -> np.ndarray:
        """Columns in the order of `classes`, as places in the order in which classes were first seen."""
        return np.argsort(np.asarray(self._ids, np.int64))

    @property
    def counts(self) -> np.ndarray:
        """[rows, classes] int64."""
        return self._counts[:, self.order]

    def add(self, prediction: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Count one image: prediction [H, W] in 0..rows - 1, label [H, W] ids; nothing of pixels that are not `valid`.

        Returns:
            Its counts [rows, classes seen so far] int64; columns in the order in which classes were first seen.

        Raises:
            ValueError: different shapes, or values out of range.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction of shape {prediction.shape}, label of shape {label.shape}")
        if valid is not None:
            prediction, label = prediction[valid][None], label[valid][None]
        before = self._counts
        step = max(1, STRIP // max(1, label.shape[1]))
        for top in range(0, label.shape[0], step):
            self._add(prediction[top : top + step].ravel(), label[top : top + step].ravel())
        return self._counts - np.pad(before, ((0, 0), (0, self._counts.shape[1] - before.shape[1])))

    def _add(self, prediction: np.ndarray, label: np.ndarray) -> None:
        if label.min(initial=0) < 0 or label.max(initial=0) >= LABELS:
            raise ValueError(f"label ids {label.min()}..{label.max()}; ids must be in 0..{LABELS - 1}")
        if prediction.max(initial=0) >= self.rows:
            raise ValueError(f"prediction {prediction.max()} of {self.rows} rows")
        self._seen += np.bincount(label, minlength=LABELS)
        columns = self._column[label]
        if self._open and (columns == NEW).any():
            self._grow(np.unique(label[columns == NEW]))
            columns = self._column[label]
        scored = columns >= 0
        width = len(self._ids)
        flat = prediction[scored].astype(np.int64) * width + columns[scored]
        self._counts = self._counts + np.bincount(flat, minlength=self.rows * width).reshape(self.rows, width)

    def _grow(self, labels: np.ndarray) -> None:
        """New columns for label ids that were not seen before."""
        self._column[labels] = np.arange(len(self._ids), len(self._ids) + len(labels))
        self._ids += [int(label) for label in labels]
        self._counts = np.concatenate([self._counts, np.zeros((self.rows, len(labels)), np.int64)], axis=1)


def frame(height: int, width: int, size: ScoreSize | None) -> tuple[tuple[int, int], tuple[slice, slice]]:
    """Where an image of (height, width) is scored: the size to look up, and the window of it that counts.

    `short_side` keeps the aspect ratio, the long side is rounded down; `centre_crop` takes the middle square. These
    are the rules of torchvision's Resize and CenterCrop, which the STEGO and PiCIE families use for their labels.
    """
    if size is None:
        return (height, width), (slice(None), slice(None))
    short = min(height, width)
    h, w = (height * size.short_side // short, width * size.short_side // short)
    if not size.centre_crop:
        return (h, w), (slice(None), slice(None))
    top, left = round((h - size.short_side) / 2), round((w - size.short_side) / 2)
    return (h, w), (slice(top, top + size.short_side), slice(left, left + size.short_side))


def at_frame(values: np.ndarray, shape: tuple[int, int], window: tuple[slice, slice]) -> np.ndarray:
    """Labels or a mask [h, w] looked up at a frame's size, nearest neighbour, and cut to its window."""
    return (values if values.shape == shape else to_size(values, shape))[window]
