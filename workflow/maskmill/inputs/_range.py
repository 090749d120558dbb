"""One range for a data set: which values become black and white, decided once from a sample of its files.

A file by itself does not say how bright it is among others, and a threshold on its maximum decides by chance: of two
pictures of one camera, one at 4000 and one at 4200, one would become white and the other black. So the values of a
sample are pooled over files, by kind of file (type and channels), and percentiles of them become 0 and 255 for all.
Declared gaps (nodata), NaN and infinities are no values.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from maskmill.errors import InputError
from maskmill.images.raster import Facts, Raster, open_raster, read_raw
from maskmill.images.raster.opening import is_ordinary
from maskmill.images.raster.render import full, missing_values
from maskmill.images.rendering import Range, Rendering, kind_of
from maskmill.images.view import View
from maskmill.inputs._beforehand import check_sample, file_hash
from maskmill.recipe.inputs import Inputs

FILES = 64  # of each kind whose values are read
HEADERS = 4096  # files whose header is read to find kinds
FIRST_BYTES = 20_000  # files of which the first bytes are looked at, those whose names may be of deep files first
_SHALLOW = (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif")
VALUES = 1 << 14  # of a channel of a file
BOX = 512  # side of a window that is read of a large file
_BOXES = 4


@dataclass
class _Kind:
    """What was seen of one kind of file."""

    facts: Facts
    example: str
    files: int = 0
    several: int = 0
    values: list[np.ndarray] = field(default_factory=list)


def decide(paths: Sequence[str], settings: Inputs) -> Rendering:
    """How the files become pictures, and what their kinds are, on stderr.

    Files are taken in the order of a hash of their paths' last parts: of more than `FILES` of a kind, a few new ones
    rarely change the sample. Of fewer, each changes it, and its ends are rounded so that they rarely follow. Files that
    cannot be read are passed over: the check says why.

    Raises:
        InputError: the settings fit no file of a sample (maskmill.inputs._beforehand).
    """
    check_sample(paths, settings)
    if settings.range == "dtype":
        return Rendering.of(settings)
    if isinstance(settings.range, tuple):
        low, high = settings.range
        return Rendering.of(settings, {"": ((low,), (high,))})
    every = settings.range == "percentile"
    kinds: dict[str, _Kind] = {}
    for path in _sample(paths, every):
        _look(path, settings, kinds)
    ranges: dict[str, Range] = {}
    for name, kind in sorted(kinds.items()):
        if kind.values and (every or kind.facts.dtype.itemsize > 1):
            ranges[name] = _of(kind, settings.percentiles)
        _say(name, kind, ranges.get(name), settings)
    return Rendering.of(settings, ranges)


def _sample(paths: Sequence[str], every: bool) -> Iterator[str]:
    """At most `HEADERS` files that may be deep, in the order of a hash; with `every` also photos of eight bits."""
    left = HEADERS
    for path in sorted(paths, key=lambda path: (path.lower().endswith(_SHALLOW), file_hash(path)))[:FIRST_BYTES]:
        try:
            if not every and is_ordinary(path):
                continue
        except (OSError, ValueError, InputError):
            continue
        yield path
        left -= 1
        if not left:
            return


def _look(path: str, settings: Inputs, kinds: dict[str, _Kind]) -> None:
    try:
        with open_raster(path, settings.max_pixels) as raster:
            facts = raster.facts
            if settings.range == "auto" and facts.plain and facts.pages == 1 and not facts.uneven:
                return
            kind = kinds.setdefault(kind_of(facts), _Kind(facts, path))
            kind.files += 1
            kind.several += facts.pages > 1 or facts.uneven
            if len(kind.values) < FILES and (facts.dtype.itemsize > 1 or settings.range == "percentile"):
                kind.values.append(_values(raster, settings))
    except (InputError, OSError, ValueError):
        return


def _values(raster: Raster, settings: Inputs) -> np.ndarray:
    """float64 [n, channels] of one file, NaN where there is no measurement; of a large one some windows of a level."""
    facts = raster.facts
    level = max((i for i, size in enumerate(facts.levels) if min(size) >= BOX), default=0)
    height, width = facts.levels[level]
    random = np.random.default_rng(int.from_bytes(file_hash(f"{height}x{width}")))
    h, w = min(BOX, height), min(BOX, width)
    boxes: list[tuple[int, int, int, int]] = [(0, 0, h, w)] if (h, w) == (height, width) else []
    if not boxes:
        boxes = [
            (int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w) for _ in range(_BOXES)
        ]
    page: int | str = settings.pages if settings.pages in ("max", "mean") else 0
    if settings.pages == "all":
        page = int(random.integers(facts.pages))
    found = []
    for box in boxes:
        raw = read_raw(raster, View(page=page, level=level, window=box))
        values = raw.astype(np.float64)
        missing = missing_values(raw, facts, range(facts.channels))
        if missing is not None:
            values[missing] = np.nan
        values = values.reshape(-1, facts.channels)
        step = max(1, len(values) * len(boxes) // VALUES)
        found.append(values[::step])
    return np.concatenate(found)


def _of(kind: _Kind, percentiles: tuple[float, float]) -> Range:
    """Low and high of every channel: of those that the files declare as red, green and blue together."""
    values = np.concatenate(kind.values)
    low, high = np.zeros(values.shape[1]), np.ones(values.shape[1])
    together = [kind.facts.colours] if kind.facts.space == "rgb" else []
    groups = [*together, *((i,) for i in range(values.shape[1]) if not any(i in group for group in together))]
    for group in groups:
        own = values[:, list(group)].ravel()
        own = own[np.isfinite(own)]
        if not own.size:
            continue
        ends = np.percentile(own, percentiles)
        if ends[1] <= ends[0]:
            ends = np.array([own.min(), own.max()])
        end = ends[1] if ends[1] > ends[0] else ends[0] + 1
        low[list(group)], high[list(group)] = rounded(float(ends[0]), float(end), kind.facts)
    return tuple(float(v) for v in low), tuple(float(v) for v in high)


def rounded(low: float, high: float, facts: Facts) -> tuple[float, float]:
    """Both ends moved outwards to two significant digits of their distance, but not beyond what the type can hold.

    312 and 4870 (4558 apart, so by hundreds) become 300 and 4900. Every file of a small set is in the sample, and one
    more moves the percentiles a little; the rounded ends are in every view, and seldom move.
    """
    if not 1e-300 < high - low < 1e300:
        return low, high
    places = 1 - math.floor(math.log10(high - low))  # decimals; negative: hundreds
    step = 10.0**-places
    # Percentiles that are whole steps but for their last bits are not moved by one more.
    low = round(math.floor(round(low / step, 6)) * step, places)
    high = round(math.ceil(round(high / step, 6)) * step, places)
    if facts.dtype.kind not in "iu":
        return low, high
    least, most = full(facts)
    return max(low, least), min(high, most)


def _say(name: str, kind: _Kind, found: Range | None, settings: Inputs) -> None:
    facts = kind.facts
    shown = "as they are" if found is None else _shown(found, facts, settings)
    pages = f"; {kind.several} with more than one page, inputs.pages: {settings.pages}" if kind.several else ""
    more = ""
    if facts.space == "grey" and facts.channels > 1 and settings.channels is None and settings.composites is None:
        more = f"; {facts.channels} channels, shown are {list(facts.colours)} as red, green, blue: see inputs.channels"
    print(f"inputs: {kind.files} {facts.kind} files of {name} channels, {shown}{pages}{more}", file=sys.stderr)


def _shown(found: Range, facts: Facts, settings: Inputs) -> str:
    pairs = Counter(zip(*found, strict=True))
    text = ", ".join(f"{low:.6g} to {high:.6g}" for low, high in list(pairs)[:4]) + (", ..." if len(pairs) > 4 else "")
    low, high = settings.percentiles
    return f"{text} become 0 to 255 (percentiles {low:g} and {high:g} of a sample)"
