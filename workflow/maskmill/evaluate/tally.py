"""One set of masks counted against labels, image by image, and then scored by every protocol of the section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskmill.evaluate.confusion import Confusion, at_frame, frame
from maskmill.evaluate.labelled import class_label
from maskmill.evaluate.matching import PerImage, by_name
from maskmill.evaluate.protocol import Protocol, protocol
from maskmill.evaluate.score import score_clusters
from maskmill.recipe.run_checks import check_labels
from maskmill.recipe.scoring import Evaluate


class Tally:
    """Counts of one set of masks.

    Args:
        clusters: k; masks are 0 background, 1..k clusters, k + 1 predicted ignore.
        names: mask value -> name, of masks of classes that have one: these are scored by name too.
        of: what the oracle matches, where it is no mask.

    Attributes:
        confusion: rows background, clusters, predicted ignore.
    """

    def __init__(
        self, clusters: int, settings: Evaluate, names: Mapping[int, str] | None = None, of: str | None = None
    ) -> None:
        self._settings, self._names, self._of = settings, names, of
        self.confusion = Confusion(clusters + 2, settings.classes, settings.ignore)
        self._per_image = PerImage() if "oracle_per_image" in settings.protocols else None

    def add(self, mask: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Count one image: rows int [h, w] of its mask, label ids [H, W]; compared where `evaluate.size` says.

        Pixels whose mask cell shows no data (`valid` [h, w]) are not counted; other cells that are ignore are wrong.
        """
        height, width = label.shape
        shape, window = frame(height, width, self._settings.size)
        counts = self.confusion.add(
            at_frame(mask, shape, window),
            at_frame(label, shape, window),
            None if valid is None else at_frame(valid, shape, window),
        )
        if self._per_image is not None:
            self._per_image.add(counts)

    def scores(self, digests: Mapping[str, str]) -> tuple[list[dict[str, Any]], list[Protocol]]:
        """One entry a protocol, and the protocols.

        Args:
            digests: {image id: digest of its label's pixels} of all images that were counted.

        Raises:
            InputError: fewer than two classes are left to score, or the background is none of them.
        """
        found, settings = self.confusion, self._settings
        check_labels(settings, found.seen)
        protocols = [*(["named"] if self._named else []), *dict.fromkeys(settings.protocols)]
        rules = [
            protocol(
                name, settings.size, settings.ignore, found.classes, dict(digests), **_details(name, settings, self._of)
            )
            for name in protocols
        ]
        oracle = None
        if self._per_image is not None:
            oracle = self._per_image.counts[np.append(found.order, len(found.order))][:, found.order]
        scored = score_clusters(found.counts, rules, found.classes, settings.class_names, oracle, self._names)
        return scored, rules

    @property
    def _named(self) -> bool:
        """True when some class of the masks has the name of a label class."""
        columns = [class_label(c, self._settings.class_names) for c in self.confusion.classes]
        names = self._names or {}
        return bool((by_name(names, columns, max(names, default=0) + 1) >= 0).any())


def _details(name: str, settings: Evaluate, of: str | None) -> dict[str, Any]:
    """What a protocol's numbers depend on besides."""
    if name == "hungarian_iou_background":
        return {"background": settings.background}
    if name != "oracle_per_image":
        return {}
    return {"oracle": True} if of is None else {"oracle": True, "of": of}
