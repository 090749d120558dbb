"""The workflow end to end through Snakemake, on photographs drawn here: run, resume, errors of the configuration."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import whole_run
import yaml
from outputs import outputs
from PIL import Image
from small_run import (
    BASELINE,
    ODD_NAMES,
    ROOT,
    TOKEN,
    command,
    configuration,
    draw,
    environment,
    jobs,
    predicted_otherwise,
    snakemake,
)
from tiny_recipes import NAMES

from maskmill.store.manifest import read_manifest

pytestmark = pytest.mark.slow


def test_every_recipe_reaches_the_report(finished: Path) -> None:
    html = (finished / "results/report.html").read_text()
    for recipe in NAMES:
        assert recipe in html
        assert (finished / f"results/recipes/{recipe}/seed0/export/export.json").is_file()
    for round_ in range(3):
        scores = json.loads((finished / f"results/recipes/comus/seed0/round{round_}/scores.json").read_text())
        assert {s["protocol"]["name"] for s in scores["scores"]} >= {"hungarian_iou", "hungarian_counts"}
    export = finished / "results/recipes/comus/seed0/export"
    mask = Image.open(next(export.glob("masks/**/*.png")))
    assert mask.mode == "P"
    assert json.loads((export / "coco.json").read_text())["images"]
    assert (export / "clusters.csv").read_text().count("\n") >= 3


def test_the_run_segments_new_images_as_its_own(photos: Path, finished: Path, tmp_path: Path) -> None:
    for recipe, kind in (("kmeans", "codebook"), ("comus", "student")):
        folder = finished / f"results/recipes/{recipe}/seed0/export/segmenter"
        assert (folder / f"{kind}.safetensors").is_file()
        assert predicted_otherwise(finished, photos / "images", recipe, tmp_path / recipe) < 0.002


def test_odd_names_reach_every_result(photos: Path, finished: Path) -> None:
    """Spaces, quotes, commands, markup, newlines and both forms of an accent: one mask an id, and nothing ran."""
    ids = read_manifest(finished / "results/inputs/manifest.parquet").ids
    assert set(ODD_NAMES.values()) < set(ids)
    assert len(ids) == 12
    for recipe in ("kmeans", "comus"):
        export = finished / f"results/recipes/{recipe}/seed0/export"
        masks = {str(path.relative_to(export / "masks")) for path in export.glob("masks/**/*.png")}
        assert masks == {f"{image_id}.png" for image_id in ids}
        coco = json.loads((export / "coco.json").read_text())
        assert [image["maskmill_id"] for image in coco["images"]] == ids
        scores = json.loads((finished / f"results/recipes/{recipe}/seed0/round0/scores.json").read_text())["scores"]
        assert {entry["images"] for entry in scores} == {12}  # every one with its own label
        with (export / "clusters.csv").open(newline="") as file:
            typical = [image for row in csv.DictReader(file) for image in shlex.split(row["typical"])]
        assert set(typical) <= set(ids)
    html = (finished / "results/report.html").read_text()
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html  # the gallery shows six: this one is among them
    ran = [*photos.rglob("hacked"), *finished.rglob("hacked"), Path("hacked"), photos.parent / "hacked"]
    assert not [path for path in ran if path.exists()]


def test_a_table_of_an_odd_name_is_an_input(photos: Path, tmp_path: Path) -> None:
    """A file that Snakemake watches: it takes braces for wildcards wherever it can."""
    table = tmp_path / "t {x} 'q' $(touch hacked); # [1] é.csv"
    with table.open("w", newline="") as file:
        images = [photos / f"images/{name}.png" for name in ODD_NAMES.values()]
        csv.writer(file).writerows([["path", "id"], *((image, f"{{x}} {i}\n'") for i, image in enumerate(images))])
    config = BASELINE | {"images": str(table), "report": {"title": "{title} $(touch hacked)"}, "readers": "group"}
    done = snakemake(tmp_path / "w", config, "results/inputs/manifest.parquet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_manifest(tmp_path / "w/results/inputs/manifest.parquet").ids == [f"{{x}} {i}\n'" for i in range(6)]
    assert (tmp_path / "w/results/inputs/manifest.parquet").stat().st_mode & 0o777 == 0o640
    planned = snakemake(tmp_path / "w", config, "--dry-run")
    assert planned.returncode == 0, planned.stdout + planned.stderr
    assert not list(tmp_path.rglob("hacked"))


def test_results_are_the_owners_and_hold_no_token(finished: Path) -> None:
    assert (finished / ".snakemake").stat().st_mode & 0o077 == 0
    for path in [finished / name for name in ("results", "resources", "logs", "benchmarks")]:
        for file in (path, *path.rglob("*")):
            assert file.lstat().st_mode & 0o077 == 0, file
            assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
    for file in (finished / ".snakemake").rglob("*"):
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file


def test_objects_are_scored_where_there_is_a_cut(finished: Path, tmp_path: Path) -> None:
    recipes = finished / "results/recipes"
    assert not (recipes / "kmeans/objects.json").exists()
    objects, foreground = json.loads((recipes / "comus/objects.json").read_text())["scores"]
    assert (objects["images"], objects["objects"]) == (12, 12)
    assert {"corloc", "box_ap50", "mask_ar100", "mbo", "fg_ari"} <= set(objects)
    painted = json.loads((recipes / "comus/seed0/round2/scores.json").read_text())["saliency"]
    assert painted[0]["protocol"] == foreground["protocol"]
    assert "saliency" not in json.loads((recipes / "kmeans/seed0/round0/scores.json").read_text())
    html = (finished / "results/report.html").read_text()
    assert "CorLoc" in html
    assert "max F" in html
    out = tmp_path / "objects.json"
    line = json.dumps({"objects": {"metrics": "corloc,ap,mbo,fg_ari,saliency"}})
    run = subprocess.run(
        ["maskmill", "evaluate", "objects", "--cut", str(recipes / "comus/cut"), "--params", line, "--recipe", "comus",
         "--manifest", str(finished / "results/inputs/manifest.parquet"), "--out", str(out)],
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(out.read_text())["scores"] == [objects, foreground]


def test_added_image_reuses_the_shards_that_did_not_change(
    finished: Path, photos: Path, programs: Path, tmp_path: Path
) -> None:
    work, images = tmp_path / "grown", tmp_path / "images"
    shutil.copytree(finished / "resources", work / "resources")
    shutil.copytree(photos / "images", images)
    config = BASELINE | {"images": str(images), "inputs": {"shard_size": 3}}
    target = "results/recipes/kmeans/seed0/cluster/codebook.safetensors"
    whole_run.run(work, config, programs, target)
    before = {f: f.stat().st_mtime_ns for f in work.glob("results/features/*/*.zarr/zarr.json")}
    draw(images / "set 1" / "zz new.png", 99)
    whole_run.run(work, config, programs, target)
    after = {f: f.stat().st_mtime_ns for f in work.glob("results/features/*/*.zarr/zarr.json")}
    assert {f: after[f] for f in before} == before  # no store was written again
    assert 1 <= len(set(after) - set(before)) < len(before)


def test_killed_run_resumes_to_identical_masks(finished: Path, tmp_path: Path) -> None:
    """Every job is a process of its own, while those of the finished run were forks of one (see job_server)."""
    work = tmp_path / "killed"
    work.mkdir()
    shutil.copytree(finished / "resources", work / "resources")
    config = configuration(finished, "comus", "kmeans")
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    comus = "results/recipes/comus"  # no **: folders vanish while the run goes on
    stages = ("results/features/*/*.zarr", f"{comus}/cut/*.zarr", f"{comus}/seed0/round1/student.safetensors")
    for stage in stages:  # kill the whole process group as soon as the stage's first artefact is there
        process = subprocess.Popen(
            command(work),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        deadline = time.monotonic() + 300
        while not any(work.glob(stage)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        subprocess.run([*command(work), "--unlock"], capture_output=True, env=environment(), check=True)
    kept = {f: f.stat().st_mtime_ns for f in work.glob("results/recipes/comus/cut/*.zarr")}
    done = subprocess.run(command(work), capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = {name: hash_ for name, hash_ in outputs(finished).items() if name.partition("/")[0] in ("comus", "kmeans")}
    assert outputs(work) == whole
    assert {f: f.stat().st_mtime_ns for f in kept} == kept  # finished jobs did not run again


def test_run_without_labels_has_no_evaluate(photos: Path, programs: Path, tmp_path: Path) -> None:
    config = BASELINE | {"images": str(photos / "images")}
    whole_run.run(tmp_path / "w", config, programs)
    assert not list((tmp_path / "w").glob("results/**/scores.json"))
    assert (tmp_path / "w/results/report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"imges": "x"}, "did you mean 'images'"),
        ({"cluster": {"clusters": 0}}, "cluster.clusters"),
        ({"recipes": ["kmeens"]}, "did you mean 'kmeans'"),
    ],
)
def test_config_errors_stop_before_any_job(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    done = snakemake(tmp_path / "w", keys)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not (tmp_path / "w/results").exists()


def test_missing_images_are_named(tmp_path: Path) -> None:
    done = snakemake(tmp_path / "w", {"images": str(tmp_path / "nowhere"), "recipes": ["kmeans"]})
    assert done.returncode != 0
    assert "nowhere" in done.stdout + done.stderr


def test_unreadable_image_over_the_budget_stops_and_is_listed(photos: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(photos / "images", images)
    (images / "broken.png").write_bytes((images / "set 0" / "im00.png").read_bytes()[:2000])
    config = BASELINE | {"images": str(images), "inputs": {"max_rejected": 0}}
    done = snakemake(tmp_path / "w", config)
    assert done.returncode != 0
    assert "inputs.max_rejected" in done.stdout + done.stderr
    assert "broken" in done.stdout + done.stderr


def test_a_fresh_folder_is_planned_as_far_as_the_shards_are_known(tmp_path: Path) -> None:
    dry = snakemake(tmp_path / "w", {"recipes": ["kmeans", "comus"]}, "--dry-run")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert jobs(dry) == {"demo": 1, "inputs": 1, "export": 2, "report": 1, "all": 1, "total": 6}


def test_the_rules_pass_the_linter_of_snakemake() -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "tests/lint.sh")], capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
