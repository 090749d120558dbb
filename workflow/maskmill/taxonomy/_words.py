"""Lists of things in notes, cut short where they are long."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 12


def listed(items: Iterable[object], between: str = ", ") -> str:
    """The first things, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return between.join(texts[:SHOWN]) + more
