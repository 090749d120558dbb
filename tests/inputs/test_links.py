"""Links, pipes and devices: each folder is entered once, ids do not depend on the disk's order, every read ends."""

from __future__ import annotations

import glob
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from input_files import fails, label, picture, read, rejected

from maskmill.backbones.checkpoints import read_checkpoint
from maskmill.errors import InputError, WeightsError
from maskmill.images import stems
from maskmill.images.listing import content_fingerprint, glob_files, listing_fingerprint
from maskmill.images.stems import folders, names, walk
from maskmill.images.tables import LONGEST_LINE, cells
from maskmill.predict.run import _find
from maskmill.reading import read_bounded


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "work"


def files(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """Files of a folder, and links that were not followed."""
    skipped: list[str] = []
    found = names(folder, skipped)
    assert [name for name, _ in walk(folder)] == found
    return found, skipped


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are listed; more than a thousand are an error, so that no test waits for an explosion."""
    done: list[str] = []
    real = os.scandir

    def scandir(path: Any) -> Any:
        done.append(os.fspath(path))
        assert len(done) < 1000
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return done


def test_links_to_themselves_and_to_nothing(tmp_path: Path, out: Path) -> None:
    images = tmp_path / "images"
    picture(images / "a.png")
    for name, target in (("loop", "loop"), ("loop.png", "loop.png"), ("one.png", "two.png"), ("two.png", "one.png")):
        (images / name).symlink_to(target)
    (images / "gone.png").symlink_to("nowhere")
    assert read(out, images, max_rejected=0.9).ids == ["a"]
    assert {row["id"]: row["reason"] for row in rejected(out)} == {
        "gone": "No such file or directory",
        **dict.fromkeys(("loop", "one", "two"), "Too many levels of symbolic links"),
    }
    listing_fingerprint(str(images), str(images))


@pytest.mark.parametrize("count", [2, 8, 30])
def test_folders_that_link_to_each_other(tmp_path: Path, scans: list[str], count: int) -> None:
    for i in range(count):
        files(tmp_path, f"f{i:02}/a.png")
        for j in range(count):
            (tmp_path / f"f{i:02}/to{j:02}").symlink_to(tmp_path / f"f{j:02}")
    own = [f"f{i:02}/a.png" for i in range(count)]
    scans.clear()
    found, skipped = listed(tmp_path)
    assert (found, len(skipped)) == (own, count * count)
    assert len(scans) == 2 * (count + 1)  # `names` and `walk`
    assert glob_files(f"{tmp_path}/**/*.png") == [f"{tmp_path}/{name}" for name in own]
    assert listing_fingerprint(str(tmp_path), None) == listing_fingerprint(str(tmp_path), None)
    assert list(_find([tmp_path])) == [name.removesuffix(".png") for name in own]


def test_which_path_a_folder_gets(tmp_path: Path) -> None:
    """Its own where it lies below the images, else the first in the alphabet, with fewer links on the way."""
    root, away = tmp_path / "root", tmp_path / "away"
    files(root, "z/1.png")
    files(away, "2.png", "sub/3.png", "sub/deep/4.png")
    (root / "a").symlink_to(root / "z")
    (root / "c").symlink_to(away)
    (root / "b").symlink_to(away)
    (root / "z/b").symlink_to(away / "sub")
    (root / "y").symlink_to(away / "sub/deep")
    (away / "over").symlink_to(root / "z")
    found, skipped = listed(root)
    assert found == ["z/1.png", "b/2.png", "b/sub/3.png", "b/sub/deep/4.png"]
    assert skipped == ["a", "c", "y", "z/b", "b/over"]


def test_folders_around_the_images_are_not_entered(tmp_path: Path, scans: list[str]) -> None:
    root = files(tmp_path / "data/images", "a.png")
    files(tmp_path, "other/b.png")
    for name, target in (("up", ".."), ("top", "/"), ("self", "."), ("side", "../../other")):
        (root / name).symlink_to(target)
    assert listed(root) == (["a.png", "side/b.png"], ["self", "top", "up"])
    assert len(scans) == 4


def test_ids_do_not_depend_on_the_order_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_ = random.Random(0)
    places = [tmp_path / "images", tmp_path / "other"]
    for i in range(40):
        places.append(random_.choice(places) / f"d{random_.randrange(100)}")
        files(places[-1], f"{i}.png")
        link = random_.choice(places) / f"l{i}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(random_.choice(places))
    first, prints = listed(tmp_path / "images"), listing_fingerprint(str(tmp_path / "images"), None)
    assert len(first[0]) > 20
    assert first[1]
    real = stems.os.scandir

    class Shuffled:
        def __init__(self, path: Any) -> None:
            with real(path) as entries:
                self.entries = list(entries)
            random_.shuffle(self.entries)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(stems.os, "scandir", Shuffled)
    for _ in range(5):
        assert listed(tmp_path / "images") == first
        assert listing_fingerprint(str(tmp_path / "images"), None) == prints


def test_what_is_not_followed_is_counted_and_named(tmp_path: Path, out: Path, capsys: Any) -> None:
    images = tmp_path / "images"
    picture(images / "a/1.png")
    (images / "b").symlink_to(images / "a")
    for source in (images, f"{images}/**/*.png"):
        assert len(read(out, source).ids) == 1
        told = capsys.readouterr().err
        assert "inputs: 1 link not followed, as the folder is read under another path or lies around" in told
        assert told.rstrip().endswith("images: b" if source == images else f"images: {images}/b")
    for i in range(30):
        (images / f"c{i:02}").symlink_to(images)
    read(out, images)
    assert "inputs: 31 links not followed" in (told := capsys.readouterr().err)
    assert "c18, ..." in told


def test_labels_behind_a_link_are_no_images(tmp_path: Path, out: Path) -> None:
    images = tmp_path / "images"
    picture(images / "a.png")
    label(tmp_path / "masks/a.png")
    (images / "masks").symlink_to(tmp_path / "masks")
    for labels in (images / "masks", tmp_path / "masks"):
        assert read(out, images, labels).ids == ["a"]


def test_a_tree_deeper_than_the_stack(tmp_path: Path) -> None:
    path = str(tmp_path)
    try:
        for _ in range(1500):
            path += "/d"
            os.mkdir(path)
        Path(f"{path}/a.png").touch()
        assert len(listed(tmp_path)[0]) == 1
        assert glob_files(f"{tmp_path}/**/*.png") == [f"{path}/a.png"]
    finally:
        subprocess.run(["rm", "-r", f"{tmp_path}/d"], check=True)  # Python's own way is recursive


def test_globs_without_links_match_as_pythons_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_ = random.Random(1)
    for _ in range(60):
        parts = [random_.choice(["a", "b", "left", ".h", "[x]", "é"]) for _ in range(random_.randrange(4))]
        files(tmp_path, "/".join([*parts, random_.choice(["1.png", "2.jpg", ".3.png", "**.png"])]))
    monkeypatch.chdir(tmp_path)
    patterns = ["**/*.png", "**/left/*.png", "a/**/*", "**", "a/**", "*/**/b/*.png", "**/a/**/*.png",
                "**/../a/*.png",                "**/.h/*.png", "./**/*.jpg", "**/[[]x]/*",
                "**/*/1.png", "[ab]/**/?.png", "*.png", "**/é/**"]  # fmt: skip
    for pattern in [*patterns, *(f"{tmp_path}/{pattern}" for pattern in patterns)]:
        wanted = sorted({path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)})
        assert sorted({os.path.normpath(path) for path in glob_files(pattern)}) == sorted(
            {os.path.normpath(path) for path in wanted}
        ), pattern
    assert folders(tmp_path, [])[0] == ""


# Pipes and devices


def special(folder: Path, suffix: str) -> list[Path]:
    """A pipe, and links to a pipe and to a device without an end."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / f"pipe{suffix}")
    (folder / f"link{suffix}").symlink_to(folder / f"pipe{suffix}")
    (folder / f"zero{suffix}").symlink_to("/dev/zero")
    return [folder / f"{name}{suffix}" for name in ("pipe", "link", "zero")]


def test_special_files_among_images_are_named(tmp_path: Path, out: Path) -> None:
    images = tmp_path / "images"
    picture(images / "a.png")
    paths = special(images, ".png")
    pd.DataFrame({"path": ["images/a.png", *map(str, paths)]}).to_csv(tmp_path / "t.csv", index=False)
    for source in (images, images / "*.png", images / "**", tmp_path / "t.csv"):
        assert len(read(out, source, max_rejected=0.9).ids) == 1
        assert [row["reason"] for row in rejected(out)] == ["not a file, but a pipe or a device"] * 3
        listing_fingerprint(str(source), None)
    with pytest.raises(InputError, match="pipe"):
        read(out, paths[0])


def test_special_files_as_labels(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png")
    for i, path in enumerate(special(tmp_path / "special", ".png")):
        (tmp_path / f"labels{i}").mkdir()
        (tmp_path / f"labels{i}/a.png").symlink_to(path)
        fails(out, tmp_path / "images", "a pipe or a device", tmp_path / f"labels{i}")
        pd.DataFrame({"path": ["images/a.png"], "label": [str(path)]}).to_csv(tmp_path / "t.csv", index=False)
        fails(out, tmp_path / "t.csv", "a pipe or a device")
        fails(out, tmp_path / "images", "neither a folder nor a table", path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".mp4", ".mkv", ".png", ""])
def test_special_files_as_the_source_of_images(tmp_path: Path, out: Path, suffix: str) -> None:
    for path in special(tmp_path, suffix):
        fails(out, path, "is not a file, but a pipe or a device")
        assert listing_fingerprint(str(path), str(path)) == listing_fingerprint(str(path), str(path))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_special_files_as_a_checkpoint(tmp_path: Path, suffix: str) -> None:
    for path in special(tmp_path, suffix):
        assert content_fingerprint(str(path)) == ""
        with pytest.raises(WeightsError, match="is not a file, but a pipe or a device; give a file"):
            read_checkpoint(path, {})


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    assert read_bounded(tmp_path / "a", 4) is None
    with pytest.raises(IsADirectoryError):
        read_bounded(tmp_path, 5)
    if os.path.exists("/proc/self/maps"):  # says that it has no bytes
        assert read_bounded("/proc/self/maps", 10) is None
        assert len(read_bounded("/proc/self/maps", 10**7) or b"") > 100


def test_a_table_of_one_endless_line(tmp_path: Path, out: Path) -> None:
    for name in ("t.csv", "t.tsv"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3 << 30)
        fails(out, tmp_path / name, f"its first line has more than {LONGEST_LINE} bytes")
        listing_fingerprint(str(tmp_path / name), None)
    (tmp_path / "u.csv").write_text("path\n" + "x" * (3 * LONGEST_LINE))
    with pytest.raises(ValueError, match="field larger than field limit"):
        list(cells(str(tmp_path / "u.csv"), "path"))
