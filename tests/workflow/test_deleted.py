"""Results that somebody deletes from a finished run are made again by the same command, and nothing besides."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whole_run
import yaml
from fault_run import files
from PIL import Image

from maskmill.store.writer import Writer

pytestmark = pytest.mark.slow

RECIPE = {
    "features": {"semantic": {"backbone": "colour", "stride": 8, "size": {"square": 64}}},
    "cut": {"features": "semantic", "method": "grid", "rows": 2, "columns": 2},
    "regions": {"features": "semantic", "pool": "mean"},
    "cluster": {"method": "kmeans", "clusters": 2},
    "rounds": {"count": 1, "steps": 4, "features": ["semantic"]},
}
SEED = "results/recipes/own/seed0"
DEAD = Writer(Writer.current().host, 2**22 + 1, 1)  # no process has such a number
BETWEEN = {"cluster_map", "paint_limits", "paint"}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A finished run with labels."""
    folder = tmp_path_factory.mktemp("deleted")
    rng = np.random.default_rng(0)
    for place in ("photos", "labels"):
        (folder / place).mkdir()
    for name in "abcd":
        label = np.repeat([[0, 1]], 64, axis=0).repeat(32, axis=1).astype(np.uint8)
        photo = (label[..., None] * 200 + rng.integers(0, 40, (64, 64, 3))).astype(np.uint8)
        Image.fromarray(photo).save(folder / f"photos/{name}.png")
        Image.fromarray(label).save(folder / f"labels/{name}.png")
    (folder / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    assert run(folder, programs) >= {"features", "cut", "rounds_train", "report"}
    return folder


def config(folder: Path) -> dict[str, Any]:
    return {"images": str(folder / "photos"), "labels": str(folder / "labels"), "recipes": [str(folder / "own.yaml")]}


def run(folder: Path, programs: Path, change: dict[str, Any] | None = None) -> set[str]:
    """The rules that ran."""
    done = whole_run.run(folder, config(folder) | (change or {}), programs)
    return set(re.findall(r"(?:rule|checkpoint) (\w+):", done.stderr + done.stdout)) - {"all"}


@pytest.mark.parametrize(
    ("gone", "made"),
    [
        (["results/features/*/*.zarr"], {"features"}),
        ([f"{SEED}/cluster/codebook.safetensors", f"{SEED}/round0/scores.json"], {"cluster_fit", *BETWEEN, "evaluate"}),
        (["resources/weights/*.safetensors", "results/recipes/own/cut/*.zarr"], {"weights", "features", "cut"}),
        ([f"{SEED}/round1/student.safetensors", "results/inputs/rejected.csv"], {"inputs", "rounds_train"}),
        ([f"{SEED}/export"], {"export"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else "",
)
def test_what_was_deleted_is_made_again_alone(work: Path, programs: Path, gone: list[str], made: set[str]) -> None:
    paths = [path for pattern in gone for path in work.glob(pattern)]
    assert len(paths) == len(gone)
    before = {path: files(path) for path in paths}
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(work, programs) == made
    for path in paths:
        assert files(path) == before[path]
    assert run(work, programs) == set()


def test_a_setting_that_changed_meanwhile_counts_first(work: Path, programs: Path, tmp_path: Path) -> None:
    """With another configuration the run is not finished, and what depends on the change is made from what is new.

    A job that fails then, whose file Snakemake has removed, is no deletion either.
    """
    folder = tmp_path / "changed"
    shutil.copytree(work, folder, symlinks=True)
    (folder / SEED / "cluster/codebook.safetensors").unlink()
    scored = {"evaluate": {"protocols": ["many_to_one"]}}
    failing = tmp_path / "bin"
    failing.mkdir()
    (failing / "maskmill").write_text("#!/bin/sh\nexit 1\n")
    (failing / "maskmill").chmod(0o755)
    with pytest.raises(RuntimeError, match="Error in rule"):
        run(folder, failing, config(work) | scored)
    assert run(folder, programs, config(work) | scored) >= {"evaluate", "report"}
    same = config(work) | {"cluster": {"clusters": 3}}
    assert run(folder, programs, same) >= {"cluster_fit", "cluster_map", "paint", "rounds_train", "report"}
    assert run(folder, programs, same) == set()


def test_no_training_runs_again_for_what_lies_around_it(work: Path, programs: Path) -> None:
    """What comes before it waits for the next start of the same command."""
    gone = [next(work.glob("results/features/*/*.zarr")), work / SEED / "round1/scores.json"]
    dead, alive = (work / SEED / f".half.zarr.tmp-{tag}" for tag in (DEAD.tag, Writer.current().tag))
    for path in (dead, alive):
        path.mkdir()
    shutil.rmtree(gone[0])
    gone[1].unlink()
    assert run(work, programs) == {"evaluate"}
    assert not dead.exists()  # what a killed job left, and of a living one nothing
    assert alive.exists()
    assert run(work, programs) == {"features"}
    assert run(work, programs) == set()
