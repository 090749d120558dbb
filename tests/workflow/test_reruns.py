"""What runs again after which change: dry runs beside the finished run."""

from __future__ import annotations

from pathlib import Path

import pytest
import whole_run
from small_run import beside, configuration, jobs, planned, snakemake

pytestmark = pytest.mark.slow


@pytest.fixture
def work(finished: Path, tmp_path: Path) -> Path:
    """A folder in which Snakemake sees the finished run."""
    return beside(finished, tmp_path / "work")


def test_nothing_to_do_after_success(finished: Path, work: Path) -> None:
    done = snakemake(work, configuration(finished))
    assert "Nothing to be done" in done.stdout + done.stderr


def test_what_objects_depend_on_runs_again_and_nothing_else(finished: Path, work: Path) -> None:
    config = configuration(finished, "comus", "kmeans")
    fewer = planned(work, config | {"evaluate": {"objects": {"min_area": 0.01}}})
    assert fewer["evaluate_objects"] == 1
    assert fewer["evaluate"] == 3  # comus, rounds 0, 1, 2; masks of kmeans have no background
    assert not {"inputs", "cut", "regions", "cluster_fit", "paint", "rounds_train"} & set(fewer)
    off = planned(work, config | {"evaluate": {}})
    assert "evaluate_objects" not in off
    assert "report" in off


def test_other_clusters_rerun_cluster_and_what_follows(finished: Path, work: Path) -> None:
    config = configuration(finished, "comus", "kmeans") | {"cluster": {"clusters": 4}}
    table = planned(work, config)
    assert {"cluster_fit", "paint", "rounds_train", "report"} <= set(table)
    assert not {"inputs", "features", "cut", "regions", "weights"} & set(table)


def test_pooling_crops_needs_photos_and_weights_but_no_stored_tokens(
    finished: Path, work: Path, tmp_path: Path
) -> None:
    """With rounds.count 0 nobody reads the semantic tokens: no features job is planned for them."""
    crops = configuration(finished, "comus") | {"regions": {"pool": "crop_cls", "size": 64}, "rounds": {"count": 0}}
    table = planned(work, crops)
    assert {"regions", "cluster_fit", "paint", "report"} <= set(table)
    assert not {"inputs", "features", "cut", "weights", "rounds_train"} & set(table)
    fresh = snakemake(tmp_path / "fresh", crops, "results/inputs/manifest.parquet")
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    told = snakemake(tmp_path / "fresh", crops, "--dry-run")
    assert "features=efficientnet_lite0" not in told.stdout + told.stderr
    assert "resources/weights/efficientnet_lite0.safetensors" in told.stdout + told.stderr


def test_students_on_photos_need_weights_and_no_stored_tokens(finished: Path, work: Path) -> None:
    """Other checkpoints or more rounds retrain no student; another student trains on photos, through its encoder."""
    config = configuration(finished, "comus", "kmeans")
    more = config | {"rounds": {"count": 3, "checkpoint_steps": 7}}
    assert planned(work, more)["rounds_train"] == 1
    photos = config | {"rounds": {"count": 2, "student": "deeplabv3plus", "encoder": "semantic", "steps": 5}}
    told = snakemake(work, photos, "--dry-run")
    assert jobs(told)["rounds_train"] == 2
    trained = [line for line in told.stdout.splitlines() if "maskmill rounds train" in line] or [told.stdout]
    assert "efficientnet_lite0.safetensors" in trained[0]
    logic = config | {"rounds": {"start": "continue", "stop": 0.01, "confidence": 0.5}}
    assert planned(work, logic)["rounds_train"] == 2


def test_another_threshold_of_the_foreground_counts_and_fits_nothing_again(finished: Path, work: Path) -> None:
    config = configuration(finished, "own", "leopart_cbfe")
    table = planned(work, config | {"foreground": {"threshold": 0.5}})
    assert {"foreground_choose", "cluster_fit", "paint"} <= set(table)
    assert not {"features", "reduce_fit", "foreground_fit", "foreground_count"} & set(table)
    table = planned(work, config | {"foreground": {"mass": 0.5}})
    assert "foreground_count" in table
    assert "foreground_fit" not in table


def test_a_reduction_of_another_sample_is_fitted_again(finished: Path, work: Path) -> None:
    more = configuration(finished, "umap", "hnne") | {"reduce": {"max_fit_points": 200}}
    assert planned(work, more)["reduce_fit"] == 2


def test_another_head_leaves_the_features(finished: Path, work: Path) -> None:
    config = configuration(finished, "stego") | whole_run.SEEDS
    again = planned(work, config)
    # Without probes all recipes were scored last; an export names the classes that its scores were matched with.
    assert again == {"evaluate": 1, "export": 1, "report": 1, "all": 1, "total": 4}
    table = planned(work, config | {"adapt": {"dropout": 0.2}})
    assert (table["adapt_fit"], table["evaluate_codes"]) == (2, 2)
    assert not {"features", "adapt_neighbours", "inputs", "evaluate_probe"} & table.keys()
    more = planned(work, config | {"adapt": {"checkpoint_steps": 7}})
    assert "adapt_fit" not in more


def test_another_way_to_store_tokens_trains_no_head_on_photos_again(finished: Path, work: Path) -> None:
    stored = {"features": {"semantic": {"dtype": "int8"}}, "adapt": {"cache_mib": 7}}
    assert "adapt_fit" not in planned(work, configuration(finished, "unfrozen") | stored)


def test_what_decides_which_instances_are_kept_reruns_what_learns_from_them(finished: Path, work: Path) -> None:
    """Not the round that made them."""
    other = {"keep_score": 0.9, "from_round": {2: {"steps": 4, "keep_score": 0.3}}}
    table = planned(work, configuration(finished, "cutler") | {"rounds": other})
    assert (table["rounds_teach"], table["rounds_train"]) == (2, 1)
