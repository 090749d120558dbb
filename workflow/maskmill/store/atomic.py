"""Files and folders that appear complete or not at all.

What is written goes to a temporary name beside the target and is renamed when complete, so that a killed job leaves no
half-written artefact under its final name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from maskmill.errors import UserError
from maskmill.store.provenance import json_hash


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path (file or folder, the body makes it) that becomes `path` when the body succeeds.

    Files and folders may be read by whom the umask allows, whatever their writer thinks (maskmill.access). A full disk
    or too long a name becomes a UserError that names the target and the way out.
    """
    path = Path(path)
    temporary = path.with_name(f".{_short(path.name)}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        yield temporary
        if temporary.is_dir():
            remove(path)
        else:
            temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path}: the name is too long for the file system; shorten it") from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(path.parent).free / 2**30
        raise UserError(
            f"{path}: the disk is full ({free:.1f} GiB free); free some space and run the same command again, "
            "finished results are kept"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a folder that could not be made; what the body raised matters
            remove(temporary)


def _short(name: str) -> str:
    """A name that leaves room for what is put around it: file systems end at 255 bytes."""
    return name if len(os.fsencode(name)) <= 200 else json_hash(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove(path: Path) -> None:
    """Delete a file or a folder tree; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
