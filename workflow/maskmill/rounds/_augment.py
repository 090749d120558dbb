"""Augmentation of a photo and its mask: random crop or turned and zoomed photo, flip, colour jitter and blur."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from maskmill.images.crops import Box, cut_picture, draw_box


class CropSettings(Protocol):
    """What a method's `Params` say of its training crops.

    Attributes:
        crop: side of a crop in pixels. scale: from and to, share of the photo's area in a crop (see `draw_box`).
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


class ViewSettings(CropSettings, Protocol):
    """What a method's `Params` say of training views that need not be crops.

    Attributes:
        zoom: from and to, size of the whole photo that is seen in place of a crop; None: crops.
        rotation: degrees by which that photo is turned at most, either way.
    """

    @property
    def zoom(self) -> tuple[float, float] | None: ...

    @property
    def rotation(self) -> float: ...


def augment(
    photo: np.ndarray, mask: np.ndarray, cells: int, params: ViewSettings, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One draw: pixels uint8 [crop, crop, 3] and labels [cells, cells] of the same place.

    Args:
        photo: uint8 RGB [H, W, 3]. mask: [h, w] over the whole photo; its cells are read at the labels' centres.
    """
    if params.zoom is None:
        box = draw_box(photo.shape[0], photo.shape[1], params.scale, generator)
        picture, labels = cut_picture(photo, box, params.crop), cut_labels(mask, box, cells)
    else:
        angle = math.radians(generator.uniform(-params.rotation, params.rotation))
        turn = Turn(photo.shape[0], photo.shape[1], angle, generator.uniform(*params.zoom))
        picture, labels = turn.picture(photo, params.crop), turn.labels(mask, cells)
    if generator.random() < 0.5:
        picture, labels = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels[:, ::-1]
    picture = recolour(picture, params, generator)
    return np.array(picture), np.ascontiguousarray(labels)


@dataclass(frozen=True)
class Turn:
    """A photo of height x width pixels, turned by an angle (radians) and enlarged by `zoom` about its middle.

    The view keeps the photo's frame and is then squeezed to a square, as MaskDistill does it. What lies outside the
    photo is black, and background.
    """

    height: int
    width: int
    angle: float
    zoom: float

    def _across(self) -> tuple[float, float, float, float]:
        """(yy, yx, xy, xx): of a place in the view, as shares of its sides from the middle, the place in the photo.

        y' = yy y + yx x and x' = xy y + xx x. A turn in pixels is none in shares of unequal sides.
        """
        along, across = math.cos(self.angle) / self.zoom, math.sin(self.angle) / self.zoom
        return along, across * self.width / self.height, -across * self.height / self.width, along

    def picture(self, photo: np.ndarray, side: int) -> Image.Image:
        """The view as a square picture, bicubic; the photo is resized to its zoomed size first, with antialiasing."""
        large = max(1, round(side * self.zoom))
        resized = Image.fromarray(photo).resize((large, large), Image.Resampling.BICUBIC)
        yy, yx, xy, xx = (large * each for each in self._across())
        rows = (xx / side, xy / side, (large - xx - xy) / 2, yx / side, yy / side, (large - yx - yy) / 2)
        return resized.transform((side, side), Image.Transform.AFFINE, rows, Image.Resampling.BICUBIC)

    def labels(self, mask: np.ndarray, cells: int) -> np.ndarray:
        """The mask's value at the centre of each of cells x cells parts of the view; 0 outside."""
        at = (np.arange(cells) + 0.5) / cells - 0.5
        yy, yx, xy, xx = self._across()
        y, x = yy * at[:, None] + yx * at + 0.5, xy * at[:, None] + xx * at + 0.5
        rows, columns = (np.floor(a * n).astype(np.int64) for a, n in ((y, mask.shape[0]), (x, mask.shape[1])))
        inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        return np.where(inside, mask[rows * inside, columns * inside], mask.dtype.type(0))


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
