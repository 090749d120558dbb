"""How a picture is read from a file that holds more than one photo of eight bits: page, window, channels, range."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from maskmill.errors import StoreError


@dataclass(frozen=True, slots=True)
class View:
    """What one row of the manifest shows of its file. A row without a view is the whole file, read as a photo.

    Attributes:
        page: of a file of several pages (TIFF directories, slices, series), from 0; or `max`, `mean` over all pages.
        level: of a pyramid, from 0, the full resolution. window: top, left, height, width in pixels of that level; None
            is all of it. whole: height, width of the level, in pixels. scale: pixels of level 0 in one pixel of the
            level, along y and x. overlap: pixels that neighbouring windows share, from which follows what is the core
            of each (maskmill.images.windows).
        channels: which channels become the picture's, in this order; None is what the file declares as its colours. One
            is shown as grey; of two, or more than three, all are the picture's, and the first three are shown.
        low, high: the values that become 0 and 255, one for all channels or one for each; None for 8 bits as they are.
    """

    page: int | str = 0
    level: int = 0
    window: tuple[int, int, int, int] | None = None
    whole: tuple[int, int] | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    overlap: int = 0
    channels: tuple[int, ...] | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    @property
    def count(self) -> int:
        """How many channels the picture has: three, or as many as are named where that is neither one nor three."""
        return 3 if self.channels is None or len(self.channels) == 1 else len(self.channels)

    def text(self) -> str:
        """As the manifest stores it: JSON of what differs from a plain photo, always the same for the same view."""
        plain = _PLAIN
        own = {key: value for key, value in asdict(self).items() if value != plain[key]}
        return json.dumps(own, sort_keys=True, separators=(",", ":"))

    @classmethod
    def of(cls, text: str) -> View:
        """The view of a stored text; anything else is a StoreError."""
        try:
            stored: dict[str, Any] = json.loads(text)
            own: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in stored.items()}
            return cls(**own)
        except (ValueError, TypeError):
            raise StoreError(f"manifest: view {text[:80]!r} is not one of maskmill; run snakemake again") from None


_PLAIN = {field.name: field.default for field in fields(View)}
