"""Loops compiled by numba. Imported only by the modules whose loops these are: numba takes half a second to load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiler(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: numba.njit that frees the GIL, its code kept on disk where there is a writable place for it."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # numba found no writable cache folder
            return numba.njit(nogil=True, **options)(function)

    return compiled
