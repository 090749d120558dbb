"""What several test modules run on: the drawn pictures, and one finished run of the workflow on them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before numpy and torch: two workers on two cores have a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import whole_run
from job_server import serving


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what mostly waits (SLURM), then what needs the finished run, then the rest, which fills the gaps."""

    def place(item: pytest.Item) -> int:
        if item.path.stem == "test_slurm":
            return 0
        return 1 if item.path in needy else 2

    needy = {item.path for item in items if "finished" in getattr(item, "fixturenames", ())}
    items.sort(key=place)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one process makes and all processes of this pytest share (pytest-xdist)."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, made = root / name, root / f"{name}.made"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ of twelve pictures, half of them with names that any careless line of code trips over."""
    return made_once(tmp_path_factory, "photos 'n labels $(touch hacked) {x}", whole_run.draw_photos)


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """A folder for PATH with a `maskmill` whose jobs start at once (see job_server)."""
    with serving() as folder:
        yield folder


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of every shipped recipe with labels, never interrupted (see whole_run); nobody writes to it."""
    return made_once(tmp_path_factory, 'finished "run" it\'s', lambda work: whole_run.make(work, photos))
