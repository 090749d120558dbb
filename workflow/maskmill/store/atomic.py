"""Files and folders that appear complete or not at all.

What is written goes to a temporary name beside the target and is renamed when complete, so that a killed job leaves no
half-written artefact under its final name. A job that is no longer wanted (`maskmill.store.expected`) renames nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from maskmill.errors import StoreError
from maskmill.store import expected
from maskmill.store.disk import disk_errors
from maskmill.store.names import beside, remove
from maskmill.store.writer import Writer


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path (file or folder, the body makes it) that becomes `path` when the body succeeds.

    Files and folders may be read by whom the umask allows, whatever their writer thinks (maskmill.access).

    Raises:
        UserError: the disk is full, a folder or file may not be written, or the name is too long; with the target and
            the way out. StoreError: a later job has claimed the target.
    """
    path = Path(path)
    temporary = beside(path, f".tmp-{Writer.current().tag}")
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(temporary)
            yield temporary
            if not expected.still_wanted(path):
                raise StoreError(f"{path}: a later job writes it; this one leaves it alone")
            if temporary.is_dir():
                remove(path)
            else:
                temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that could not be made; what the body raised matters
            remove(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
