"""How files that are no photos of eight bits were read: one line and one example for each way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.images.sample import Sample
from maskmill.images.view import View
from maskmill.report import _pictures
from maskmill.report._recipe import ReportPhotos

SHOWN = 12


@dataclass(frozen=True)
class Way:
    """Channels, range and part of the file in words, how many pictures are read so, and one of them.

    Attributes:
        file: name of the file that the example is of.
    """

    channels: str
    range: str
    part: str
    file: str
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
    ids, parents = sample.table["id"].to_pylist(), sample.table["parent"].to_pylist()
    paged = {image_id for image_id, parent in zip(ids, parents, strict=True) if parent is not None}
    parsed = {text: View.of(text) for text in set(views) if text is not None}
    for image_id, text in zip(ids, views, strict=True):
        if text is not None:
            view = parsed[text]
            way = view.channels, view.low, view.high, _part(view, image_id in paged)
            times[way] += 1
            first.setdefault(way, image_id)
    shown = times.most_common(SHOWN)
    pictures = sample.pictures([first[way] for way, _ in shown])
    return [_way(way, count, pictures[first[way]], photos) for way, count in shown]


def _way(way: tuple[Any, ...], count: int, picture: Any, photos: ReportPhotos) -> Way:
    channels, low, high, part = way
    named = "as declared" if channels is None else ", ".join(map(str, channels))
    if channels is not None and len(channels) not in (1, 3):
        shown = channels[: 3 if len(channels) > 3 else 1]
        named = f"{', '.join(map(str, shown))}; the backbones see all {len(channels)}"
    span = "as the type says" if low is None else _span(low, high)
    uri = _pictures.photo_uri(photos.read(picture), 240)
    return Way(named, span, part, Path(picture.path).name, count, picture.id, uri)


def _part(view: View, is_part: bool) -> str:
    """What of its file a picture is."""
    of = f" of level {view.level}" if view.level else ""
    if view.window is not None:
        return f"windows of {view.window[3]} x {view.window[2]}{of}"
    if isinstance(view.page, str):
        return f"{view.page} of its pages{of}"
    return f"a page or a composite{of}" if is_part else f"all of it{of}"


def _span(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    """One range, or that of every channel in their order."""
    spans = [f"{a:.6g} to {b:.6g}" for a, b in zip(low, high, strict=True)]
    return spans[0] if len(set(spans)) == 1 else ", ".join(spans)
