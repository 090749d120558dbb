"""How sure the classes of whole images are: the mean calibrated confidence of what a sample of the images shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from maskmill.images.sample import read
from maskmill.store.calibration import Calibration
from maskmill.store.classes import IGNORE, Classes
from maskmill.store.codebook import Codebook, assign
from maskmill.taxonomy import Clustered
from maskmill.taxonomy._calibrate import called
from maskmill.taxonomy._labelled import images_of


def with_images(calibration: Calibration, classes: Classes, given: Clustered) -> Calibration:
    """The calibration that also knows the mean confidence of sampled images, but for those that made the classes.

    Raises:
        StoreError: vectors are missing or damaged.
    """
    if not calibration:
        return calibration
    sampled = {image_id for ids in read(Path(given.manifest), 0).statistics.values() for image_id in ids}
    found = {
        image_id: of_image(vectors, cells, classes, calibration, given.ground)
        for image_id, vectors, cells in images_of(sampled - set(classes.examples), given)
    }
    return replace(calibration, seen={i: round(v, 4) for i, v in sorted(found.items()) if np.isfinite(v)})


def of_image(
    vectors: np.ndarray,
    cells: np.ndarray,
    classes: Classes,
    calibration: Calibration,
    ground: Codebook | None = None,
) -> float:
    """Mean confidence of the cells [h, w] of an image that get a class; NaN where none does.

    Args:
        vectors: [n, d]. cells: the vector 0..n-1 that each cell belongs to, -1 for none.
        ground: codebook of background and foreground: what it calls background gets no class.
    """
    if not len(vectors):
        return float("nan")
    value, odds = called(vectors, classes)
    void = value == IGNORE
    if ground is not None:
        void |= assign(vectors, ground)[0] != 1
    sure = np.where(void, np.nan, calibration.confidence(odds))[cells[cells >= 0]]
    return float(np.nanmean(sure)) if np.isfinite(sure).any() else float("nan")
