"""What the header of a file declares about its values, and what a reader of such files offers."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from maskmill.errors import InputError

Window = tuple[int, int, int, int]  # top, left, height, width, in pixels of a level


class RefusedError(InputError):
    """It is known what is wrong with a file, and no other reader may make a picture of it."""


@dataclass(frozen=True)
class Geo:
    """Where a file lies on the Earth.

    Attributes:
        crs: coordinate reference system as WKT, or None. transform: affine (a, b, c, d, e, f) of level 0 with
            x = a * column + b * row + c and y = d * column + e * row + f, where whole numbers are corners of pixels.
        gcps: ground control points (row, column, x, y, z) in place of a transform.
    """

    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    gcps: tuple[tuple[float, float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a header declares. Nothing here is guessed from the values of pixels.

    Attributes:
        kind: `photo`, `png`, `tiff`, `geotiff`, `jpeg 2000`, `ome-tiff`, `whole slide`, `microscopy`, `zarr`,
            `ome-zarr`, `grey`: for messages, the log and the report.
        levels: (height, width) of each level of the pyramid as displayed, level 0 is the full resolution.
        channels: how many a pixel has. dtype: of the values as they are read.
        pages: pictures of the same size and channels that lie behind each other: directories, slices, moments.
        colours: the channels that are shown, three or one. space: `grey`, `rgb`, `palette`, `cmyk` or `lab`.
        alpha: the channel that is declared as opacity, or None; premultiplied: the colours are multiplied by it.
        bits: how many of the bits of an integer may be set, where the header says fewer than its type has.
        nodata: the value that means no measurement, for all channels or for each; None where there is none.
        inverted: zero is white. palette: uint8 [n, 3] of the colours that values stand for.
        microns: height and width of a pixel of level 0. names: of the channels.
        orientation: how the stored pixels are turned for display, EXIF 1..8. uneven: pages of other sizes are left out.
        rare: with a mask, or compressed in a way, that Pillow does not know. tile: bytes of the largest block that has
            to be decoded for one pixel.
    """

    kind: str
    levels: tuple[tuple[int, int], ...]
    channels: int
    dtype: np.dtype
    pages: int = 1
    colours: tuple[int, ...] = (0,)
    space: str = "grey"
    alpha: int | None = None
    premultiplied: bool = False
    bits: int | None = None
    nodata: float | tuple[float | None, ...] | None = None
    inverted: bool = False
    palette: np.ndarray | None = field(default=None, compare=False, repr=False)
    microns: tuple[float, float] | None = None
    geo: Geo | None = None
    names: tuple[str, ...] | None = None
    orientation: int = 1
    uneven: bool = False
    rare: bool = False
    tile: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of level 0."""
        return self.levels[0]

    @property
    def plain(self) -> bool:
        """Whether all that is declared is a photo of eight bits a channel, as `images.decode` reads a whole file."""
        if self.kind == "photo":
            return True
        count = self.channels - (self.alpha is not None)
        deep = self.dtype != np.uint8 or self.nodata is not None or self.rare
        opaque = self.alpha is None or (self.geo is None and not self.premultiplied)
        usual = {"grey": 1, "rgb": 3, "palette": 1, "cmyk": 4, "lab": 3}
        return not deep and opaque and count == usual[self.space] and self.kind not in ("zarr", "ome-zarr")


@dataclass(frozen=True)
class Shown:
    """A picture: pixels uint8 [H, W, 3], or [H, W, N] of N channels; valid bool [H, W], or None where all are."""

    pixels: np.ndarray
    valid: np.ndarray | None = None


class Raster(Protocol):
    """An open file; a context manager."""

    @property
    def facts(self) -> Facts: ...

    def read(self, window: Window | None = None, level: int = 0, page: int = 0) -> np.ndarray:
        """Values as they are stored, [h, w, channels], of a window (top, left, height, width) of a level; None: all.

        Only the blocks that the window touches are decoded.

        Raises:
            InputError: the window, level or page is not in the file, or its data are damaged; without the path.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """`with` for readers: closes at the end."""

    def close(self) -> None:
        """Nothing to close, unless a reader says otherwise."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def checked(facts: Facts, window: Window | None, level: int, page: int) -> Window:
    """The window, or all of a level.

    Raises:
        InputError: it is not inside; there is no such level or page.
    """
    if not 0 <= level < len(facts.levels):
        raise InputError(f"has no level {level}, its pyramid has {len(facts.levels)}")
    if not 0 <= page < facts.pages:
        raise InputError(f"has no page {page}, it has {facts.pages}")
    height, width = facts.levels[level]
    if window is None:
        return 0, 0, height, width
    top, left, h, w = window
    if min(top, left) < 0 or min(h, w) < 1 or top + h > height or left + w > width:
        raise InputError(f"window {list(window)} is not inside its {width}x{height} pixels")
    return window


def check_numbers(kind: str) -> None:
    """Raises RefusedError for the name of a type of complex numbers: one part of them would be lost."""
    if kind.startswith("complex"):
        raise RefusedError(f"its values are {kind}; save their real and imaginary parts, or amplitude, as channels")


def shown_channels(channels: int) -> tuple[int, ...]:
    """Which channels stand for red, green and blue where a header does not say it: the first three, or the first."""
    return (0, 1, 2) if channels >= 3 else (0,)


def stored(window: Window, size: tuple[int, int], orientation: int) -> Window:
    """The stored window that becomes a displayed one when it is turned; `size` (height, width) as displayed."""
    top, left, h, w = window
    height, width = size
    down, right = height - top - h, width - left - w
    place = {2: (top, right), 3: (down, right), 4: (down, left), 5: (left, top), 6: (right, top), 7: (right, down)}
    y, x = (place | {8: (left, down)}).get(orientation, (top, left))
    return (y, x, w, h) if orientation >= 5 else (y, x, h, w)


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Stored values [h, w, C] as they are displayed, by an EXIF orientation."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    flips: dict[int, tuple[int, ...]] = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(values, flips.get(orientation, ())))
