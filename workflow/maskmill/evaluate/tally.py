"""One set of masks counted against labels, image by image, and then scored by every protocol of the section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskmill.evaluate.confusion import Confusion, at_frame, frame
from maskmill.evaluate.matching import PerImage
from maskmill.evaluate.protocol import Protocol, protocol
from maskmill.evaluate.score import score_clusters
from maskmill.recipe.checks import check_labels
from maskmill.recipe.scoring import Evaluate


class Tally:
    """Counts of one set of masks.

    Args:
        clusters: k; masks are 0 background, 1..k clusters, k + 1 predicted ignore.
    """

    def __init__(self, clusters: int, settings: Evaluate) -> None:
        self._settings = settings
        self._confusion = Confusion(clusters + 2, settings.classes, settings.ignore)
        self._per_image = PerImage() if "oracle_per_image" in settings.protocols else None

    def add(self, mask: np.ndarray, label: np.ndarray) -> None:
        """Count one image: rows int [h, w] of its mask, label ids [H, W]; compared where `evaluate.size` says."""
        height, width = label.shape
        shape, window = frame(height, width, self._settings.size)
        counts = self._confusion.add(at_frame(mask, shape, window), at_frame(label, shape, window))
        if self._per_image is not None:
            self._per_image.add(counts)

    def scores(self, digests: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[Protocol]]:
        """One entry a protocol, and the protocols.

        Args:
            digests: {image id: digest of its label's pixels} of all images that were counted.

        Raises:
            InputError: fewer than two classes are left to score, or the background is none of them.
        """
        found, settings = self._confusion, self._settings
        check_labels(settings, found.seen)
        rules = [
            protocol(name, settings.size, settings.ignore, found.classes, dict(digests), **_details(name, settings))
            for name in dict.fromkeys(settings.protocols)
        ]
        oracle = None
        if self._per_image is not None:
            oracle = self._per_image.counts[np.append(found.order, len(found.order))][:, found.order]
        return score_clusters(found.counts, rules, found.classes, settings.class_names, oracle), rules


def _details(name: str, settings: Evaluate) -> dict[str, Any]:
    """What a protocol's numbers depend on besides."""
    if name == "hungarian_iou_background":
        return {"background": settings.background}
    return {"oracle": True} if name == "oracle_per_image" else {}
