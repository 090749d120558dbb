"""Random crops of photos, for all that is trained on photos: where they lie, and how they become square pictures."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

ASPECT = math.log(4 / 3)  # a crop's width over its height is at most this far from 1, either way
TRIES = 10  # draws of a box, before it is the middle of the photo
Box = tuple[float, float, float, float]  # y0, y1, x0, x1 as shares of the image


def draw_box(height: int, width: int, scale: tuple[float, float], generator: np.random.Generator) -> Box:
    """A box of a random share of the area and a random aspect, at a random place.

    It is drawn anew where it is longer than the image, so shares above 1 only make small boxes rarer. After ten draws
    it is the largest box in the middle whose aspect lies between 3/4 and 4/3 (RandomResizedCrop of torchvision and
    albumentations, which DSM and COMUS use).
    """
    for _ in range(TRIES):
        area, aspect = generator.uniform(*scale), math.exp(generator.uniform(-ASPECT, ASPECT))
        tall, wide = math.sqrt(area / aspect * width / height), math.sqrt(area * aspect * height / width)
        if round(tall * height) <= height and round(wide * width) <= width:  # to whole pixels, as published
            tall, wide = min(1.0, tall), min(1.0, wide)
            y, x = generator.uniform(0, 1 - tall), generator.uniform(0, 1 - wide)
            return y, y + tall, x, x + wide
    aspect = min(max(width / height, math.exp(-ASPECT)), math.exp(ASPECT))
    tall, wide = min(1.0, width / height / aspect), min(1.0, aspect * height / width)
    return (1 - tall) / 2, (1 + tall) / 2, (1 - wide) / 2, (1 + wide) / 2


def cut_picture(photo: np.ndarray, box: Box, side: int) -> Image.Image:
    """The box as a square picture, bicubic with antialiasing."""
    h, w = photo.shape[:2]
    y0, y1, x0, x1 = box
    place = (x0 * w, y0 * h, min(x1 * w, w), min(y1 * h, h))
    return Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC, box=place)
