"""Any image file to uint8 RGB, and the resize rules. Used by every stage that looks at pixels."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from maskmill.errors import InputError
from maskmill.reading import read_bounded
from maskmill.recipe.feature_set import LONGEST, Size

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")
SUFFIXES = (
    *PHOTO_SUFFIXES,
    ".pfm",
    ".j2k",
    ".svs",
    ".ndpi",
    ".scn",
    ".bif",
    ".qptiff",
    ".lsm",
    ".btf",
    ".tf8",
    ".zarr",
)
FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")  # whatever the suffix: of the
# others that Pillow knows, one (EPS) starts an interpreter
MAX_PIXELS = 178_956_970  # of a file: Pillow's own bound; as RGB half a gigabyte, of which a job may hold several
FILE_BYTES = 64 << 20, 16  # largest file: this much, and this much a pixel (four channels of 32 bits)
LABEL_SIZE = "a label is as large as its image"
TILES = "set inputs.window, which reads TIFFs and slides in parts, or raise inputs.max_pixels"

_FIELD = 0x0112  # EXIF orientation
_NODATA = 42113  # tag of GDAL
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG_ORIENTATION = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
_LABEL_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")  # without loss: a class number stays what it is
_LABEL_MODES = ("1", "P", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")

# Pillow warns from half of what it refuses on; `_opened` says what is refused.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(
    source: str | Path | bytes,
    max_pixels: int = MAX_PIXELS,
    size: tuple[int, int] | None = None,
    advice: str = TILES,
) -> np.ndarray:
    """One image file (path or its bytes) as uint8 RGB [H, W, 3], turned as its EXIF orientation says.

    Transparent pixels are laid over white. CMYK, Lab and other colour spaces are converted; of an animation the first
    frame is taken. Greyscale of more than 8 bits keeps zero at black and is scaled by 65535, or by its own maximum
    where that is at most a sixteenth of it (12-bit data in 16-bit files). Floats in 0..1 likewise by 1; all other
    values (negative, beyond 65535, floats beyond 1) by their own minimum and maximum; NaN and infinity become black.

    With `size` (height, width), what the file is known to have, the size in its header is compared before any pixel is
    decoded; otherwise the header may say `max_pixels` at most, and `advice` says what else to do.

    Raises:
        InputError: unreadable, truncated, too many pixels, or not of this size; the message is the reason without the
            path.
    """
    most = max_pixels if size is None else max(max_pixels, size[0] * size[1])
    with _opened(image_bytes(source, most), most, advice) as image, _reasons():
        if size is not None and image.width * image.height != size[0] * size[1]:
            raise InputError(f"{image.width}x{image.height} px, was {size[1]}x{size[0]}")
        image.load()
        turn = None if image.format == "TIFF" else _TURN.get(_orientation(image))  # Pillow turns TIFFs itself
        return to_rgb(image if turn is None else image.transpose(turn))


def displayed_size(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) as displayed, from the header only; raises InputError like `decode`."""
    body = image_bytes(source, max_pixels)
    with _opened(body, max_pixels) as image:
        return _shown(image, body)


