"""The workflow end to end through Snakemake, on photographs drawn here: run, resume, rerun, faults.

The tests share one working folder's weights through the user's cache; each has its own results. Images are small, so
a whole run takes about a minute.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
SMALL = {
    "features": {
        "grouping": {"size": {"square": 224}},
        "semantic": {"size": {"square": 128}},
    },
    "cluster": {"clusters": 3},
    "rounds": {"count": 2, "steps": 60},
    "inputs": {"shard_size": 6},
    "report": {"gallery": 6, "typical": 3},
}

BASELINE = SMALL | {"recipes": ["kmeans"], "features": {"semantic": {"size": {"square": 128}}}}

pytestmark = pytest.mark.slow


def draw(path: Path, seed: int) -> np.ndarray:
    """A photo-like picture with one textured disc or square on a gradient; returns its label (0, 1 disc, 2 square)."""
    rng = np.random.default_rng(seed)
    h, w = 150 + 10 * (seed % 4), 180
    y, x = np.mgrid[:h, :w]
    picture = np.stack([60 + 80 * y / h, 110 + 60 * x / w, 150 - 60 * y / h], -1) + rng.normal(0, 6, (h, w, 3))
    cy, cx, r = h * rng.uniform(0.4, 0.6), w * rng.uniform(0.35, 0.65), 40
    disc = (y - cy) ** 2 + (x - cx) ** 2 < r**2
    square = (abs(y - cy) < r) & (abs(x - cx) < r)
    inside = disc if seed % 2 else square
    picture[inside] = ([220, 60, 40] if seed % 2 else [240, 220, 60]) + rng.normal(0, 12, (inside.sum(), 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
    return np.where(inside, 1 if seed % 2 else 2, 0).astype(np.uint8)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ of twelve pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(12):
        label = draw(folder / "images" / f"set {i % 2}" / f"im{i:02d}.png", i)
        out = folder / "labels" / f"set {i % 2}" / f"im{i:02d}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(out)
    return folder


def snakemake(work: Path, config: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """Plain snakemake in `work`, as a user runs it."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    return subprocess.run(command(work, *options), capture_output=True, text=True, check=False, env=environment())


def command(work: Path, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work),
        "--profile", str(ROOT / "profiles/default"), "--cores", "2", *options,
    ]  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def jobs(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """Rule -> number of jobs of the last job table that Snakemake printed."""
    table: dict[str, int] = {}
    for line in (done.stdout + done.stderr).splitlines():
        words = line.split()
        if words[:2] == ["job", "count"]:
            table = {}
        elif len(words) == 2 and words[1].isdigit():
            table[words[0]] = int(words[1])
    return table


def digest(folder: Path) -> str:
    """Hash of the names and bytes of every mask file of a run."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("results/recipes/*/seed*/round*/masks/**/values/c/**/*")):
        if file.is_file():
            total.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of both recipes with labels, never interrupted."""
    work = tmp_path_factory.mktemp("finished")
    done = snakemake(work, SMALL | {"images": str(photos / "images"), "labels": str(photos / "labels")})
    assert done.returncode == 0, done.stdout + done.stderr
    return work


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
    stages = ("results/features/*/*.zarr", "results/recipes/comus/cut/*.zarr", "results/**/round1/student.safetensors")
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


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"imges": "x"}, "did you mean 'images'"),
        ({"cluster": {"clusters": 1}}, "cluster.clusters"),
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
