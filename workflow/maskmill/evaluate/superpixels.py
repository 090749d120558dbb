"""How well segments keep to the regions of a label map, whatever they are: the measures of superpixels, image by image.

A region is a label id; what no segment holds is one more segment. Void pixels count nowhere. Every number is a mean
over images with a pixel that counts, with exact sums, so no result depends on the order of images.

* Boundary recall (Martin, Fowlkes, Malik, PAMI 2004; Achanta et al., "SLIC superpixels", PAMI 2012): the share of the
  boundary of regions near which a boundary of segments lies.
* Undersegmentation error as Neubert and Protzel, "Superpixel benchmark and comparison", 2012, correct it: of each
  segment that a region touches, what lies within the region or without, whichever is less.
* Achievable segmentation accuracy (Liu, Tuzel, Ramalingam, Chellappa, "Entropy rate superpixel segmentation", CVPR
  2011): the accuracy where each segment is given the label that it has most of.
"""

from __future__ import annotations

import math

import numpy as np

SHARE = 0.0075  # of the diagonal, within which a boundary is found (Martin et al.)
PIXELS = 2.0  # the other custom (Achanta et al.)

RULES = {
    "boundary_recall": (
        f"share of the boundary pixels of labels with one of segments within {SHARE:g} of the diagonal; a pixel is on a"
        " boundary where one of its 4 neighbours has another id and neither is void; no boundary: left out"
    ),
    "boundary_recall_2px": f"the same within {PIXELS:g} pixels",
    "undersegmentation": "sum over label ids and segments of the lesser of what of the segment lies in it and out of"
    " it, over pixels (Neubert and Protzel)",
    "achievable_accuracy": "pixels of the label that each segment has most of, over pixels",
    "superpixels": "segments of an image, with that of pixels in none, mean over images",
}


class Superpixels:
    """Accumulates maps of segments against label maps; images without a pixel that counts are left out."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {name: [] for name in RULES}

    @property
    def images(self) -> int:
        """How many images counted."""
        return len(self._values["superpixels"])

    def add(self, segments: np.ndarray, labels: np.ndarray, void: np.ndarray) -> None:
        """Count one image: segments [H, W] (0 = none), labels [H, W] of ids from 0, and void bool [H, W].

        Raises:
            ValueError: different shapes.
        """
        if not segments.shape == labels.shape == void.shape:
            raise ValueError(f"segments of shape {segments.shape}, labels {labels.shape}, void {void.shape}")
        if void.all():
            return
        pairs = overlaps(segments[~void], labels[~void])
        found = {
            "boundary_recall": boundary_recall(segments, labels, void, SHARE * math.hypot(*labels.shape)),
            "boundary_recall_2px": boundary_recall(segments, labels, void, PIXELS),
            "undersegmentation": undersegmentation(pairs),
            "achievable_accuracy": achievable_accuracy(pairs),
            "superpixels": float(pairs.shape[0]),
        }
        for name, value in found.items():
            if value is not None:
                self._values[name].append(value)

    def result(self) -> dict[str, float | None]:
        """The means by the names of `RULES`, None where no image counted."""
        return {name: math.fsum(values) / len(values) if values else None for name, values in self._values.items()}


def overlaps(segments: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pixels by segment and label, int64 [segments, labels], of those that occur in two arrays of one shape."""
    _, first = np.unique(segments, return_inverse=True)
    _, second = np.unique(labels, return_inverse=True)
    shape = int(first.max(initial=-1)) + 1, int(second.max(initial=-1)) + 1
    return np.bincount(first.ravel() * shape[1] + second.ravel(), minlength=shape[0] * shape[1]).reshape(shape)


def undersegmentation(pairs: np.ndarray) -> float:
    """Corrected undersegmentation error of pixels by segment and label [segments, labels], 0 (best) and above."""
    return float(np.minimum(pairs, pairs.sum(1, keepdims=True) - pairs).sum() / pairs.sum())


def achievable_accuracy(pairs: np.ndarray) -> float:
    """Achievable segmentation accuracy of pixels by segment and label [segments, labels], 0..1."""
    return float(pairs.max(1).sum() / pairs.sum())


def boundary_recall(segments: np.ndarray, labels: np.ndarray, void: np.ndarray, distance: float) -> float | None:
    """Share of the boundary pixels of labels [H, W] with one of segments [H, W] within `distance` pixels.

    Distances are Euclidean, from centre to centre. None where the labels have no boundary.
    """
    from scipy.ndimage import distance_transform_edt

    wanted, found = boundaries(labels, void), boundaries(segments, void)
    if not wanted.any():
        return None
    if not found.any():
        return 0.0
    near = distance_transform_edt(~found)[wanted] <= distance + 1e-9
    return float(np.count_nonzero(near) / len(near))


def boundaries(ids: np.ndarray, void: np.ndarray) -> np.ndarray:
    """Pixels of ids [H, W] that have a 4-neighbour of another id, both of them not void: bool [H, W]."""
    found = np.zeros(ids.shape, bool)
    for one, other in (((slice(1, None),), (slice(None, -1),)), ((..., slice(1, None)), (..., slice(None, -1)))):
        differ = (ids[one] != ids[other]) & ~void[one] & ~void[other]
        found[one] |= differ
        found[other] |= differ
    return found
