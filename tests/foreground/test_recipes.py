"""Token recipes with a foreground, end to end through Snakemake on photographs drawn here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_run import ROOT, digest, draw, jobs, snakemake

from maskmill.store.codebook import read
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow

# A student on top shows that rounds take the background up; `leopart_cbfe` itself needs infomap.
OWN = """
features:
  grouping: {backbone: vit_small_focus, facet: key, size: {square: 224}}
  semantic: {backbone: efficientnet_lite0, size: {square: 128}}
regions: {features: semantic, pool: token}
foreground: {features: grouping, clusters: 12}
cluster: {method: kmeans, clusters: 2}
rounds: {count: 1, features: [semantic], steps: 20}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run over two shards, and its configuration."""
    folder = tmp_path_factory.mktemp("cbfe")
    (folder / "labels").mkdir()
    for i in range(6):
        Image.fromarray(draw(folder / f"images/im{i}.png", i)).save(folder / f"labels/im{i}.png")
    (folder / "own.yaml").write_text(OWN)
    recipes = [str(folder / "own.yaml")]
    if importlib.util.find_spec("infomap"):
        body = (ROOT / "recipes/leopart_cbfe.yaml").read_text()
        for before, after in (("448", "224"), ("clusters: 200", "clusters: 12"), ("fine: 149", "fine: 8")):
            assert before in body
            body = body.replace(before, after)
        (folder / "leopart_small.yaml").write_text(body.replace("clusters: 20\n", "clusters: 2\n"))
        recipes.append(str(folder / "leopart_small.yaml"))
    config = {
        "images": str(folder / "images"), "labels": str(folder / "labels"), "recipes": recipes,
        "inputs": {"shard_size": 3}, "evaluate": {"objects": True}, "report": {"gallery": 2, "typical": 2},
    }  # fmt: skip
    done = snakemake(folder / "run", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, config


def test_masks_have_a_background_that_is_scored(run: tuple[Path, dict[str, Any]]) -> None:
    folder, config = run
    for recipe in map(Path, config["recipes"]):
        base = folder / "run/results/recipes" / recipe.stem / "seed0"
        ground = read(base / "foreground/codebook.safetensors")
        assert len(ground) == 2
        assert read(base / "cluster/codebook.safetensors").counts.sum() == ground.counts[1]
        for round_ in range(2 if recipe.stem == "own" else 1):
            shares = [
                float((mask == 0).mean())
                for path in base.glob(f"round{round_}/masks/*.zarr")
                for _, mask in Ragged(path, "masks").images()
            ]
            assert len(shares) == 6
            assert 0.1 < np.mean(shares) < 0.98
            scores = json.loads((base / f"round{round_}/scores.json").read_text())
            assert scores["saliency"][0]["iou"] > 0.2  # about a sixth of the picture is the thing
    assert "foreground:" in (folder / "run/results/report.html").read_text()


def test_another_threshold_counts_and_fits_nothing_again(run: tuple[Path, dict[str, Any]]) -> None:
    folder, config = run
    assert "Nothing to be done" in (again := snakemake(folder / "run", config)).stdout + again.stderr
    table = jobs(snakemake(folder / "run", config | {"foreground": {"threshold": 0.5}}, "--dry-run"))
    assert {"foreground_choose", "cluster_fit", "paint"} <= set(table)
    assert not {"features", "reduce_fit", "foreground_fit", "foreground_count"} & set(table)
    table = jobs(snakemake(folder / "run", config | {"foreground": {"mass": 0.5}}, "--dry-run"))
    assert "foreground_count" in table
    assert "foreground_fit" not in table


def test_shards_do_not_matter(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, config = run
    small = config | {"recipes": config["recipes"][:1], "inputs": {"shard_size": 6}, "rounds": {"count": 0}}
    done = snakemake(tmp_path, small)
    assert done.returncode == 0, done.stdout + done.stderr

    def masks(where: Path) -> dict[str, bytes]:
        stores = map(Ragged, (where / "results/recipes/own/seed0/round0/masks").glob("*.zarr"))
        return {image_id: mask.tobytes() for store in stores for image_id, mask in store.images()}

    assert masks(tmp_path) == masks(folder / "run")
    assert digest(tmp_path)


def test_too_few_tokens_stop_with_the_key(run: tuple[Path, dict[str, Any]]) -> None:
    folder, config = run
    done = snakemake(folder / "run", config | {"recipes": config["recipes"][:1], "foreground": {"clusters": 5000}})
    assert done.returncode
    assert "foreground.clusters: 5000 clusters for" in done.stdout + done.stderr
