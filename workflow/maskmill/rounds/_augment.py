"""Augmentation of a photo and its mask: random crop, resize, flip, colour jitter and blur."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

ASPECT = math.log(4 / 3)  # crops are at most this far from the photo's own aspect, either way
Box = tuple[float, float, float, float]  # y0, y1, x0, x1 as shares of the image


class CropSettings(Protocol):
    """What a method's `Params` say of its training crops.

    Attributes:
        crop: side of a crop in pixels. scale: from and to, share of the photo's area in a crop.
        jitter: strength of the changes of colour. grey, blur: chance that a crop is grey, or blurred.
    """

    @property
    def crop(self) -> int: ...

    @property
    def scale(self) -> tuple[float, float]: ...

    @property
    def jitter(self) -> float: ...

    @property
    def grey(self) -> float: ...

    @property
    def blur(self) -> float: ...


def augment(
    photo: np.ndarray, mask: np.ndarray, cells: int, params: CropSettings, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One draw: pixels uint8 [crop, crop, 3] and labels [cells, cells] of the same place.

    Args:
        photo: uint8 RGB [H, W, 3]. mask: [h, w] over the whole photo; its cells are read at the labels' centres.
    """
    box = draw_box(photo.shape[0], photo.shape[1], params.scale, generator)
    picture = cut_picture(photo, box, params.crop)
    labels = cut_labels(mask, box, cells)
    if generator.random() < 0.5:
        picture, labels = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1]
    picture = recolour(picture, params, generator)
    return np.array(picture), np.ascontiguousarray(labels)


def draw_box(height: int, width: int, scale: tuple[float, float], generator: np.random.Generator) -> Box:
    """A box of a random share of the area and a random aspect, cut where it would be longer than the image."""
    area, aspect = generator.uniform(*scale), math.exp(generator.uniform(-ASPECT, ASPECT))
    tall = min(1.0, math.sqrt(area / aspect * width / height))
    wide = min(1.0, math.sqrt(area * aspect * height / width))
    y, x = generator.uniform(0, 1 - tall), generator.uniform(0, 1 - wide)
    return y, y + tall, x, x + wide


def cut_picture(photo: np.ndarray, box: Box, side: int) -> Image.Image:
    """The box as a square picture, bicubic with antialiasing."""
    h, w = photo.shape[:2]
    y0, y1, x0, x1 = box
    place = (x0 * w, y0 * h, min(x1 * w, w), min(y1 * h, h))
    return Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC, box=place)


def cut_labels(mask: np.ndarray, box: Box, cells: int) -> np.ndarray:
    """The mask's value at the centre of each of cells x cells parts of the box."""
    y0, y1, x0, x1 = box
    at = (np.arange(cells) + 0.5) / cells
    rows = ((y0 + at * (y1 - y0)) * mask.shape[0]).astype(np.int64).clip(0, mask.shape[0] - 1)
    columns = ((x0 + at * (x1 - x0)) * mask.shape[1]).astype(np.int64).clip(0, mask.shape[1] - 1)
    return mask[rows[:, None], columns[None]]


def recolour(picture: Image.Image, params: CropSettings, generator: np.random.Generator) -> Image.Image:
    """Colour jitter (brightness, contrast, saturation, hue), then greyscale, then blur, each with its probability."""
    strengths = params.jitter * np.array([1, 1, 0.5, 0.25]) * generator.uniform(-1, 1, 4)  # DSM: .4, .4, .2, .1
    jitter, grey, blur = generator.random(3) < (0.8, params.grey, params.blur)
    if jitter:
        for kind, strength in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), strengths[:3], strict=True
        ):
            picture = kind(picture).enhance(1 + strength)
        if round(255 * strengths[3]):
            hsv = np.array(picture.convert("HSV"))
            hsv[..., 0] += np.uint8(round(255 * strengths[3]) % 256)
            picture = Image.fromarray(hsv, "HSV").convert("RGB")
    if grey:
        picture = picture.convert("L").convert("RGB")
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(generator.uniform(0.1, 2.0)))
    return picture
