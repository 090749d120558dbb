"""Depth maps of photos: files with one number a pixel, larger farther away, of any size and unit."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path

import numpy as np

from maskmill.errors import InputError
from maskmill.images.decode import MAX_PIXELS, image_bytes

DEPTH_SUFFIXES = (".npy", ".png", ".tif", ".tiff")
SHAPE_SHARE, SHAPE_PIXELS = 0.05, 2.0  # by how much a map's shape may differ from its photo's, see `check_shape`
EVEN = 0.5  # what a map without contrast is on a grid


def read_depth(path: str | Path) -> tuple[np.ndarray, str]:
    """Depth float32 [H, W] of a PNG of 8 or 16 bits, a TIFF (float too) or a .npy, and a digest of the file's bytes.

    Raises:
        InputError: unreadable, of more than `MAX_PIXELS`, in colour or of other than two dimensions, NaN or infinite;
            names the file.
    """
    try:
        body = image_bytes(path, MAX_PIXELS)
        values = _numpy(body) if str(path).lower().endswith(".npy") else _picture(body)
    except InputError as error:
        raise InputError(f"{path}: depth map: {error}") from None
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise InputError(f"{path}: depth map: {count} of {values.size} pixels are NaN or infinite; fill them")
    return values, hashlib.blake2b(body, digest_size=8).hexdigest()


def _numpy(body: bytes) -> np.ndarray:
    """A .npy as float32 [H, W]; its header says what is in it before anything of its size is made."""
    from numpy.lib import format as npy

    file = io.BytesIO(body)
    try:
        version = npy.read_magic(file)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
        flat = tuple(side for side in shape if side != 1) if len(shape) == 3 else shape
        if len(flat) != 2 or not math.prod(flat) or dtype.kind not in "uif":
            raise InputError(f"{dtype} in an array of shape {shape}; give one number a pixel, [height, width]")
        _check_pixels(math.prod(flat))
        if len(body) - file.tell() < math.prod(flat) * dtype.itemsize:
            raise ValueError(f"it ends within an array of shape {shape}")
        file.seek(0)
        return np.asarray(np.load(file, allow_pickle=False).reshape(flat), np.float32)
    except InputError:
        raise
    except (ValueError, EOFError, OSError, OverflowError) as error:
        raise InputError(f"no readable .npy ({' '.join(str(error).split())}); save it anew with numpy.save") from None


def _picture(body: bytes) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(body), formats=("PNG", "TIFF")) as image:
            mode = image.mode
            _check_pixels(image.width * image.height)
            if mode not in ("L", "F", "I") and not mode.startswith("I;16"):
                raise InputError(f"a picture of mode {mode}; give one number a pixel, as greyscale PNG of 8 or 16 bits")
            return np.asarray(image).astype(np.float32)
    except InputError:
        raise
    except Image.DecompressionBombError:  # Pillow's bound is `MAX_PIXELS`, and it looks first
        raise InputError(f"more than {MAX_PIXELS} pixels; make it smaller") from None
    except UnidentifiedImageError:
        raise InputError("unreadable (neither a PNG nor a TIFF); save it anew") from None
    except Exception as error:  # struct.error, SyntaxError, IndexError, KeyError ...: each format has its own
        raise InputError(f"unreadable ({' '.join(str(error).split())}); save it anew") from None


def _check_pixels(pixels: int) -> None:
    if pixels > MAX_PIXELS:
        raise InputError(f"{pixels} pixels, more than {MAX_PIXELS}; make it smaller")


def depth_facts(wanted: tuple[str, tuple[int, int]]) -> tuple[str, str]:
    """(digest, "") of a depth map that can be used, or ("", reason): exceptions do not leave worker processes whole.

    Args:
        wanted: the file, and the height and width of its photo as displayed.
    """
    path, photo = wanted
    try:
        values, digest = read_depth(path)
        check_shape(path, (values.shape[0], values.shape[1]), photo)
    except InputError as error:
        return "", str(error)
    return digest, ""


def check_shape(path: str, shape: tuple[int, int], photo: tuple[int, int]) -> None:
    """A map [H, W] has the shape of its photo (H, W) as displayed, whatever its scale.

    One of its sides may differ by `SHAPE_SHARE` of the map's smaller side, or by `SHAPE_PIXELS`, from what the other
    side and the photo say: networks for depth round their sides.

    Raises:
        InputError: it is turned, cropped or squeezed; names the file.
    """
    (h, w), (height, width) = shape, photo
    if _alike(h, w, height / width):
        return
    advice = "make it of the whole photo, and scale both sides alike"
    if _alike(w, h, height / width):
        advice = "turn it as the photo is shown (EXIF)"
    raise InputError(f"{path}: depth map: {w}x{h} pixels, but its photo is displayed with {width}x{height}; {advice}")


def _alike(h: int, w: int, ratio: float) -> bool:
    """Whether h is to w as a ratio says, but for the tolerance of `check_shape`."""
    return min(abs(h - w * ratio), abs(w - h / ratio)) <= max(SHAPE_PIXELS, SHAPE_SHARE * min(h, w))


def depth_on_grid(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Depth [H, W] of a whole photo as means over the cells of a grid (h, w), 0 at the nearest one, 1 at the farthest.

    A map without contrast is `EVEN` everywhere.
    """
    import torch

    cells = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(values)[None, None].double(), size)[0, 0].numpy()
    low, high = cells.min(), cells.max()
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return np.full(size, EVEN, np.float32)
    return np.asarray((cells - low) / (high - low), np.float32)
