"""Work done by a user who owns nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

NOBODY = 65534


def as_nobody(folder: Path, work: Callable[[], object]) -> str:
    """What `work` prints to stderr, gives and raises for that user, in a fork: nobody may start this Python.

    Args:
        folder: one that every user reaches; gets the file `said`.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user")
    said = folder / "said"
    said.touch()
    said.chmod(0o666)
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with said.open("w") as file, contextlib.redirect_stderr(file):
                try:
                    print(work(), file=file)
                except Exception as error:
                    print(f"{type(error).__name__}: {error}", file=file)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return said.read_text()
