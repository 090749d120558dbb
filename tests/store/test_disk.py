"""What a disk and its rights refuse is one line that names the file, in every format."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from other_user import as_nobody

from maskmill.errors import UserError
from maskmill.store.artefact import write_json, write_table, write_tensors
from maskmill.store.atomic import atomic
from maskmill.store.disk import check_writable
from maskmill.store.ragged import RaggedWriter

NOISE = np.random.default_rng(0).integers(0, 2**63, 200_000)  # 1.6 MB that no codec makes small


def store(path: Path) -> None:
    with RaggedWriter(path, "vectors", depth=1000, dtype="float32") as out:
        out.append("x", NOISE.reshape(200, 1, 1000).astype(np.float32))


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.zarr": store,
    "a.parquet": lambda path: write_table(path, pa.table({"id": NOISE})),
    "a.safetensors": lambda path: write_tensors(path, {"w": NOISE}),
    "a.json": lambda path: write_json(path, {"values": NOISE.tolist()}),
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(small_disk: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: the disk is full \(0\.0 GiB free\); free some space"):
        WRITERS[name](small_disk / name)
    assert list(small_disk.iterdir()) == []


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_too_large(tmp_path: Path, name: str) -> None:
    with largest_file(500_000), pytest.raises(UserError, match=rf"{name}: larger than .*ulimit -f"):
        WRITERS[name](tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_where_a_folder_belongs(tmp_path: Path, name: str) -> None:
    (tmp_path / "results").write_text("")
    with pytest.raises(UserError, match=rf"{name}: a file stands where a folder belongs"):
        WRITERS[name](tmp_path / "results" / name)


def test_too_long_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too long for the file system"), atomic(tmp_path / ("a" * 300)) as temporary:
        temporary.write_text("")


@pytest.fixture
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that everybody reaches and only its owner writes to."""
    folder = Path("/tmp") / f"maskmill-{os.getpid()}"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", WRITERS)
def test_a_folder_of_somebody_else(theirs: Path, name: str) -> None:
    said = as_nobody(theirs, lambda: WRITERS[name](theirs / name))
    assert said.startswith(f"UserError: {theirs}/{name}: you may not write there (")
    assert "run in a folder of your own" in said


def test_a_results_folder_of_somebody_else_is_said_before_the_first_job(theirs: Path) -> None:
    check_writable([theirs, theirs / "absent"])
    assert f"UserError: {theirs}: you may not write there" in as_nobody(theirs, lambda: check_writable([theirs]))


def test_what_a_job_may_not_read_is_not_blamed_on_what_it_writes(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(PermissionError, match="secret"), atomic(tmp_path / "results/a.json"):
        raise PermissionError(13, "Permission denied", str(tmp_path / "photos/secret.jpg"))
