"""Many files in parts: listed, checked part by part, gathered. The files are those of the single job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from input_files import label, picture, rejected

from maskmill.errors import InputError
from maskmill.images.parts import MOST, part_name, part_names, remove_parts
from maskmill.inputs.run import Outputs, check_part, gather, list_files, run
from maskmill.recipe.inputs import Inputs

FILES = ("manifest.parquet", "rejected.csv", "classes.json")


def folder(root: Path, labels: bool) -> Path:
    for i in range(23):
        picture(root / f"images/{i % 3}/{i:03d}.png", i, (8, 12 + i % 2))
        if labels and i % 4:
            label(root / f"labels/{i % 3}/{i:03d}.png", (8, 12 + i % 2))
    (root / "images/0/bad.jpg").write_bytes(b"no image")
    (root / "images/1/bad.png").write_bytes(b"")
    (root / "images/2/notes.txt").write_text("skipped")
    return root / "images"


def outputs(folder: Path) -> Outputs:
    folder.mkdir()
    return Outputs(*(folder / name for name in FILES))


def in_parts(out: Path, images: Any, labels: str | None, parts: int, settings: dict[str, Any]) -> None:
    made, listing = outputs(out), out / "listing.parquet"
    list_files(images, labels, settings | {"parts": parts}, listing, out / "frames")
    names = [part_name(i) for i in range(parts)]
    for name in reversed(names):  # in any order
        check_part(listing, name, settings, out / f"checked/{name}.parquet", 1)
    gather(listing, out / "checked", labels, settings, made, 1)


def same(tmp_path: Path, images: Any, labels: str | None, parts: int, **keys: Any) -> None:
    settings = Inputs(max_rejected=0.5, shard_size=4, **keys).model_dump(mode="json")
    run(images, labels, settings, outputs(tmp_path / "one"), 1, tmp_path / "one/frames")
    in_parts(tmp_path / "many", images, labels, parts, settings)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes(), name


@pytest.mark.parametrize("parts", [2, 5, 40])
@pytest.mark.parametrize("labels", [False, True])
def test_parts_give_the_bytes_of_the_single_job(parts: int, labels: bool, tmp_path: Path) -> None:
    images = folder(tmp_path, labels)
    same(tmp_path, str(images), str(tmp_path / "labels") if labels else None, parts)
    assert len(rejected(tmp_path / "many")) == 2


def test_parts_of_several_sources_and_few_images(tmp_path: Path) -> None:
    images = folder(tmp_path, False)
    same(tmp_path, [str(images / "0"), str(images / "2")], None, 3, max_images=9)


def test_a_name_that_is_not_utf8_is_rejected_in_its_part(tmp_path: Path) -> None:
    images = folder(tmp_path, False)
    odd = bytes(images / "0") + b"/\xff.png"
    Path(str(picture(images / "0/odd.png", 99))).rename(odd.decode("utf-8", "surrogateescape"))
    same(tmp_path, str(images), None, 4)
    assert any("not valid UTF-8" in row["reason"] for row in rejected(tmp_path / "many"))


def test_a_label_that_only_a_rejected_image_makes_ambiguous(tmp_path: Path) -> None:
    """Labels are matched again once it is known which files are images."""
    picture(tmp_path / "images/a/x.png")
    (tmp_path / "images/b").mkdir()
    (tmp_path / "images/b/x.png").write_bytes(b"no image")
    picture(tmp_path / "images/a/y.png")
    for name in ("x", "y"):
        label(tmp_path / f"labels/{name}.png")
    same(tmp_path, str(tmp_path / "images"), str(tmp_path / "labels"), 2)
    assert '"labels": 2' in (tmp_path / "many/classes.json").read_text()


def test_the_budget_counts_all_parts(tmp_path: Path) -> None:
    images = folder(tmp_path, False)
    settings = Inputs(max_rejected=0.01, max_rejected_count=1).model_dump(mode="json")
    messages = []
    calls: list[Callable[[], None]] = [
        lambda: run(str(images), None, settings, outputs(tmp_path / "one"), 1, tmp_path / "frames"),
        lambda: in_parts(tmp_path / "many", str(images), None, 4, settings),
    ]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        messages.append(str(caught.value))
    assert "2 of 25 are unreadable" in messages[0]
    assert messages[1].replace("/many/", "/one/") == messages[0]


def test_how_many_parts() -> None:
    assert part_names(20_000, 20_000) == []
    assert part_names(20_001, 20_000) == ["p0000", "p0001"]
    assert len(part_names(10**7, 20_000)) == 500
    assert len(part_names(10**8, 20_000)) == MOST


def test_parts_that_fell_away_are_removed_and_nothing_else(tmp_path: Path) -> None:
    names = ["p0000.parquet", "p0001.parquet", "p0002.parquet", "photos.parquet", "p0001.txt"]
    for name in names:
        (tmp_path / name).write_text("")
    remove_parts(tmp_path, ["p0000", "p0001"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(names) - {"p0002.parquet"})
    remove_parts(tmp_path / "absent", [])
