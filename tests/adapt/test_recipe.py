"""A learned head end to end through Snakemake on pictures drawn here."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from small_run import configuration, draw, jobs, planned, predicted_otherwise, snakemake

from maskmill.recipe.scoring import READOUTS
from maskmill.store.artefact import read_json
from maskmill.store.codebook import read
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow


def test_every_seed_has_its_own_head_and_masks(finished: Path) -> None:
    base = finished / "results/recipes/stego"
    heads = [(base / f"seed{seed}/adapt/head.safetensors").read_bytes() for seed in (0, 1)]
    assert heads[0] != heads[1]
    for seed in (0, 1):
        book = read(base / f"seed{seed}/cluster/codebook.safetensors")
        assert book.centroids.shape == (3, 16)
        masks = [
            mask for path in (base / f"seed{seed}/round0/masks").glob("*.zarr") for _, mask in Ragged(path).images()
        ]
        assert len(masks) == 12
        assert all(set(mask.ravel().tolist()) <= {1, 2, 3} for mask in masks)
        assert read_json(base / f"seed{seed}/round0/scores.json")["scores"]
    page = (finished / "seeds.html").read_text()
    assert 'id="heads"' in page
    assert "codes random" in page


def test_the_head_segments_new_images_as_its_own(finished: Path, photos: Path, tmp_path: Path) -> None:
    assert predicted_otherwise(finished, photos / "images", "stego", tmp_path) < 0.002  # the backbone saw batches


def test_the_codes_of_every_seed_are_probed_as_their_features_are(finished: Path) -> None:
    results = finished / "results"
    for name, seed in itertools.product(READOUTS, (0, 1)):
        features = read_json(next((results / "evaluate" / name).glob("*.json")))
        codes = read_json(results / f"recipes/stego/seed{seed}/adapt_{name}.json")
        assert (codes["recipe"], codes["features"], codes["dimensions"], codes["seed"]) == ("stego", "codes", 16, seed)
        assert codes["scores"][0]["protocol"] == features["scores"][0]["protocol"]
    assert "codes of stego" in (finished / "seeds.html").read_text()


def test_a_head_that_trains_its_backbone_sees_photos_instead_of_stored_tokens(
    finished: Path, photos: Path, tmp_path: Path
) -> None:
    base = finished / "results/recipes/unfrozen/seed0"
    assert read_json(base / "round0/scores.json")["scores"]
    assert {Ragged(path).depth for path in (base / "adapt").glob("*.zarr")} == {8}
    assert not (base / "export/segmenter/weights").exists()  # the head has its own
    assert predicted_otherwise(finished, photos / "images", "unfrozen", tmp_path / "new") == 0
    config = configuration(finished, "unfrozen")
    fresh = tmp_path / "fresh"
    for part in ("results/inputs", "resources", ".snakemake"):
        shutil.copytree(finished / part, fresh / part)
    table = planned(fresh, config)
    assert table["adapt_fit"] == 1
    assert "features" not in table


def test_a_head_that_trains_its_backbone_depends_on_its_photos(finished: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "images", tmp_path / "images")
    draw(tmp_path / "images/other.png", 9)  # other photos train another head
    work = tmp_path / "other"
    for part in ("results/inputs", "results/recipes/unfrozen", "resources", ".snakemake"):
        shutil.copytree(finished / part, work / part)
    config = configuration(finished, "unfrozen") | {"images": str(tmp_path / "images"), "labels": None, "evaluate": {}}
    config |= {"features": {"semantic": {"dtype": "int8"}}, "adapt": {"cache_mib": 7}}
    config["inputs"] = {key: value for key, value in config["inputs"].items() if key != "depth"}  # the other has none
    done = snakemake(work, config, "--until", "inputs")
    assert done.returncode == 0, done.stdout + done.stderr
    again = snakemake(work, config, "--dry-run", "-p")
    assert jobs(again)["adapt_fit"] == 1
    assert "--cache-mib 7" in again.stdout + again.stderr
