"""Who may write a file: the job that claimed it last.

A job that a killed driver left behind goes on beside the job that a later driver starts for the same file. Each claims
the file when it begins, with a small file beside it, and looks again before it renames: the later one wins, whichever
ends first.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from maskmill.store.names import beside
from maskmill.store.writer import Writer

SUFFIX = ".claim"
_TRIES = 5
_PAUSE = 1.0  # seconds


def claim(path: str | Path, writer: Writer) -> None:
    """From now on only `writer` may put a file there."""
    file = _file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}~{writer.tag}")
    temporary.write_text(writer.tag)
    os.replace(temporary, file)


def holds(path: str | Path, writer: Writer) -> bool:
    """Whether the last claim is this writer's; when another has claimed and finished, there is none.

    A disk that does not answer takes nobody's claim.
    """
    for _ in range(_TRIES):
        try:
            return _file(path).read_text() == writer.tag
        except FileNotFoundError:
            return False
        except OSError:
            time.sleep(_PAUSE)
    return True


def release(path: str | Path, writer: Writer) -> None:
    """Remove the claim, if it is still this writer's."""
    if holds(path, writer):
        with contextlib.suppress(OSError):
            _file(path).unlink()


def _file(path: str | Path) -> Path:
    return beside(Path(path), SUFFIX)
