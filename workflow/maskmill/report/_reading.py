"""How files that are no photos of eight bits were read: one line and one example for each way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from maskmill.images.sample import Sample
from maskmill.images.view import View
from maskmill.report import _pictures
from maskmill.report._recipe import ReportPhotos

SHOWN = 12


@dataclass(frozen=True)
class Way:
    """Channels, range and pages in words, how many pictures are read so, and one of them."""

    channels: str
    range: str
    pages: str
    count: int
    example: str
    uri: str


def read(sample: Sample, photos: ReportPhotos) -> list[Way]:
    """The ways that most pictures are read in, at most `SHOWN`; none where all are whole photos."""
    if "view" not in sample.table.column_names:
        return []
    times: Counter[tuple[Any, ...]] = Counter()
    first: dict[tuple[Any, ...], str] = {}
    views = sample.table["view"].to_pylist()
    parsed = {text: View.of(text) for text in set(views) if text is not None}
    for image_id, text in zip(sample.table["id"].to_pylist(), views, strict=True):
        if text is not None:
            view = parsed[text]
            way = view.channels, view.low, view.high, view.page if isinstance(view.page, str) else ""
            times[way] += 1
            first.setdefault(way, image_id)
    shown = times.most_common(SHOWN)
    pictures = sample.pictures([first[way] for way, _ in shown])
    return [_way(way, count, pictures[first[way]], photos) for way, count in shown]


def _way(way: tuple[Any, ...], count: int, picture: Any, photos: ReportPhotos) -> Way:
    channels, low, high, pages = way
    named = "as declared" if channels is None else ", ".join(map(str, channels))
    if channels is not None and len(channels) not in (1, 3):
        shown = channels[: 3 if len(channels) > 3 else 1]
        named = f"{', '.join(map(str, shown))}; the backbones see all {len(channels)}"
    span = "as the type says" if low is None else _span(low, high)
    return Way(named, span, pages, count, picture.id, _pictures.photo_uri(photos.read(picture), 240))


def _span(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    return ", ".join(dict.fromkeys(f"{a:.6g} to {b:.6g}" for a, b in zip(low, high, strict=True)))
