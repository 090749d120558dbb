"""Who may read what a run writes. Standard library only: the Snakefile calls `restrict` before anything is written."""

from __future__ import annotations

import contextlib
import os
from typing import Literal

Readers = Literal["owner", "group", "umask"]


def umask(readers: Readers) -> int | None:
    """The umask for these readers in a shell of its own; none where the shell's holds."""
    return {"owner": 0o077, "group": 0o027, "umask": None}[readers]


def restrict(readers: Readers, *folders: str) -> None:
    """Set the umask of this process, which its jobs inherit: what they write, folders included, has these readers.

    owner: this user alone. group: its group may read, nobody else anything. umask: as the shell that started it says.
    `folders` that are there already lose the rights that they would not have got.
    """
    shell = os.umask(0o077)
    mask = {"owner": shell | 0o077, "group": (shell | 0o027) & ~0o050, "umask": shell}[readers]
    os.umask(mask)
    for folder in folders:
        with contextlib.suppress(OSError):  # not there, or another's
            os.chmod(folder, os.stat(folder).st_mode & 0o7777 & ~mask)
