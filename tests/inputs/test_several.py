"""`images` as a list: which id each image gets, what is taken once, and that everything follows."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from input_files import fails, label, picture, read, video
from small_run import BASELINE, ROOT, draw, masks, snakemake

from maskmill.dag.files import Graph
from maskmill.errors import ConfigError
from maskmill.images.listing import listing_fingerprint
from maskmill.inputs.files import named_sources
from maskmill.recipe.resolve import load


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "work"


def test_ids_begin_with_the_name_of_the_folder(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, name in enumerate(["one/1.png", "one/sub/2.png", "two/1.png"]):
        picture(tmp_path / name, i)
    both = read(out, [tmp_path / "one", tmp_path / "two"])
    assert both.ids == ["one/1", "one/sub/2", "two/1"]
    assert read(out, [tmp_path / "two", tmp_path / "one"]).rows == both.rows  # the order means nothing
    picture(tmp_path / "three/1.png", 7)
    more = read(out, [tmp_path / "one", tmp_path / "two", tmp_path / "three"])
    assert [i for i in more.ids if i in both.ids] == both.ids  # nor do further folders
    monkeypatch.chdir(tmp_path / "one")
    assert read(out, [".", "../two/"]).ids == both.ids


def test_globs_tables_videos_and_files(tmp_path: Path, out: Path) -> None:
    for i, name in enumerate(["g/a/1.png", "g/a/1.jpg", "g/b/2.png", "single/s.png", "rows/r.png", "rows/q.png"]):
        picture(tmp_path / name, i)
    video(tmp_path / "film.mkv", frames=2)
    (tmp_path / "plain.csv").write_text("path\nrows/r.png\n")
    (tmp_path / "named.csv").write_text("path,id\nrows/q.png,mine\n")
    sources = ["g/*/*.png", "g/*/*.jpg", "single/s.png", "plain.csv", "named.csv", "film.mkv"]
    assert read(out, [tmp_path / source for source in sources]).ids == [
        "film/000000", "film/000001", "g/a/1.jpg", "g/a/1.png", "g/b/2", "mine", "plain/rows/r", "single/s",
    ]  # fmt: skip


def test_a_file_that_two_sources_name_is_taken_once(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "all/sub/1.png")
    picture(tmp_path / "all/2.png", 1)
    label(tmp_path / "l.png")
    (tmp_path / "t.csv").write_text("path,label\nall/2.png,l.png\n")
    manifest = read(out, [tmp_path / "all", tmp_path / "all/sub", tmp_path / "t.csv"])
    assert [(row.id, row.label) for row in manifest.rows] == [("all/2", str(tmp_path / "l.png")), ("all/sub/1", None)]
    assert "2 images" in (said := capsys.readouterr().err)
    assert "2 named by two sources and taken once" in said


def test_folders_of_one_name_collide_only_where_files_do(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "x/left/1.png")
    picture(tmp_path / "y/left/2.png", 1)
    sources = [tmp_path / "x/left", tmp_path / "y/left"]
    assert read(out, sources).ids == ["left/1", "left/2"]
    picture(tmp_path / "y/left/1.png", 2)
    said = fails(out, sources, r"have the same id 'left/1\.png', because their folders have the same name; rename one")
    assert f"{tmp_path}/x/left/1.png and {tmp_path}/y/left/1.png" in said


def test_labels_lie_as_the_ids_say(tmp_path: Path, out: Path) -> None:
    for name in ("one/1.png", "two/1.png", "two/2.png"):
        picture(tmp_path / name, hash(name) % 7)
    label(tmp_path / "labels/one/1.png")
    label(tmp_path / "labels/two/1.png")
    label(tmp_path / "labels/2.png")
    manifest = read(out, [tmp_path / "one", tmp_path / "two"], tmp_path / "labels")
    assert {row.id: row.label and os.path.relpath(row.label, tmp_path) for row in manifest.rows} == {
        "one/1": "labels/one/1.png", "two/1": "labels/two/1.png", "two/2": "labels/2.png",
    }  # fmt: skip


def test_a_source_that_is_wrong_is_named(tmp_path: Path, out: Path) -> None:
    picture(tmp_path / "one/1.png")
    (tmp_path / "empty").mkdir()
    fails(out, [tmp_path / "one", tmp_path / "no"], r"images: '.*/no' does not exist")
    fails(out, [tmp_path / "one", tmp_path / "empty"], r"no image below '.*/empty'")
    fails(tmp_path / "one/work", [tmp_path / "empty", tmp_path / "one"], r"'.*/one' holds the working directory")


def test_the_fingerprint_watches_every_source(tmp_path: Path) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    picture(tmp_path / "one/1.png")
    picture(tmp_path / "two/1.png")
    assert listing_fingerprint([one], None) == listing_fingerprint(one, None)
    before = listing_fingerprint([one, two], None)
    picture(tmp_path / "two/2.png")
    assert listing_fingerprint([one, two], None) != before


def config(**keys: Any) -> Any:
    return load({"recipes": ["kmeans"], "preset": "small"} | keys, ROOT / "recipes").config


def test_the_configuration(tmp_path: Path) -> None:
    assert config(images=["a", "b"]).sources == ("a", "b")
    assert config(images=["a"]).images == "a"  # a list of one is that one
    for wrong, why in [
        ([], "give a path, or a list of paths"),
        ([1, "a"], "give a path, or a list of paths"),
        (7, "give a path, or a list of paths"),
        (["a", "demo"], "demo stands for the embedded footage alone"),
        (["a", "https://bob:secret@host/x"], r"is a URL"),
    ]:
        with pytest.raises(ConfigError, match=rf"^config.yaml: images: {why}") as told:
            config(images=wrong)
        assert "secret" not in str(told.value)


def test_a_table_with_labels_among_others_is_scored(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\na.png,b.png\n")
    run = load({"recipes": ["kmeans"], "images": ["folder", str(tmp_path / "t.csv")]}, ROOT / "recipes")
    assert Graph(run, lambda: []).labelled


def test_options_survive_a_shell() -> None:
    sources = ["-x", "it's a b", "$(touch hacked) {x}", "*.png"]
    assert shlex.split(named_sources(sources)) == [f"--images={source}" for source in sources]


@pytest.mark.slow
def test_a_run_of_two_folders(tmp_path: Path) -> None:
    """Given on the command line; every picture of both has a mask, and a new picture in either is noticed."""
    for i in range(4):
        draw(tmp_path / f"{'one' if i % 2 else 'the other'}/{i}.png", i)
    work = tmp_path / "work"
    sources = yaml.safe_dump([f"{tmp_path}/one", f"{tmp_path}/the other"], default_flow_style=True).strip()
    settings = BASELINE | {"rounds": {"count": 0}}
    done = snakemake(work, settings, "--config", f"images={sources}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert masks(work)
    made = {str(p.relative_to(work)).split("masks/")[1] for p in work.glob("results/recipes/*/seed0/export/masks/*/*")}
    assert made == {"one/1.png", "one/3.png", "the other/0.png", "the other/2.png"}
    assert f"{tmp_path}/one, {tmp_path}/the other" in (work / "results/report.html").read_text()
    again = snakemake(work, settings, "--config", f"images={sources}", "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    draw(tmp_path / "the other/9.png", 9)
    assert "inputs" in snakemake(work, settings, "--config", f"images={sources}", "-n").stdout
