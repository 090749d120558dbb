"""What a disk or its rights refuse, in one line that says the way out."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from maskmill.errors import UserError

_RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)
_PLACE = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk and the rights refuse while `path` is written becomes a UserError; other errors pass."""
    try:
        yield
    except OSError as error:
        reason = _reason(path, error)
        if reason is None:
            raise
        raise UserError(f"{path}: {reason}") from error


def check_writable(folders: Iterable[Path]) -> None:
    """Every folder that is there may be written.

    Raises:
        UserError: names the first that may not, and the way out.
    """
    for folder in folders:
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            owner = folder.stat().st_uid
            raise UserError(
                f"{folder}: you may not write there (it belongs to user {owner}, you are {os.geteuid()}, or its file "
                "system is read-only); mend its rights, or run in a folder of your own"
            )


def _reason(path: Path, error: OSError) -> str | None:
    """Why it cannot be written and the way out; None where the error is of another kind or of another file."""
    kept = "run the same command again, finished results are kept"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({_free(path)}); free some space and {kept}"
    if error.errno == errno.EFBIG:
        return f"larger than the system lets a file be (`ulimit -f`, or the file system); raise the limit and {kept}"
    if error.errno == errno.ENAMETOOLONG:
        return "the name is too long for the file system; shorten it"
    if error.filename and not os.path.abspath(error.filename).startswith(f"{os.path.abspath(path.parent)}"):
        parents = [str(folder) for folder in Path(os.path.abspath(path)).parents]
        if os.path.abspath(error.filename) not in parents:
            return None  # what the job reads
    if error.errno in _RIGHTS:
        why = "the file system is read-only" if error.errno == errno.EROFS else "you may not write there"
        return f"{why} ({error.filename or path.parent}); mend its rights, or run in a folder of your own"
    if error.errno in _PLACE:
        return f"a file stands where a folder belongs, or the reverse ({error.filename or path}); remove it"
    return None


def _free(path: Path) -> str:
    folder = next((folder for folder in path.parents if folder.is_dir()), Path())
    free = shutil.disk_usage(folder).free
    return f"{free / 2**30:.1f} GiB free" if free < 2**30 else "your quota may be used up"
