"""Which process writes: its name in temporary files and claims, and whether it still runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_TAG = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)")


@dataclass(frozen=True)
class Writer:
    """A process that writes artefacts.

    Attributes:
        host: 8 hex digits of its host and, within that, of the space of its process numbers (containers have their
            own). pid: its number there. start: when it started, in clock ticks since the host's start; 0 where the
            system does not say it.
    """

    host: str
    pid: int
    start: int

    @classmethod
    def current(cls) -> Writer:
        """This process; a fork of it is another one."""
        return _current(os.getpid())

    @classmethod
    def parse(cls, tag: str) -> Writer | None:
        """The process of a `tag`; none where the text is no tag."""
        found = _TAG.fullmatch(tag)
        return cls(found[1], int(found[2]), int(found[3])) if found else None

    @property
    def tag(self) -> str:
        """Its name in file names: letters, digits and `-`."""
        return f"{self.host}-{self.pid}-{self.start}"

    def alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be seen from here, because it runs on another host."""
        if self.host != _host():
            return None
        if Path("/proc/self/stat").exists():
            return _start(self.pid) == self.start
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


@cache
def _current(pid: int) -> Writer:
    return Writer(_host(), pid, _start(pid) or 0)


@cache
def _host() -> str:
    space = ""
    with contextlib.suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.blake2b(f"{socket.gethostname()}\0{space}".encode(), digest_size=4).hexdigest()


def _start(pid: int) -> int | None:
    """Clock ticks from the host's start to that of a process; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # a program's name may hold anything, brackets too
    return None if state == "Z" else int(fields[18])
