"""Several videos: in folders, globs and lists, beside photos."""

from __future__ import annotations

from pathlib import Path

import pytest
from input_files import picture, read, rejected, video


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "work"


def test_a_folder_of_videos_and_photos(tmp_path: Path, out: Path) -> None:
    for name in ("in/a.mkv", "in/sub/b.mkv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        video(tmp_path / name)
    picture(tmp_path / "in/c.png")
    ids = ["a/000000", "a/000003", "a/000006", "c", "sub/b/000000", "sub/b/000003", "sub/b/000006"]
    assert read(out, tmp_path / "in", frame_step=3).ids == ids
    assert read(out, tmp_path / "in/**/*.mkv", frame_step=3).ids == [name for name in ids if name != "c"]


def test_a_video_without_frames_is_rejected_among_others(
    tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    video(tmp_path / "in/a.mkv")
    (tmp_path / "in/b.mp4").write_bytes(b"no video at all")
    assert len(read(out, tmp_path / "in").ids) == 7
    assert "a video of which no frame was read" in rejected(out)[0]["reason"]
    assert "b.mp4: not a readable video" in capfd.readouterr().err


def test_a_cut_off_video_says_so(tmp_path: Path, out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    video(tmp_path / "b.mkv", frames=40)
    body = (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(body[: len(body) // 2])
    count = len(read(out, tmp_path / "b.mkv").ids)
    assert f"cut off: {count} frames read of 3" in capfd.readouterr().err
    video(tmp_path / "whole.mkv", frames=40)
    read(out, tmp_path / "whole.mkv")
    video(tmp_path / "whole.mp4", frames=40)
    read(out, tmp_path / "whole.mp4")
    assert "cut off" not in capfd.readouterr().err
