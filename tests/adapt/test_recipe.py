"""A learned head end to end through Snakemake on pictures drawn here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_run import BASELINE, draw, jobs, predicted_otherwise, snakemake

from maskmill.store.artefact import read_json
from maskmill.store.codebook import read
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run of stego over two shards with two seeds, and its configuration."""
    folder = tmp_path_factory.mktemp("stego")
    (folder / "labels").mkdir()
    for i in range(8):
        Image.fromarray(draw(folder / f"images/im{i}.png", i)).save(folder / f"labels/im{i}.png")
    config = {key: value for key, value in BASELINE.items() if key != "reduce"} | {
        "images": str(folder / "images"), "labels": str(folder / "labels"), "recipes": ["stego"], "seeds": [0, 1],
        "adapt": {"steps": 40, "neighbours": 3, "places": 5, "dimensions": 16}, "inputs": {"shard_size": 4},
        "cluster": {"clusters": 3}, "report": {"gallery": 2, "typical": 1}, "evaluate": {"linear_probe": True},
    }  # fmt: skip
    done = snakemake(folder / "run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, config


def test_every_seed_has_its_own_head_and_masks(run: tuple[Path, dict[str, Any]]) -> None:
    base = run[0] / "run/results/recipes/stego"
    heads = [(base / f"seed{seed}/adapt/head.safetensors").read_bytes() for seed in (0, 1)]
    assert heads[0] != heads[1]
    for seed in (0, 1):
        book = read(base / f"seed{seed}/cluster/codebook.safetensors")
        assert book.centroids.shape == (3, 16)
        masks = [
            mask for path in (base / f"seed{seed}/round0/masks").glob("*.zarr") for _, mask in Ragged(path).images()
        ]
        assert len(masks) == 8
        assert all(set(mask.ravel().tolist()) <= {1, 2, 3} for mask in masks)
        assert read_json(base / f"seed{seed}/round0/scores.json")["scores"]
    page = (run[0] / "run/results/report.html").read_text()
    assert 'id="heads"' in page
    assert "codes random" in page


def test_the_head_segments_new_images_as_its_own(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    other = predicted_otherwise(run[0] / "run", run[0] / "images", "stego", tmp_path)
    assert other < 0.002  # the backbone saw batches


def test_the_codes_of_every_seed_are_probed_as_their_features_are(run: tuple[Path, dict[str, Any]]) -> None:
    results = run[0] / "run/results"
    features = read_json(next((results / "evaluate/probe").glob("*.json")))
    for seed in (0, 1):
        codes = read_json(results / f"recipes/stego/seed{seed}/adapt_probe.json")
        assert (codes["recipe"], codes["features"], codes["dimensions"], codes["seed"]) == ("stego", "codes", 16, seed)
        assert codes["scores"][0]["protocol"] == features["scores"][0]["protocol"]
    assert "codes of stego" in (run[0] / "run/results/report.html").read_text()


def test_nothing_is_done_twice_and_another_head_leaves_the_features(run: tuple[Path, dict[str, Any]]) -> None:
    folder, config = run
    assert "Nothing to be done" in (again := snakemake(folder / "run", config)).stdout + again.stderr
    table = jobs(snakemake(folder / "run", config | {"adapt": config["adapt"] | {"dropout": 0.2}}, "--dry-run"))
    assert (table["adapt_fit"], table["evaluate_codes"]) == (2, 2)
    assert not {"features", "adapt_neighbours", "inputs", "evaluate_probe"} & table.keys()
    more = jobs(snakemake(folder / "run", config | {"adapt": config["adapt"] | {"checkpoint_steps": 7}}, "--dry-run"))
    assert "adapt_fit" not in more


def test_a_head_that_trains_its_backbone_sees_photos_instead_of_stored_tokens(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, config = run
    own = {"unfreeze": True, "steps": 4, "batch_size": 4, "dimensions": 8, "hidden": 8}
    config = config | {"recipes": ["picie"], "seeds": [0], "adapt": own}
    planned = jobs(snakemake(folder / "unfrozen", config, "--dry-run"))
    assert "features" not in planned
    done = snakemake(folder / "unfrozen", config)
    assert done.returncode == 0, done.stdout + done.stderr
    base = folder / "unfrozen/results/recipes/picie/seed0"
    assert read_json(base / "round0/scores.json")["scores"]
    assert {Ragged(path).depth for path in (base / "adapt").glob("*.zarr")} == {8}
    assert not (base / "export/segmenter/weights").exists()  # the head has its own
    assert predicted_otherwise(folder / "unfrozen", folder / "images", "picie", tmp_path / "new") == 0
    stored = {"features": {"semantic": {"size": {"square": 128}, "dtype": "int8"}}, "adapt": own | {"cache_mib": 7}}
    assert "adapt_fit" not in jobs(snakemake(folder / "unfrozen", config | stored, "--dry-run"))
    draw(folder / "images/other.png", 9)  # other photos train another head
    forced = snakemake(folder / "unfrozen", config | stored, "--until", "inputs")
    assert forced.returncode == 0, forced.stdout + forced.stderr
    again = snakemake(folder / "unfrozen", config | stored, "--dry-run", "-p")
    assert jobs(again)["adapt_fit"] == 1
    assert "--cache-mib 7" in again.stdout + again.stderr
