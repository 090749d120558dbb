"""Progress, a bar on a terminal or plain lines in a log file; and durations in words."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_SECONDS = 10.0  # a log file gets a line at most this often


def track(items: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    """Yield `items`, showing `label`, count and rate on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description=label, total=total, console=Console(stderr=True))
        return
    start = last = time.monotonic()
    count = 0
    for item in items:
        yield item
        count += 1
        now = time.monotonic()
        if now - last >= LINE_SECONDS:
            last = now
            _line(label, count, total, now - start)
    _line(label, count, total, time.monotonic() - start)


def _line(label: str, count: int, total: int | None, seconds: float) -> None:
    of = f"/{total}" if total else ""
    print(f"{label} {count}{of} ({count / max(seconds, 1e-9):.1f}/s)", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """0.4 s, 42 s, 3 min 20 s, 5 h 02 min, 3 d 4 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
