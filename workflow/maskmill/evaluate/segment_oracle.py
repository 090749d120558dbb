"""Segments of a cut matched to classes anew in each image: an oracle, no score of a clustering of the set.

Published systems that divide images one by one are scored so (DiffSeg, DiffCut): it says how well a cut divides images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskmill.evaluate.labelled import digest
from maskmill.evaluate.tally import Tally
from maskmill.recipe.scoring import Evaluate

MOST = 255  # segments of an image


class SegmentOracle:
    """The protocol `oracle_per_image` of the segments of one recipe's cut; it is of its own hash and table."""

    def __init__(self, settings: Evaluate) -> None:
        alone = settings.model_copy(update={"protocols": ["oracle_per_image"]})
        self._tally, self._digests = Tally(MOST, alone, of="segments of a cut"), dict[str, str]()

    @classmethod
    def asked(cls, settings: Evaluate) -> SegmentOracle | None:
        """One where `evaluate.objects.metrics` names it, else None."""
        wanted = settings.objects is not None and "oracle" in settings.objects.metrics
        return cls(settings) if wanted else None

    def add(self, image_id: str, segments: np.ndarray, label: np.ndarray, valid: np.ndarray | None) -> None:
        """Count one image: segments [h, w], 0 = none, which is a row like the others; label ids [H, W]."""
        self._digests[image_id] = digest(label)
        self._tally.add(segments.astype(np.int32), label, valid)

    def entries(self) -> list[Mapping[str, Any]]:
        """One entry, as those of `scores` in scores.json."""
        return list(self._tally.scores(self._digests)[0])