def is_turned(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether `decode` turns or mirrors the file, as its EXIF orientation says; raises InputError like `decode`."""
    body = image_bytes(source, max_pixels)
    with _opened(body, max_pixels) as image:
        plain = image.format == "PNG" and not any(mark in body for mark in _PNG_ORIENTATION)
        return not plain and _orientation(image) != 1


def orientation(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> int:
    """EXIF orientation 1..8 of a file that is not a TIFF; raises InputError like `decode`."""
    body = image_bytes(source, max_pixels)
    with _opened(body, max_pixels) as image:
        plain = image.format == "PNG" and not any(mark in body for mark in _PNG_ORIENTATION)
        return 1 if plain else _orientation(image)


def deep_mode(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether Pillow reads a file as greyscale of more than 8 bits; raises InputError like `decode`."""
    with _opened(image_bytes(source, max_pixels), max_pixels) as image:
        return image.mode.startswith("I") or image.mode == "F"


def decode_deep(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Greyscale of more than 8 bits as its values, uint16 or float32 [H, W, 1]; raises InputError like `decode`.

    Pillow brings the values of a PGM to 0..65535 by the maximum that its header names.
    """
    with _opened(image_bytes(source, max_pixels), max_pixels) as image, _reasons():
        image.load()
        values = np.asarray(image)
        return values[..., None].astype(np.float32 if values.dtype.kind == "f" else np.uint16)


def verify(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) as displayed, after decoding every pixel once; raises InputError where `decode` would.

    JPEGs are decoded at an eighth of their size: every byte is still read, most of the arithmetic is saved.
    """
    body = image_bytes(source, max_pixels)
    with _opened(body, max_pixels) as image:
        size = _shown(image, body)
        with _reasons():
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
            to_rgb(image.resize((1, 1), Image.Resampling.NEAREST))  # its colour mode can be converted
        return size


def read_file(path: str | Path, max_pixels: int = MAX_PIXELS) -> bytes:
    """The whole file.

    Raises:
        OSError: it cannot be read. InputError: a pipe or a device, or larger than `max_pixels` can be uncompressed.
    """
    most = FILE_BYTES[0] + FILE_BYTES[1] * max_pixels
    body = read_bounded(path, most)
    if body is None:
        raise InputError(f"{os.stat(path).st_size / 2**30:.1f} GiB are too many for an image; {TILES}")
    return body


def image_bytes(source: str | Path | bytes, max_pixels: int) -> bytes:
    """The whole file as `read_file` gives it; what goes wrong is an InputError with the reason."""
    with _reasons():
        return source if isinstance(source, bytes) else read_file(source, max_pixels)


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever Pillow's readers raise on a broken file becomes an InputError with a reason of one line."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError("not an image, or of an unknown format") from None
    except Image.DecompressionBombError:  # some formats look again while they decode
        raise InputError(f"more pixels than its header says; {TILES}") from None
    except OSError as error:
        raise InputError(error.strerror or f"does not decode ({' '.join(str(error).split())})") from None
    except Exception as error:  # struct.error, SyntaxError, IndexError, KeyError ...: each format has its own
        raise InputError(f"does not decode ({' '.join(f'{type(error).__name__}: {error}'.split())})") from None


def _opened(body: bytes, max_pixels: int, advice: str = TILES) -> Image.Image:
    """The header is read and its size is allowed; no pixel is decoded yet."""
    # Never by path: Pillow maps plain TIFFs into memory then, and turns those with an EXIF orientation wrongly.
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # it would refuse a size without saying it, and nothing that is allowed here
    try:
        with _reasons():
            image = Image.open(io.BytesIO(body), formats=FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = before
    if image.width * image.height > max_pixels:
        image.close()
        raise InputError(f"{image.width}x{image.height} pixels, {max_pixels / 1e6:.4g} million are allowed; {advice}")
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where the EXIF block is absent or broken."""
    try:
        value = image.getexif().get(_FIELD, 1)
    except Exception:  # a broken EXIF block does not make the pixels unreadable
        return 1
    return value if value in _TURN else 1


def _shown(image: Image.Image, body: bytes) -> tuple[int, int]:
    """(height, width) as displayed; does not decode."""
    # To look for the EXIF block of a PNG, Pillow decodes all of it: ask only where there may be one.
    plain = image.format == "TIFF" or (image.format == "PNG" and not any(mark in body for mark in _PNG_ORIENTATION))
    if not plain and _orientation(image) >= 5:
        return image.width, image.height
    return image.height, image.width


def to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 RGB [H, W, 3] of an image in any mode of Pillow."""
    if image.mode.startswith("I") or image.mode == "F":
        return np.repeat(_stretch(np.asarray(image))[..., None], 3, axis=2)
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _stretch(values: np.ndarray) -> np.ndarray:
    """Greyscale of more than 8 bits to uint8, by the rule of `decode`."""
    full = 65535.0 if values.dtype.kind in "iu" else 1.0
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(values[finite].min()), float(values[finite].max())
    if low >= 0 and high <= full:
        low, high = 0.0, full if high > full / 16 else high
    values = np.where(finite, values, low)
    return np.round((values - low) * 255.0 / (high - low if high > low else 1.0)).astype(np.uint8)


def target_size(height: int, width: int, size: Size, multiple: int) -> tuple[int, int]:
    """(H, W) that the backbone sees: the size rule, each side rounded to whole multiples and at least one.

    With `short_side`, an image more than 8 times as long as it is wide gets the long side 8 * short_side instead, so
    that one banner among a million photographs does not need a machine of its own.
    """
    if size.square is not None:
        wanted: tuple[float, float] = (size.square, size.square)
    else:
        scale = (size.long_side or 0) / max(height, width)
        if size.short_side is not None:
            scale = min(size.short_side / min(height, width), LONGEST * size.short_side / max(height, width))
        wanted = (height * scale, width * scale)
    return max(1, round(wanted[0] / multiple)) * multiple, max(1, round(wanted[1] / multiple)) * multiple


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3], or [H, W, N] channel by channel, to another (H, W), bicubic, antialiased."""
    if image.shape[:2] == tuple(size):
        return image
    if image.shape[2:] not in ((), (3,)):
        return np.stack([resize(np.ascontiguousarray(channel), size) for channel in np.moveaxis(image, 2, 0)], 2)
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def to_target(image: np.ndarray, size: Size, multiple: int) -> np.ndarray:
    """uint8 [H, W, 3 or N] as a backbone sees it: `resize` to `target_size`."""
    return resize(image, target_size(image.shape[0], image.shape[1], size, multiple))


def load_label(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Label ids int32 [H, W] of a palette, 8-bit or 16-bit greyscale image: the index, never the colour.

    Raises:
        InputError: unreadable, too many pixels, a colour image, or of a format with loss.
    """
    return label_values(path, max_pixels)[0].astype(np.int32)


def label_values(path: str | Path, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, bytes]:
    """Label ids [H, W] in the type of the file, and the bytes of the file; raises as `load_label`."""
    try:
        body = image_bytes(path, max_pixels)
        with _opened(body, max_pixels, LABEL_SIZE) as image, _reasons():
            _check_label_mode(image)
            image.load()
            turn = None if image.format == "TIFF" else _TURN.get(_orientation(image))
            return np.asarray(image if turn is None else image.transpose(turn)), body
    except InputError as error:
        raise InputError(f"{path}: label: {error}") from None


def label_nodata(source: str | Path | bytes, max_pixels: int = MAX_PIXELS) -> float | None:
    """The value that a TIFF declares to be no label (GDAL_NODATA); None of other files; raises as `decode`."""
    with _opened(image_bytes(source, max_pixels), max_pixels, LABEL_SIZE) as image, _reasons():
        tags = getattr(image, "tag_v2", None)
        try:
            return float(str(tags[_NODATA]).strip("\0 ")) if tags is not None and _NODATA in tags else None
        except ValueError:
            return None


def _check_label_mode(image: Image.Image) -> None:
    if image.format not in _LABEL_FORMATS:
        raise InputError(
            f"a {image.format} file, whose compression changes class numbers; save it anew from its source as PNG, one "
            "class number a pixel, grey or indexed"
        )
    if image.mode not in _LABEL_MODES:
        raise InputError(f"colours or transparency (mode {image.mode}); save one class number a pixel, grey or indexed")
