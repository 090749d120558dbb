"""Files that a user names are read to a bound: pipes and devices have no end, and opening a pipe may wait for ever."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from maskmill.errors import InputError

_PIECE = 1 << 20
SPECIAL = "not a file, but a pipe or a device"


def is_special(path: str | os.PathLike[str]) -> bool:
    """True for a pipe, a socket or a device, also behind a link; False for what is not there."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def read_bounded(path: str | Path, most: int) -> bytes | None:
    """The whole file; None where it has more than `most` bytes.

    Raises:
        OSError: it cannot be read. InputError: a pipe or a device, or a name with a NUL; without the path.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # never waits for a writer
    except ValueError:
        raise InputError("the name of the file holds a NUL") from None
    except OSError:
        if is_special(path):  # a socket cannot be opened
            raise InputError(SPECIAL) from None
        raise
    try:
        facts = os.fstat(handle)
        if stat.S_ISDIR(facts.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(SPECIAL)
        return _read(handle, facts.st_size, most)
    finally:
        os.close(handle)


def _read(handle: int, size: int, most: int) -> bytes | None:
    """All bytes of an open file; a file that says it has none may have any number."""
    if size > most:
        return None
    with open(handle, "rb", closefd=False) as file:
        body = file.read(size + 1)
        if len(body) <= size:
            return body
        parts, total = [body], len(body)
        while total <= most and (more := file.read(_PIECE)):
            parts.append(more)
            total += len(more)
    return b"".join(parts) if total <= most else None
