"""The workflow end to end through Snakemake, on photographs drawn here: run, resume, rerun, faults.

The tests share one working folder's weights through the user's cache; each has its own results. Images are small, so
a whole run takes about a minute.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from small_run import (
    BASELINE,
    ODD_NAMES,
    ROOT,
    SMALL,
    TOKEN,
    command,
    digest,
    draw,
    environment,
    jobs,
    predicted_otherwise,
    snakemake,
)

from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow


def test_both_recipes_reach_the_report(finished: Path) -> None:
    html = (finished / "results/report.html").read_text()
    assert "comus" in html
    assert "kmeans" in html
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


def test_what_objects_depend_on_runs_again_and_nothing_else(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    fewer = jobs(snakemake(finished, config | {"evaluate": {"objects": {"min_area": 0.01}}}, "--dry-run"))
    assert fewer["evaluate_objects"] == 1
    assert fewer["evaluate"] == 3  # comus, rounds 0, 1, 2; masks of kmeans have no background
    assert not {"inputs", "cut", "regions", "cluster_fit", "paint", "rounds_train"} & set(fewer)
    off = jobs(snakemake(finished, config | {"evaluate": {}}, "--dry-run"))
    assert "evaluate_objects" not in off
    assert "report" in off
    (finished / "config.yaml").write_text(yaml.safe_dump(config))


def test_object_discovery_reaches_the_report(photos: Path, finished: Path, tmp_path: Path) -> None:
    """lost, tokencut and maskcut: every object is of class 1, with the score of its own cut. No tokens are kept."""
    work = tmp_path / "objects"
    shutil.copytree(finished / "resources", work / "resources")
    small = {"keep": False, "grouping": {"size": {"square": 224}}}
    config = {"recipes": ["lost", "tokencut", "maskcut"], "features": small, "images": str(photos / "images")}
    done = snakemake(work, config | {"report": {"gallery": 4, "typical": 2}})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(work.glob("results/features/*/*.zarr"))
    html = (work / "results/report.html").read_text()
    for recipe in config["recipes"]:
        assert recipe in html
        export = work / f"results/recipes/{recipe}/seed0/export"
        coco = json.loads((export / "coco.json").read_text())
        assert [category["id"] for category in coco["categories"]] == [1]
        assert {annotation["category_id"] for annotation in coco["annotations"]} == {1}
        found = {value for mask in export.glob("masks/**/*.png") for value in np.unique(np.asarray(Image.open(mask)))}
        assert found <= {0, 1, 255}
        assert 1 in found


def test_nothing_to_do_after_success(finished: Path, photos: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    done = snakemake(finished, config)
    assert "Nothing to be done" in done.stdout + done.stderr


def test_other_clusters_rerun_cluster_and_what_follows(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    table = jobs(snakemake(finished, config | {"cluster": {"clusters": 4}}, "--dry-run"))
    assert {"cluster_fit", "paint", "rounds_train", "report"} <= set(table)
    assert not {"inputs", "features", "cut", "regions", "weights"} & set(table)
    (finished / "config.yaml").write_text(yaml.safe_dump(config))


def test_pooling_crops_needs_photos_and_weights_but_no_stored_tokens(finished: Path, tmp_path: Path) -> None:
    """With rounds.count 0 nobody reads the semantic tokens: no features job is planned for them."""
    config = yaml.safe_load((finished / "config.yaml").read_text())
    crops = config | {"recipes": ["comus"], "regions": {"pool": "crop_cls", "size": 64}, "rounds": {"count": 0}}
    table = jobs(snakemake(finished, crops, "--dry-run"))
    assert {"regions", "cluster_fit", "paint", "report"} <= set(table)
    assert not {"inputs", "features", "cut", "weights", "rounds_train"} & set(table)
    fresh = snakemake(tmp_path, crops, "results/inputs/manifest.parquet")
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    planned = snakemake(tmp_path, crops, "--dry-run")
    assert "features=efficientnet_lite0" not in planned.stdout + planned.stderr
    assert "resources/weights/efficientnet_lite0.safetensors" in planned.stdout + planned.stderr
    (finished / "config.yaml").write_text(yaml.safe_dump(config))


def test_students_on_photos_need_weights_and_no_stored_tokens(finished: Path) -> None:
    """Other checkpoints or more rounds retrain no student; another student trains on photos, through its encoder."""
    config = yaml.safe_load((finished / "config.yaml").read_text())
    more = config | {"rounds": config["rounds"] | {"count": 3, "checkpoint_steps": 7}}
    assert jobs(snakemake(finished, more, "--dry-run"))["rounds_train"] == 1
    photos = config | {"rounds": {"count": 2, "student": "deeplabv3plus", "encoder": "semantic", "steps": 5}}
    planned = snakemake(finished, photos, "--dry-run")
    assert jobs(planned)["rounds_train"] == 2
    trained = [line for line in planned.stdout.splitlines() if "maskmill rounds train" in line] or [planned.stdout]
    assert "efficientnet_lite0.safetensors" in trained[0]
    logic = config | {"rounds": config["rounds"] | {"start": "continue", "stop": 0.01, "confidence": 0.5}}
    assert jobs(snakemake(finished, logic, "--dry-run"))["rounds_train"] == 2
    (finished / "config.yaml").write_text(yaml.safe_dump(config))


def test_added_image_reuses_the_shards_that_did_not_change(finished: Path, photos: Path, tmp_path: Path) -> None:
    work, images = tmp_path / "grown", tmp_path / "images"
    shutil.copytree(finished / "resources", work / "resources")
    shutil.copytree(photos / "images", images)
    config = SMALL | {"images": str(images), "inputs": {"shard_size": 3}}
    target = "results/recipes/kmeans/seed0/cluster/codebook.safetensors"
    first = snakemake(work, config, target)
    assert first.returncode == 0, first.stdout + first.stderr
    before = {f: f.stat().st_mtime_ns for f in work.glob("results/features/*/*.zarr/zarr.json")}
    draw(images / "set 1" / "zz new.png", 99)
    done = snakemake(work, config, target)
    assert done.returncode == 0, done.stdout + done.stderr
    after = {f: f.stat().st_mtime_ns for f in work.glob("results/features/*/*.zarr/zarr.json")}
    assert {f: after[f] for f in before} == before  # no store was written again
    assert 1 <= len(set(after) - set(before)) < len(before)


def test_killed_run_resumes_to_identical_masks(finished: Path, photos: Path, tmp_path: Path) -> None:
    work = tmp_path / "killed"
    work.mkdir()
    shutil.copytree(finished / "resources", work / "resources")
    shutil.copy(finished / "config.yaml", work / "config.yaml")
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
    assert digest(work) == digest(finished)
    assert {f: f.stat().st_mtime_ns for f in kept} == kept  # finished jobs did not run again


def test_run_without_labels_has_no_evaluate(photos: Path, tmp_path: Path) -> None:
    config = BASELINE | {"images": str(photos / "images")}
    done = snakemake(tmp_path / "w", config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((tmp_path / "w").glob("results/**/scores.json"))
    assert (tmp_path / "w/results/report.html").stat().st_size > 10_000


def test_cuts_by_colour_reach_the_report(photos: Path, tmp_path: Path) -> None:
    """A cut with a second feature set, and one whose tokens come without a network."""
    recipe = yaml.safe_load((ROOT / "recipes/dsm.yaml").read_text())
    recipe["features"]["small"] = {"backbone": "colour", "stride": 14, "size": {"square": 224}}
    recipe["cut"] |= {"colour": "small", "colour_weight": 10, "segments": 4}
    (tmp_path / "coloured.yaml").write_text(yaml.safe_dump(recipe))
    config = SMALL | {"images": str(photos / "images"), "recipes": [str(tmp_path / "coloured.yaml"), "ncut_color"]}
    config |= {"rounds": {"count": 0}, "features": SMALL["features"] | {"colour": {"size": {"long_side": 160}}}}
    done = snakemake(tmp_path / "w", config)
    assert done.returncode == 0, done.stdout + done.stderr
    html = (tmp_path / "w/results/report.html").read_text()
    assert "coloured" in html
    assert "ncut_color" in html


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
    config = BASELINE | {"images": str(images)}
    done = snakemake(tmp_path / "w", config)
    assert done.returncode != 0
    assert "inputs.max_rejected" in done.stdout + done.stderr
    assert "broken" in done.stdout + done.stderr


def test_dry_run_and_lint(tmp_path: Path) -> None:
    dry = snakemake(tmp_path / "w", {"recipes": ["kmeans", "comus"]}, "--dry-run")
    assert dry.returncode == 0, dry.stdout + dry.stderr
    assert {"inputs", "weights"} & set(jobs(dry))


@pytest.mark.skipif(importlib.util.find_spec("igraph") is None, reason="needs the package igraph")
def test_the_number_of_clusters_may_come_from_the_data(photos: Path, tmp_path: Path) -> None:
    """Two seeds, whose numbers may differ, from clustering to report and export; noise is ignored in masks."""
    head = yaml.safe_load((ROOT / "recipes/kmeans.yaml").read_text()) | {"reduce": {"method": "pca", "dimensions": 6}}
    methods = {
        "found": {"method": "leiden", "neighbours": 8},
        "dense": {"method": "hdbscan", "min_cluster_size": 6, "min_samples": 3, "noise": "ignore"},
    }
    for name, cluster in methods.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(head | {"cluster": cluster}))
    own = {"recipes": [str(tmp_path / f"{name}.yaml") for name in methods], "seeds": [0, 1]}
    config = BASELINE | own | {"images": str(photos / "images"), "labels": str(photos / "labels"), "cluster": {}}
    done = snakemake(tmp_path / "work", config | {"inputs": {"shard_size": 100}})
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / "work/results/recipes"
    for name in methods:
        for seed in (0, 1):
            selection = json.loads((results / name / f"seed{seed}/cluster/selection.json").read_text())
            masks = Ragged(next((results / name / f"seed{seed}/round0/masks").glob("*.zarr")), "masks")
            values = np.unique(np.concatenate([mask.ravel() for _, mask in masks.images()]))
            assert masks.attrs["clusters"] == selection["clusters"] >= 2
            assert set(values[values < 255]) <= set(range(1, selection["clusters"] + 1))
            assert (255 in values) == (name == "dense")
    html = (tmp_path / "work/results/report.html").read_text()
    assert "found" in html
    assert "dense" in html
    with (results / "found/seed0/export/clusters.csv").open(newline="") as file:
        table = list(csv.reader(file))  # ids hold newlines
    assert len(table) == 2 + json.loads((results / "found/seed0/cluster/selection.json").read_text())["clusters"]
