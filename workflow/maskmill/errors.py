"""The errors that a person is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 700  # letters of a message about a configuration


class UserError(Exception):
    """One line that names the file or the config key, the value and the way out.

    The command line prints it without a traceback and exits with 1.
    """


class ConfigError(UserError):
    """A config key, its value, or a recipe is wrong."""


class InputError(UserError):
    """The user's images, labels or manifest are wrong."""


class StoreError(UserError):
    """An artefact on disk is truncated, foreign, or made with other parameters."""


class WeightsError(UserError):
    """The weights of a backbone are missing or do not fit."""


class DeviceError(UserError):
    """The device is missing, or its memory is too small for the batch."""


class NumericsError(UserError):
    """Numbers that a method cannot work with: NaN, infinite, too few, all equal."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the known word closest to `word`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def shown(value: object) -> str:
    """A value for a message: on one line, and cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "an integer of thousands of digits"
    return text if len(text) <= 120 else f"{text[:100]}... ({type(value).__name__})"


def one_line(text: str) -> str:
    """A message on one line that can be printed anywhere; the middle of a very long one is left out."""
    plain = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 200]} ... {plain[-190:]}"
