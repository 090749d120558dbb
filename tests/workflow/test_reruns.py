"""What runs again after which change, asked of Snakemake itself: the table of changes is in tests/dag/test_jobs.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import whole_run
from small_run import ROOT, beside, command, configuration, environment, planned, snakemake

from maskmill.dag.files import Graph
from maskmill.dag.jobs import jobs, run_again
from maskmill.recipe.resolve import load
from maskmill.store.manifest import read_shards

pytestmark = pytest.mark.slow


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A folder in which Snakemake sees the finished run."""
    return beside(finished, tmp_path / "work")


def test_nothing_to_do_after_success(finished: Path, work: Path) -> None:
    done = snakemake(work, configuration(finished))
    assert "Nothing to be done" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("recipes", "change"),
    [
        (("comus", "kmeans"), {"cluster": {"clusters": 4}}),
        (("comus", "kmeans"), {"evaluate": {"objects": {"min_area": 0.01}}}),
        (("cutler",), {"rounds": {"keep_score": 0.9, "from_round": {2: {"steps": 4, "keep_score": 0.3}}}}),
        (("stego",), whole_run.SEEDS | {"adapt": {"dropout": 0.2, "cache_mib": 7}}),
    ],
    ids=["clusters", "objects", "instances", "heads"],
)
def test_snakemake_plans_what_the_graph_says(
    finished: Path, work: Path, recipes: tuple[str, ...], change: dict[str, object]
) -> None:
    """The graph without Snakemake is what other tests ask, so it must count as Snakemake does."""
    config = configuration(finished, *recipes)
    shards = read_shards(finished / "results/inputs/manifest.parquet")

    def graph(body: dict[str, object]) -> Graph:
        return Graph(load(body, ROOT / "recipes"), lambda: shards)

    # The finished run was made in two parts: some recipes with two seeds and probes, then all with one seed.
    seeded = jobs(graph(config | whole_run.SEEDS)) if "seeds" in change else {}
    before = seeded | jobs(graph(configuration(finished)))
    again = run_again(before, jobs(graph(config | change))).values()
    expected = {rule: sum(job.rule == rule for job in again) for rule in {job.rule for job in again}}
    found = planned(work, config | change)
    assert {rule: count for rule, count in found.items() if rule not in ("all", "total")} == expected


def test_another_spelling_of_options_makes_nothing_run_again(finished: Path, work: Path, tmp_path: Path) -> None:
    """Every option of every command gets another name, and its files another way of being written."""
    copy = tmp_path / "copy"
    for name in ("workflow", "recipes", "envs", "profiles"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, copy)
    for path in [*copy.glob("workflow/rules/*.smk"), copy / "workflow/maskmill/dag/files.py"]:
        text = path.read_text()
        other = text.replace(" --", " --renamed-").replace('"--', '"--renamed-')
        path.write_text(other)
    assert "--renamed-{name}" in (copy / "workflow/maskmill/dag/files.py").read_text()
    assert "--renamed-checkpoint-steps" in (copy / "workflow/rules/rounds.smk").read_text()
    snakemake(work, configuration(finished), "--dry-run")  # writes the configuration
    words = [
        str(copy / "Snakefile") if word == str(ROOT / "Snakefile") else word for word in command(work, "--dry-run")
    ]
    variables = environment() | {
        "PYTHONPATH": os.pathsep.join([str(copy / "workflow"), os.environ.get("PYTHONPATH", "")])
    }
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    assert "Nothing to be done" in done.stdout + done.stderr, done.stdout + done.stderr
