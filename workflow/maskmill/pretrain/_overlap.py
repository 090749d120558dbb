"""Crops that show the same thing: every crop of a photo must meet every global crop of it.

Ziegler and Asano, Self-supervised learning of object parts for semantic segmentation (Leopart, 2022), section 3.1, and
its published transforms: a crop is drawn as ever, and anew until it meets the global crops before it in enough of the
photo's area.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskmill.images.crops import Box, draw_box

TRIALS = 500  # draws of one crop before it is put where it must meet the others


def meet(box: Box, other: Box) -> Box:
    """What two boxes have in common; y1 <= y0 or x1 <= x0 where that is nothing."""
    return max(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), min(box[3], other[3])


def area(box: Box) -> float:
    """The area of a box in shares of the photo; 0 where it is empty."""
    return max(0.0, box[1] - box[0]) * max(0.0, box[3] - box[2])


def overlapping_boxes(
    size: tuple[int, int],
    scales: Sequence[tuple[float, float]],
    whole: int,
    least: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Boxes [crops, 4] (y0, y1, x0, x1) in shares of the photo, each of which meets the global ones enough.

    A crop that met them in none of 500 draws becomes what the global crops before it have in common, which does.

    Args:
        size: height and width of the photo. scales: of each crop, its range of the area; the global crops come first.
        whole: number of global crops, 1 or 2.
        least: a crop meets each global crop in more than this share of the photo, another global crop in twice as much.
    """
    boxes: list[Box] = []
    for place, scale in enumerate(scales):
        needed = least * (2 if place < whole else 1)
        before = boxes[:whole]
        for _ in range(TRIALS):
            box = draw_box(*size, scale, generator)
            if all(area(meet(box, each)) > needed for each in before):
                break
        else:
            box = before[0] if len(before) == 1 else meet(before[0], before[1])
        boxes.append(box)
    return np.array(boxes)
