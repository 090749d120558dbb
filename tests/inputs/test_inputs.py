"""The inputs stage: sources, ids, labels, the budget, shards, the listing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from input_files import fails, label, picture, read, rejected, video
from PIL import Image

from maskmill.errors import StoreError
from maskmill.export.segmenter import SegmenterParts
from maskmill.images.listing import content_fingerprint, listing_fingerprint
from maskmill.images.stems import walk
from maskmill.inputs._check import check_file
from maskmill.inputs._shards import shard_names
from maskmill.inputs._sources import unique_ids
from maskmill.inputs.run import tolerated
from maskmill.recipe.inputs import Inputs
from maskmill.store.manifest import read_manifest, read_shard, read_shards
from maskmill.store.seal import bytes_crc32c


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "work"


# Sources


def test_folder_tree(tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "my images ü"
    names = ["b/2.png", "a.JPG", "b/1.v2.tiff", "日本/写真 1.png", "z.webp"]
    for i, name in enumerate(names):
        picture(images / name, i, (8 + i, 12))
    for name in ("notes.txt", "b/Thumbs.db", "b/more.txt", ".hidden.png", ".git/x.png"):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_bytes(b"x")
    manifest = read(out, images)
    assert manifest.ids == ["a", "b/1.v2", "b/2", "z", "日本/写真 1"]
    row = manifest.by_id["b/1.v2"]
    assert (row.path, row.width, row.height, row.label) == (str(images / "b/1.v2.tiff"), 12, 10, None)
    assert rejected(out) == []
    said = capsys.readouterr().err
    assert "5 images, 1 shards, 0 rejected, 0 labels" in said
    assert "3 files (.txt 2, .db 1) skipped" in said


def test_manifest_columns(tmp_path: Path, out: Path) -> None:
    import hashlib

    import pyarrow.parquet as pq

    path = picture(tmp_path / "images/a.png")
    manifest = read(out, tmp_path / "images")
    table = pq.read_table(out / "manifest.parquet").to_pylist()
    body = path.read_bytes()
    assert table == [
        {
            "id": "a",
            "path": str(path),
            "width": 12,
            "height": 8,
            "bytes": len(body),
            "digest": hashlib.blake2b(body, digest_size=8).hexdigest(),
            "shard": manifest.shards[0],
            "label": None,
            "label_digest": None,
            "crc32c": bytes_crc32c(body),
        }
    ]
    assert read_shards(out / "manifest.parquet") == manifest.shards
    for shard in manifest.shards:
        assert read_shard(out / "manifest.parquet", shard) == manifest.of(shard)
    with pytest.raises(StoreError, match="shard 's0' is not in the manifest"):
        read_shard(out / "manifest.parquet", "s0")
    assert manifest.of(manifest.shards[0]) == list(manifest.rows)
    with pytest.raises(StoreError, match="not in the manifest"):
        manifest.of("s0")


def test_relative_source_gives_absolute_paths(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "images/a.png")
    monkeypatch.chdir(tmp_path)
    assert read(out, "images").rows[0].path == str(tmp_path / "images/a.png")
    assert read(out, "images/*.png").rows[0].path == str(tmp_path / "images/a.png")
    assert read(out, "images/a.png").ids == ["a"]


def test_same_stem_keeps_the_suffix(tmp_path: Path, out: Path) -> None:
    for i, name in enumerate(["a.png", "a.jpg", "a.jpg.png", "b.png", "c/a.png"]):
        picture(tmp_path / "images" / name, i)
    assert read(out, tmp_path / "images").ids == ["a.jpg", "a.jpg.png", "a.png", "b", "c/a"]


@given(
    st.lists(
        st.sampled_from([f"{s}{e}" for s in ("a", "a.jpg", "a.png", "x/a") for e in (".jpg", ".png")]), unique=True
    )
)
def test_ids_are_unique_and_short_where_they_can_be(names: list[str]) -> None:
    ids = unique_ids(names)
    assert len(set(ids)) == len(ids)
    assert all(i in (name, name.rsplit(".", 1)[0]) for i, name in zip(ids, names, strict=True))
    stems = Counter(name.rsplit(".", 1)[0] for name in names)
    for i, name in zip(ids, names, strict=True):
        if stems[name.rsplit(".", 1)[0]] > 1:
            assert i == name


def test_links(tmp_path: Path, out: Path) -> None:
    images = tmp_path / "images"
    picture(tmp_path / "elsewhere/x.png")
    picture(images / "a.png", 1)
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "round").symlink_to(images)
    (images / "gone.png").symlink_to(tmp_path / "absent.png")
    assert read(out, images, max_rejected=0.5).ids == ["a", "linked/x"]
    assert [(r["id"], r["reason"]) for r in rejected(out)] == [("gone", "No such file or directory")]


def test_glob(tmp_path: Path, out: Path) -> None:
    for i, name in enumerate(["s1/cam 0/a.png", "s1/cam 1/a.png", "s2/cam 0/a.png", "s2/cam 0/b.jpg"]):
        picture(tmp_path / "data" / name, i)
    assert read(out, tmp_path / "data/*/cam 0/*.png").ids == ["s1/cam 0/a", "s2/cam 0/a"]
    assert read(out, tmp_path / "data/**/a.png").ids == ["s1/cam 0/a", "s1/cam 1/a", "s2/cam 0/a"]
    assert read(out, tmp_path / "data/s[2]/**").ids == ["s2/cam 0/a", "s2/cam 0/b"]
    fails(out, tmp_path / "data/*.png", r"no image matches '.*\*\.png'; looked for .jpg, .*found no file at all")


def test_brackets_in_a_real_folder_are_no_pattern(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "set [1]/a.png")
    assert read(out, tmp_path / "set [1]").ids == ["a"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_table(tmp_path: Path, out: Path, suffix: str) -> None:
    table = tmp_path / "lists" / f"images{suffix}"
    first = picture(tmp_path / "lists/photos/b, with comma.png")
    second = picture(tmp_path / "a.png", 1)
    mask = label(tmp_path / "lists/masks/b.png")
    rows = pd.DataFrame(
        {"path": ["photos/b, with comma.png", str(second)], "id": ["zebra", "NA"], "label": ["masks/b.png", None]}
    )
    if suffix == ".parquet":
        rows.to_parquet(table)
    else:
        rows.to_csv(table, index=False, sep="," if suffix == ".csv" else "\t", encoding="utf-8-sig")
    manifest = read(out, table)
    assert manifest.ids == ["NA", "zebra"]
    assert manifest.by_id["zebra"].path == str(first)
    assert manifest.by_id["zebra"].label == str(mask)
    assert (manifest.by_id["NA"].path, manifest.by_id["NA"].label) == (str(second), None)


def test_table_without_ids(tmp_path: Path, out: Path) -> None:
    paths = [picture(tmp_path / name, i) for i, name in enumerate(["lists/a.png", "up/b.png", "lists/c.png"])]
    table = tmp_path / "lists/t.csv"
    pd.DataFrame({"path": ["./a.png", "../up/b.png", str(paths[2])]}).to_csv(table, index=False)
    assert read(out, table).ids == sorted(["a", str(paths[2]).lstrip("/").removesuffix(".png"), "up/b"])


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("file\na.png\n", "no column 'path'; found: file"),
        ("pathh,id\na.png,1\n", r"no column 'path' \(did you mean 'pathh'\?\)"),
        ("path\n", "no rows"),
        ("path,id\na.png,x\n,y\n", "row 2: empty path"),
        ("path,id\na.png,\n", "row 1: empty id"),
        ("path,id\na.png,x\nb.png,x\n", "id 'x' stands in 2 rows"),
        ("path,id\na.png,../../etc\n", r"id '../../etc' is no plain relative path; write it as 'etc'"),
        ("path,id\na.png,/etc/x\n", "id '/etc/x' is no plain"),
        ("", "not a readable table"),
        ('path\n"a\n', "not a readable table"),
    ],
)
def test_wrong_tables(tmp_path: Path, out: Path, body: str, match: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(body)
    assert str(table) in fails(out, table, match)


def test_table_that_is_no_parquet(tmp_path: Path, out: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nothing")
    fails(out, tmp_path / "t.parquet", "not a readable table")


def test_table_row_without_file_is_rejected(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path\na.png\nb.png\n")
    assert read(out, tmp_path / "t.csv", max_rejected=0.5).ids == ["a"]
    assert rejected(out) == [{"id": "b", "path": str(tmp_path / "b.png"), "reason": "No such file or directory"}]


# Video


def test_video(tmp_path: Path, out: Path) -> None:
    pictures = video(tmp_path / "my clip.mkv")
    manifest = read(out, tmp_path / "my clip.mkv", frame_step=3)
    assert manifest.ids == ["my clip/000000", "my clip/000003", "my clip/000006"]
    for row, number in zip(manifest.rows, (0, 3, 6), strict=True):
        assert (row.width, row.height) == (48, 32)
        np.testing.assert_array_equal(np.asarray(Image.open(row.path)), pictures[number])  # without loss
    before = {row.path: os.stat(row.path).st_mtime_ns for row in manifest.rows}
    assert read(out, tmp_path / "my clip.mkv", frame_step=3) == manifest
    assert {path: os.stat(path).st_mtime_ns for path in before} == before  # not extracted twice
    assert len(read(out, tmp_path / "my clip.mkv", frame_step=2).ids) == 4


def test_video_is_turned_upright(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "phone.mp4"
    video(path)
    body = path.read_bytes()
    ones, half = (1 << 16).to_bytes(4, "big"), (1 << 30).to_bytes(4, "big")
    zero, minus = bytes(4), (2**32 - (1 << 16)).to_bytes(4, "big")
    upright = ones + zero * 3 + ones + zero * 3 + half
    turned = zero + ones + zero + minus + zero * 4 + half  # a quarter turn clockwise, as telephones write it
    place = body.index(upright, body.index(b"tkhd"))
    path.write_bytes(body[:place] + turned + body[place + len(turned) :])
    row = read(out, path).rows[3]
    assert (row.width, row.height) == (32, 48)
    seen = np.asarray(Image.open(row.path)).astype(int)[..., 0]
    assert seen[:20, 20:].mean() > 240  # the white corner of the top left is now at the top right
    assert np.abs(seen[28:, :12] - 90).mean() < 12


def test_labels_of_video_frames(tmp_path: Path, out: Path) -> None:
    video(tmp_path / "clip.mkv")
    mask = label(tmp_path / "labels/000002.png", (32, 48))
    manifest = read(out, tmp_path / "clip.mkv", tmp_path / "labels")
    assert {row.id: row.label for row in manifest.rows if row.label} == {"clip/000002": str(mask)}


def test_damaged_videos(tmp_path: Path, out: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    fails(out, tmp_path / "a.mp4", r"a.mp4: not a readable video \(")
    assert not list(out.glob("frames/*"))
    video(tmp_path / "b.mkv")
    body = (tmp_path / "b.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(body[: len(body) * 2 // 3])
    assert 1 <= len(read(out, tmp_path / "b.mkv").ids) < 7  # what is there is used


# What is wrong


def test_nothing_there(tmp_path: Path, out: Path) -> None:
    fails(out, tmp_path / "absent", "absent' does not exist; give a folder, a glob, a CSV/Parquet manifest or a video")
    (tmp_path / "empty").mkdir()
    fails(out, tmp_path / "empty", r"no image below '.*empty'; looked for .jpg, .jpeg, .png.*; found no file at all")
    (tmp_path / "empty/a.heic").write_bytes(b"x")
    fails(out, tmp_path / "empty", r"found only 1 file \(.heic 1\)")
    (tmp_path / "notes.txt").write_text("x")
    fails(out, tmp_path / "notes.txt", r"neither a folder nor a glob, nor one of the known files: .csv")


def test_budget(tmp_path: Path, out: Path) -> None:
    images = tmp_path / "images"
    for i in range(16):
        picture(images / f"{i:02d}.png", i)
    for i in (3, 7):
        path = images / f"{i:02d}.png"
        path.write_bytes(path.read_bytes()[:-40])
    (images / "text.jpg").write_text("not an image")
    manifest = read(out, images, max_rejected=0.2)
    assert len(manifest.ids) == 14
    assert [row["id"] for row in rejected(out)] == ["03", "07", "text"]
    assert rejected(out)[2]["reason"] == "not an image, or of an unknown format"
    (out / "rejected.csv").unlink()
    (out / "manifest.parquet").unlink()
    limits = {"max_rejected": 0.1, "max_rejected_count": 2}
    why = r"3 of 17 are unreadable, more than inputs.max_rejected=0.1 and inputs.max_rejected_count=2 \(up to half"
    said = fails(out, images, why, **limits)
    assert said.count(": not an image") == 1
    assert str(images / "03.png") in said
    assert [row["id"] for row in rejected(out)] == ["03", "07", "text"]
    assert (out / "rejected.last.csv").read_text() == (out / "rejected.csv").read_text()
    assert not (out / "manifest.parquet").exists()


@pytest.mark.parametrize(
    ("total", "share", "count", "most"),
    [
        (50, 0.01, 10, 10),  # one bad file in fifty is 2 %
        (1000, 0.01, 10, 10), (5000, 0.01, 10, 50), (10**6, 0.01, 10, 10**4),
        (12, 0.01, 10, 6), (3, 0.01, 10, 1), (2, 0.01, 10, 1), (1, 0.01, 10, 0),  # more than half is no few
        (1, 1.0, 10, 0), (12, 1.0, 10, 11), (12, 0.9, 0, 10),  # never all
        (50, 0.0, 10, 0), (50, 0.01, 0, 0), (200, 0.01, 0, 2),
    ],
)  # fmt: skip
def test_how_many_images_may_be_unreadable(total: int, share: float, count: int, most: int) -> None:
    assert tolerated(total, Inputs(max_rejected=share, max_rejected_count=count)) == most


def test_one_bad_file_stops_no_small_set(tmp_path: Path, out: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"images/{i}.png", i)
    (tmp_path / "images/bad.png").write_bytes(b"x")
    assert read(out, tmp_path / "images").ids == ["0", "1", "2", "3"]
    assert [row["id"] for row in rejected(out)] == ["bad"]
    fails(out, tmp_path / "images", r"1 of 5 are unreadable, more than inputs.max_rejected=0; mend", max_rejected=0)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "path;label\na.png;b.png\n", r"'path;label' was read as one column, .* and this file by semicolons"),
        (
            "t.csv",
            '"id";"path"\n1;a.png\n',
            r"by commas and this file by semicolons; save it with commas, or with tabs",
        ),
        ("t.csv", "path\tlabel\na.png\tb.png\n", r"is separated by commas and this file by tabs"),
        ("t.tsv", "path,id\na.png,1\n", r"'path,id' was read as one column, since .tsv is separated by tabs .* commas"),
        ("t.csv", "file;name\na.png;b\n", r"no column 'path'.*found: file;name"),
    ],
)
def test_a_table_with_another_separator(name: str, text: str, said: str, tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / name).write_text(text)
    fails(out, tmp_path / name, said)
    if "label" in text:
        fails(out, tmp_path / "a.png", said, tmp_path / name)


def test_labels_as_jpeg_say_what_to_do(tmp_path: Path, out: Path) -> None:
    """Their class numbers are not what they were; a folder of them was "none of the 0 label files" before."""
    picture(tmp_path / "images/a.png")
    label(tmp_path / "labels/a.jpg")
    why = r"labels: '.*labels' holds no label file \(.png, .*\), but 1 such as 'a\.jpg', whose compression changes"
    said = fails(out, tmp_path / "images", why, tmp_path / "labels")
    assert "save them anew from their source as PNG" in said
    (tmp_path / "t.csv").write_text("path,label\nimages/a.png,labels/a.jpg\n")
    fails(out, tmp_path / "t.csv", r"labels/a\.jpg: label: a JPEG file, whose compression changes class numbers; save")
    (tmp_path / "labels/a.jpg").rename(tmp_path / "labels/a.png")  # by its content
    fails(out, tmp_path / "images", r"labels/a\.png: label: a JPEG file", tmp_path / "labels")


def test_no_image_left_stops_whatever_the_budget(tmp_path: Path, out: Path) -> None:
    for i in range(12):
        (tmp_path / f"images/{i:02d}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"images/{i:02d}.png").write_bytes(b"x")
    said = fails(out, tmp_path / "images", "12 of 12 are unreadable, none is left", max_rejected=1.0)
    assert "09.png" in said
    assert "10.png" not in said  # the first ten
    assert said.count("not an image") == 1  # what they have in common is said once


def test_header_only_misses_truncation_full_finds_it(tmp_path: Path, out: Path) -> None:
    images = tmp_path / "images"
    for i, form in enumerate(["a.png", "b.jpg"]):
        path = picture(images / form, i, (64, 64))
        path.write_bytes(path.read_bytes()[:-300])
    picture(images / "c.png")
    assert read(out, images, verify="header").ids == ["a", "b", "c"]
    assert read(out, images, verify="full", max_rejected=0.9).ids == ["c"]


def test_name_that_is_not_utf8(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png")
    body = (tmp_path / "images/a.png").read_bytes()
    with open(os.fsencode(tmp_path / "images") + b"/\xff.png", "wb") as file:
        file.write(body)
    assert read(out, tmp_path / "images", max_rejected=0.5).ids == ["a"]
    assert rejected(out)[0]["reason"] == "the file name is not valid UTF-8; rename it"
    assert listing_fingerprint(str(tmp_path / "images"), None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_rights(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "images/locked/b.png")
    (tmp_path / "images/locked").chmod(0)
    try:
        fails(out, tmp_path / "images", r"locked' cannot be listed \(Permission denied\)")
    finally:
        (tmp_path / "images/locked").chmod(0o700)


def test_working_directory_inside_the_images(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    fails(tmp_path / "results", tmp_path, "holds the working directory")


def test_exif_size_in_the_manifest(tmp_path: Path, out: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (12, 8)).save(tmp_path / "images/a.jpg", exif=exif)
    label(tmp_path / "labels/a.png", (12, 8))
    row = read(out, tmp_path / "images", tmp_path / "labels").rows[0]
    assert (row.width, row.height) == (8, 12)


@pytest.mark.parametrize(
    ("keys", "kept"), [({}, {}), ({"pages": "all"}, {"pages": "all"}), ({"channels": [2, 1, 0]}, {})]
)
def test_how_photos_were_read_is_kept_for_new_ones(
    keys: dict[str, Any], kept: dict[str, str], tmp_path: Path, out: Path
) -> None:
    """New files may have pages though none of the run had."""
    picture(tmp_path / "images/a.png")
    read(out, tmp_path / "images", **keys)
    told = SegmenterParts.reading(out / "manifest.parquet")
    assert bool(told) == bool(keys)
    if kept:
        assert json.loads(told["inputs"]["rendering"])["pages"] == "all"


def test_max_images_are_spread_evenly(tmp_path: Path, out: Path) -> None:
    for i in range(11):
        picture(tmp_path / f"images/{i:02d}.png", i)
    assert read(out, tmp_path / "images", max_images=3).ids == ["00", "05", "10"]
    assert read(out, tmp_path / "images", max_images=1).ids == ["00"]
    assert len(read(out, tmp_path / "images", max_images=10).ids) == 10
    assert len(read(out, tmp_path / "images", max_images=99).ids) == 11


def test_processes_change_nothing(tmp_path: Path, out: Path) -> None:
    for i in range(80):
        picture(tmp_path / f"images/{i:02d}.png", i)
    (tmp_path / "images/40.png").write_bytes(b"x")
    one = read(out, tmp_path / "images", threads=1, max_rejected=0.1, shard_size=8)
    body = (out / "rejected.csv").read_bytes()
    assert read(out, tmp_path / "images", threads=2, max_rejected=0.1, shard_size=8) == one
    assert (out / "rejected.csv").read_bytes() == body


def test_many_shards_say_which_size_to_take(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskmill.inputs.run.MANY_SHARDS", 4)
    for i in range(12):
        picture(tmp_path / f"images/{i:02d}.png", i)
    read(out, tmp_path / "images", shard_size=1)
    assert "12 shards are many jobs to plan; inputs.shard_size: 3 (now 1)" in capsys.readouterr().err


# Labels


def test_labels_by_path_then_by_bare_stem(tmp_path: Path, out: Path) -> None:
    for i, name in enumerate(["x/1.png", "y/1.png", "y/2.png", "z/3.png", "a.b.png", "a.png", "free.png"]):
        picture(tmp_path / "images" / name, i)
    for name in ("x/1.png", "1.tif", "2.png", "sub/3.png", "a.png", "ignored.txt"):
        label(tmp_path / "labels" / name) if not name.endswith("txt") else (tmp_path / "labels" / name).write_text("x")
    manifest = read(out, tmp_path / "images", tmp_path / "labels")
    found = {row.id: row.label.removeprefix(f"{tmp_path}/labels/") for row in manifest.rows if row.label}
    assert found == {"x/1": "x/1.png", "y/2": "2.png", "z/3": "sub/3.png", "a": "a.png"}  # not y/1: "1" is two images


def test_label_of_the_wrong_size(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png", size=(8, 12))
    label(tmp_path / "labels/a.png", (12, 8))
    said = fails(out, tmp_path / "images", "label of 8 x 12 pixels for .* of 12 x 8", tmp_path / "labels")
    assert str(tmp_path / "labels/a.png") in said
    assert str(tmp_path / "images/a.png") in said


def test_labels_that_fit_nothing(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png")
    label(tmp_path / "labels/b.png")
    fails(out, tmp_path / "images", r"none of the 1 label files .* such as 'b.png' for 'a'", tmp_path / "labels")
    fails(
        out,
        tmp_path / "images",
        "labels: '.*absent' is neither a folder nor a table; .* label, and id",
        tmp_path / "absent",
    )
    label(tmp_path / "labels/a.png")
    label(tmp_path / "labels/a.tif")
    fails(out, tmp_path / "images", "2 files of .* fit 'a'; keep one", tmp_path / "labels")


def test_colour_label_is_found_before_anything_is_computed(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "images/a.png")
    picture(tmp_path / "labels/a.png")
    fails(out, tmp_path / "images", r"labels/a.png: label: colours", tmp_path / "labels")


def test_labels_inside_the_image_folder_are_no_images(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "data/a.jpg")
    label(tmp_path / "data/masks/a.png")
    manifest = read(out, tmp_path / "data", tmp_path / "data/masks")
    assert [(row.id, row.label) for row in manifest.rows] == [("a", str(tmp_path / "data/masks/a.png"))]
    label(tmp_path / "data/a.png")
    fails(out, tmp_path / "data", "is itself one of the images", tmp_path / "data")
    assert read(out, tmp_path / "data/*.jpg", tmp_path / "data").rows[0].label == str(tmp_path / "data/a.png")


def test_label_of_a_table_that_is_missing(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,masks/a.png\n")
    fails(out, tmp_path / "t.csv", r"masks/a.png: label: No such file")


def test_the_manifest_changes_with_the_content_of_a_label(tmp_path: Path, out: Path) -> None:
    """So what is scored with it is scored again, and nothing else: shards are what they were."""
    picture(tmp_path / "images/a.png")
    file = label(tmp_path / "labels/a.png")
    first = read(out, tmp_path / "images", tmp_path / "labels")
    before = (out / "manifest.parquet").read_bytes()
    assert json.loads((out / "classes.json").read_text())["pixels"] == {"1": 96}
    ids = np.ones((8, 12), np.uint8)
    ids[:4] = 7
    Image.fromarray(ids).save(file)
    assert read(out, tmp_path / "images", tmp_path / "labels").shards == first.shards
    assert (out / "manifest.parquet").read_bytes() != before
    classes = json.loads((out / "classes.json").read_text())
    assert (classes["labels"], classes["pixels"]) == (1, {"1": 48, "7": 48})


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_labels_may_be_a_table(tmp_path: Path, out: Path, suffix: str) -> None:
    for name in ("x/1", "x/2", "3"):
        picture(tmp_path / f"images/{name}.png")
    mine = {name: label(tmp_path / f"elsewhere/{i}.png") for i, name in enumerate(("x/1", "3"))}
    rows = {"path": ["x/1.jpg", str(tmp_path / "images/3.png"), "x/2.png", "gone.png"]}
    rows["label"] = ["../elsewhere/0.png", str(mine["3"]), "", "../elsewhere/1.png"]
    table = tmp_path / f"tables/t{suffix}"
    table.parent.mkdir()
    frame = pd.DataFrame(rows)
    frame.to_parquet(table) if suffix == ".parquet" else frame.to_csv(table, sep="\t" if suffix == ".tsv" else ",")
    manifest = read(out, tmp_path / "images", table)
    assert {row.id: row.label for row in manifest.rows if row.label} == {i: str(file) for i, file in mine.items()}


def test_labels_of_a_table_where_names_differ_in_their_suffix(tmp_path: Path, out: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        picture(tmp_path / f"images/{name}")
    for name in ("1", "2", "3"):
        label(tmp_path / f"labels/{name}.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label\nimages/a.jpg,labels/1.png\na.png,labels/2.png\nb.tif,labels/3.png\n")
    found = {row.id: Path(row.label).stem for row in read(out, tmp_path / "images", table).rows if row.label}
    assert found == {"a.jpg": "1", "a.png": "2", "b": "3"}
    table.write_text("path,label\nimages/a.jpg,labels/1.png\n")
    found = {row.id: Path(row.label).stem for row in read(out, tmp_path / "images", table).rows if row.label}
    assert found == {"a.jpg": "1"}
    table.write_text("path,label\na,labels/1.png\n")
    fails(out, tmp_path / "images", r"t.csv: 'a' may be a.jpg or a.png; give its suffix, or a column 'id'", table)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ("path,mask\na.png,b.png\n", "no column 'label'; found: path, mask"),
        ("name,label\na.png,b.png\n", "no column 'path'; found: name, label"),
        ("path,label\nz.png,b.png\n", "no row of '.*t.csv' is of an image of this run, such as 'a'"),
        ("id,label\na,labels/a.png\na,labels/b.png\n", "two labels for 'a': .*labels/a.png and .*labels/b.png; keep"),
    ],
)
def test_wrong_tables_of_labels(tmp_path: Path, out: Path, body: str, match: str) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "t.csv").write_text(body)
    fails(out, tmp_path / "images", match, tmp_path / "t.csv")


# Shards

IDS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), unique=True, min_size=1, max_size=120)


def many(count: int, start: int = 0) -> list[str]:
    return [f"folder {i % 7}/image {i:06d}" for i in range(start, start + count)]


def digests(ids: list[str]) -> list[str]:
    return [f"{len(i):016x}" for i in ids]


@settings(deadline=None)
@given(ids=IDS, shard_size=st.integers(1, 40), data=st.data())
@example(ids=["0", "1", "2"], shard_size=3, data=None)  # the middle one has the smallest hash
def test_shards_are_runs_of_the_sorted_ids_whatever_the_order(ids: list[str], shard_size: int, data: Any) -> None:
    names = dict(zip(ids, shard_names(ids, digests(ids), shard_size), strict=True))
    shuffled = data.draw(st.permutations(ids)) if data else ids[::-1]
    assert dict(zip(shuffled, shard_names(shuffled, digests(shuffled), shard_size), strict=True)) == names
    in_order = [names[i] for i in sorted(ids)]
    runs = 1 + sum(a != b for a, b in pairwise(in_order))
    assert runs == len(set(in_order))
    sizes = Counter(in_order).values()
    assert max(sizes) <= 1.6 * shard_size
    assert len(sizes) == 1 or min(sizes) >= shard_size // 2
    assert len(ids) > shard_size or len(sizes) == 1 or shard_size == 1
    assert all(len(name) == 11 and name[0] == "s" and int(name[1:], 16) >= 0 for name in in_order)


@settings(deadline=None)
@given(ids=IDS, shard_size=st.integers(1, 40), data=st.data())
def test_name_changes_exactly_with_its_content(ids: list[str], shard_size: int, data: Any) -> None:
    ids = sorted(ids)
    changed = data.draw(st.integers(0, len(ids) - 1))
    before = shard_names(ids, digests(ids), shard_size)
    other = digests(ids)
    other[changed] = "f" * 16
    after = shard_names(ids, other, shard_size)
    for a, b in zip(before, after, strict=True):
        assert (a != b) == (a == before[changed])


@settings(deadline=None, max_examples=30)
@given(
    new=st.lists(st.integers(0, 10**6), min_size=1, max_size=10, unique=True), shard_size=st.sampled_from([8, 32, 64])
)
def test_insertions_change_few_shards(new: list[int], shard_size: int) -> None:
    ids = many(2000)
    added = ids + [f"folder {i % 7}/new {i}" for i in new] + [f"aaa {i}" for i in new] + [f"zzz {i}" for i in new]
    before, after = (set(shard_names(x, digests(x), shard_size)) for x in (ids, added))
    assert len(before - after) <= 4 * 3 * len(new)  # a place touches its shard and at most its neighbours
    assert before & after


def test_one_insertion_touches_at_most_three_shards_and_mostly_one() -> None:
    ids = many(3000)
    before = set(shard_names(ids, digests(ids), 50))
    lost = []
    for i in range(200):
        added = [*ids, f"folder {i % 7}/image {i * 15:06d} again"]
        lost.append(len(before - set(shard_names(added, digests(added), 50))))
    assert min(lost) == 1
    assert max(lost) <= 3
    assert np.mean(lost) < 1.1


def test_shards_are_even_and_near_the_wanted_size() -> None:
    ids = many(50_000)
    sizes = np.array(list(Counter(shard_names(ids, digests(ids), 100)).values()))
    assert 95 <= sizes.mean() <= 105
    assert sizes.std() / sizes.mean() < 0.35
    assert sizes.min() >= 50
    assert sizes.max() <= 160


def test_shards_are_the_same_on_every_machine() -> None:
    assert shard_names(["b", "a"], ["1", "0"], 256) == ["s5d33e84d4e"] * 2  # blake2b-40 of "a\\0" "0\\n" "b\\0" "1\\n"
    assert shard_names([], [], 256) == []


# Listing


def test_listing_sees_what_changes(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "labels"
    picture(images / "a.png")
    label(labels / "a.png")
    seen = [listing_fingerprint(str(images), None), listing_fingerprint(str(images), str(labels))]
    assert listing_fingerprint(str(images), str(labels)) == seen[-1]
    steps = [
        lambda: picture(images / "sub/b.png", 1),
        lambda: (images / "a.png").rename(images / "c.png"),
        lambda: os.utime(images / "c.png", (1, 1)),
        lambda: (labels / "a.png").unlink(),
        lambda: (images / "gone.png").symlink_to("nowhere"),
    ]
    for step in steps:
        step()
        seen.append(listing_fingerprint(str(images), str(labels)))
    assert len(set(seen)) == len(seen)
    (images / ".hidden").write_text("x")
    assert listing_fingerprint(str(images), str(labels)) == seen[-1]


def test_listing_of_globs_files_and_nothing(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("path\na.png\n")
    sources = [str(tmp_path / name) for name in ("*.png", "t.csv", "absent")]
    before = [listing_fingerprint(source, None) for source in sources]
    assert len(set(before)) == 3
    (tmp_path / "t.csv").write_text("path\n./a.png\n")
    picture(tmp_path / "b.png")
    after = [listing_fingerprint(source, None) for source in sources]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, False, True]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_listing_sees_the_files_that_a_table_names(tmp_path: Path, suffix: str) -> None:
    table = tmp_path / f"t{suffix}"
    picture(tmp_path / "images/a.png")
    label(tmp_path / "labels/a.png")
    frame = pd.DataFrame({"path": ["images/a.png", "images/b.png"], "label": ["labels/a.png", None]})
    frame.to_parquet(table) if suffix == ".parquet" else frame.to_csv(table, index=False)
    seen = [listing_fingerprint(str(table), None)]
    steps = [
        lambda: os.utime(tmp_path / "labels/a.png", (1, 1)),
        lambda: os.utime(tmp_path / "images/a.png", (1, 1)),
        lambda: picture(tmp_path / "images/b.png"),
    ]
    for step in steps:
        step()
        seen.append(listing_fingerprint(str(table), None))
    assert len(set(seen)) == len(seen)
    assert listing_fingerprint(str(tmp_path / "images"), str(table)) not in seen
    table.write_bytes(b"\0damaged")
    assert listing_fingerprint(str(table), None) not in seen


def test_content_fingerprint_follows_the_bytes_and_not_the_time(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"one")
    before = content_fingerprint(str(file))
    os.utime(file, (1, 1))
    assert content_fingerprint(str(file)) == before
    file.write_bytes(b"two")
    assert content_fingerprint(str(file)) != before
    assert content_fingerprint(str(tmp_path / "absent")) == ""


def test_listing_is_import_light() -> None:
    code = (
        "import sys; from maskmill.images.listing import listing_fingerprint; "
        "print(sorted({'numpy', 'PIL', 'pyarrow', 'torch', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_walk_gives_the_same_order(tmp_path: Path) -> None:
    for name in ("b/1.png", "a.png", "b/0.png", "c.png"):
        picture(tmp_path / name)
    assert [name for name, _ in walk(tmp_path)] == ["a.png", "b/0.png", "b/1.png", "c.png"]


def test_check_file_reports_the_reason(tmp_path: Path) -> None:
    assert check_file(str(tmp_path)) == "Is a directory"
    (part,) = check_file(str(picture(tmp_path / "a.png")), Inputs(verify="header"))
    body = (tmp_path / "a.png").read_bytes()
    assert (part.height, part.width, part.bytes, len(part.digest)) == (8, 12, len(body), 16)
    assert part.crc32c == bytes_crc32c(body)


def test_rows_of_one_shard_are_read_without_the_others(tmp_path: Path) -> None:
    """Row groups without the shard are left out by their statistics; a shard that is not there gives all rows."""
    import pyarrow as pa

    from maskmill.store.artefact import read_table, write_table

    names = [f"s{i // 4:010x}" for i in range(40)]
    columns = {"id": [f"im{i:02d}" for i in range(40)], "path": ["p"] * 40, "width": [3] * 40, "height": [2] * 40}
    columns |= {"shard": names, "label": pa.array([None] * 40, pa.string())}
    path = tmp_path / "manifest.parquet"
    write_table(path, pa.table(columns), row_group=6)
    found = read_manifest(path, names[13])
    assert found.ids == ["im12", "im13", "im14", "im15"]
    assert found.of(names[13]) == read_manifest(path).of(names[13])
    assert len(read_manifest(path, "elsewhere").rows) == 40
    write_table(tmp_path / "mixed.parquet", pa.table(columns).take([0, 5, 1, 6, 2, 7]), row_group=2)  # s0 s1 s0 ...
    mixed = read_table(tmp_path / "mixed.parquet", ["id", "shard"], ("shard", names[0]))
    assert mixed["id"].to_pylist() == ["im00", "im01", "im02"]
    damaged = bytearray(path.read_bytes())
    damaged[4:40] = bytes(36)  # in the first row group, which holds no row of the shard
    path.write_bytes(damaged)
    assert read_table(path, ["id", "shard"], ("shard", names[-1]))["id"].to_pylist() == ["im36", "im37", "im38", "im39"]
