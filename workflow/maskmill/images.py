"""Any image file to uint8 RGB, and the resize rules. Used by every stage that looks at pixels."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from maskmill.config import Size
from maskmill.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
MAX_PIXELS = 200_000_000  # beyond this a file is more likely an attack or a whole slide than a photograph


def decode(source: str | Path | bytes) -> np.ndarray:
    """One image file (path or its bytes) as uint8 RGB [H, W, 3], turned as its EXIF orientation says.

    Transparent pixels are laid over white. Greyscale of more than 8 bits is scaled by its type's range, or by its own
    minimum and maximum when it uses less than a sixteenth of it (12-bit data in 16-bit files); floats by their own
    range. CMYK and other colour spaces are converted.

    Raises:
        InputError: unreadable, truncated, or larger than 200 megapixels; the message is the reason without the path.
    """
    with _opened(source) as image:
        return _to_rgb(_upright(image))


def displayed_size(source: str | Path | bytes) -> tuple[int, int]:
    """(height, width) as displayed, from the header only."""
    with _opened(source) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def verify(source: bytes) -> tuple[int, int]:
    """(height, width) as displayed, after decoding every pixel once; JPEGs decode at an eighth of their size."""
    with _opened(source) as image:
        turned = image.getexif().get(0x0112, 1) >= 5
        size = (image.width, image.height) if turned else (image.height, image.width)
        image.draft("RGB", (image.width // 8, image.height // 8))
        _load(image)
        return size


def _opened(source: str | Path | bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        raise InputError("not an image, or of an unknown format") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot be opened ({error})") from None
    if image.width * image.height > MAX_PIXELS:
        raise InputError(
            f"{image.width}x{image.height} pixels, more than {MAX_PIXELS // 10**6} megapixels; tile it first"
        )
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise InputError(f"does not decode ({error})") from None


def _upright(image: Image.Image) -> Image.Image:
    _load(image)
    return ImageOps.exif_transpose(image) or image


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_stretch(np.asarray(image))[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _stretch(values: np.ndarray) -> np.ndarray:
    """Greyscale of more than 8 bits to uint8."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 65535 / 16 < high <= 65535:
        low, high = 0.0, 65535.0
    return np.round((values - low) * (255.0 / max(high - low, 1e-12))).clip(0, 255).astype(np.uint8)


def target_size(height: int, width: int, size: Size, multiple: int) -> tuple[int, int]:
    """(H, W) that the backbone sees: the size rule, each side rounded to whole multiples and at least one."""
    if size.square is not None:
        wanted: tuple[float, float] = (size.square, size.square)
    else:
        side = size.short_side or size.long_side or 0
        scale = side / (min(height, width) if size.short_side else max(height, width))
        wanted = (height * scale, width * scale)
    return max(1, round(wanted[0] / multiple)) * multiple, max(1, round(wanted[1] / multiple)) * multiple


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] to another (H, W), bicubic, antialiased."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def load_label(path: str | Path) -> np.ndarray:
    """Label ids int32 [H, W] of a palette, 8-bit or 16-bit greyscale image: the index, never the colour."""
    try:
        image = _opened(path)
        _load(image)
    except InputError as error:
        raise InputError(f"{path}: label {error}") from None
    if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
        raise InputError(f"{path}: label of mode {image.mode}; labels are indexed or greyscale images, one id a pixel")
    return np.asarray(image).astype(np.int32)
