"""How views differ in light: brightness, contrast, saturation, hue, grey, blur and solarisation of a picture.

The arithmetic is Pillow's, as in torchvision's transforms of pictures, which the published systems use. Pictures of
other than three channels have no colour: their brightness and contrast change, all channels alike, and they are
blurred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

RGB = 3


@dataclass(frozen=True, kw_only=True)
class Light:
    """Changes of a picture's light, each with its chance.

    Attributes:
        jitter: largest change of brightness, contrast, saturation (shares) and hue (a share of the circle).
        jitter_chance, grey, blur, solarise: chances. blur_sigma: from and to, pixels.
    """

    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_chance: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.0


def relight(picture: np.ndarray, light: Light, draws: np.random.Generator) -> np.ndarray:
    """A picture uint8 [h, w, C] in another light."""
    chances = draws.random(4) < (light.jitter_chance, light.grey, light.blur, light.solarise)
    order, changes = draws.permutation(4), draws.uniform(-1, 1, 4) * np.array(light.jitter)
    sigma = draws.uniform(*light.blur_sigma)
    if picture.shape[2] != RGB:
        return _grey_levels(picture, order, changes, chances, sigma)
    image = Image.fromarray(picture)
    if chances[0]:
        for which in order:  # ColorJitter draws their order too
            image = _changed(image, int(which), float(changes[which]))
    if chances[1]:
        image = image.convert("L").convert("RGB")
    if chances[2]:
        image = image.filter(ImageFilter.GaussianBlur(sigma))
    if chances[3]:
        image = ImageOps.solarize(image, 128)
    return np.array(image)


def _changed(image: Image.Image, which: int, change: float) -> Image.Image:
    """Brightness, contrast, saturation or hue changed."""
    if which < 3:
        kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
        return kind(image).enhance(1 + change)
    turn = round(255 * change)
    if not turn:
        return image
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(turn % 256)
    return Image.fromarray(hsv, "HSV").convert("RGB")


def _grey_levels(
    picture: np.ndarray, order: np.ndarray, changes: np.ndarray, chances: np.ndarray, sigma: float
) -> np.ndarray:
    """A picture of any number of channels: brightness and contrast about its mean, and blur."""
    x = picture.astype(np.float32)
    for which in order if chances[0] else ():
        if which == 0:
            x = (x * (1 + changes[0])).clip(0, 255)
        elif which == 1:
            x = (x.mean() + (x - x.mean()) * (1 + changes[1])).clip(0, 255)
    done = np.round(x).astype(np.uint8)
    if not chances[2]:
        return done
    blur = ImageFilter.GaussianBlur(sigma)
    bands = [np.array(Image.fromarray(np.ascontiguousarray(band)).filter(blur)) for band in np.moveaxis(done, 2, 0)]
    return np.stack(bands, 2)
