"""Token recipes with a foreground, end to end through Snakemake on photographs drawn here."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import whole_run
from small_run import configuration, snakemake

from maskmill.store.codebook import read
from maskmill.store.ragged import Ragged

pytestmark = pytest.mark.slow
# A student on top of `own` shows that rounds take the background up; `leopart_cbfe` itself needs infomap.
RECIPES = ["own"] + (["leopart_cbfe"] if importlib.util.find_spec("infomap") else [])


@pytest.mark.parametrize("recipe", RECIPES)
def test_masks_have_a_background_that_is_scored(recipe: str, finished: Path) -> None:
    base = finished / "results/recipes" / recipe / "seed0"
    ground = read(base / "foreground/codebook.safetensors")
    assert len(ground) == 2
    book = read(base / "cluster/codebook.safetensors")
    assert book.counts.sum() <= ground.counts[1]
    assert book.noise or book.counts.sum() == ground.counts[1]
    for round_ in range(2 if recipe == "own" else 1):
        shares = [
            float((mask == 0).mean())
            for path in base.glob(f"round{round_}/masks/*.zarr")
            for _, mask in Ragged(path, "masks").images()
        ]
        assert len(shares) == 12
        assert 0.1 < np.mean(shares) < 0.98
        scores = json.loads((base / f"round{round_}/scores.json").read_text())
        assert scores["saliency"][0]["iou"] > 0.2  # about a sixth of the picture is the thing
    assert "foreground:" in (finished / "results/report.html").read_text()


def test_shards_do_not_matter(finished: Path, tmp_path: Path, programs: Path) -> None:
    """One shard of all pictures instead of two."""
    whole = configuration(finished, "own") | {"inputs": {"shard_size": 12}, "rounds": {"count": 0}}
    work = tmp_path / "work"
    shutil.copytree(finished / "resources", work / "resources")
    whole_run.run(work, whole, programs)

    def masks(where: Path) -> dict[str, bytes]:
        stores = map(Ragged, (where / "results/recipes/own/seed0/round0/masks").glob("*.zarr"))
        return {image_id: mask.tobytes() for store in stores for image_id, mask in store.images()}

    assert len(list((work / "results/recipes/own/seed0/round0/masks").glob("*.zarr"))) == 1
    assert len(masks(work)) == 12
    assert masks(work) == masks(finished)


def test_too_few_tokens_stop_with_the_key(finished: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for part in ("results/inputs", "results/features", "resources"):
        shutil.copytree(finished / part, work / part)
    done = snakemake(work, configuration(finished, "own") | {"foreground": {"clusters": 5000}})
    assert done.returncode
    assert "foreground.clusters: 5000 clusters for" in done.stdout + done.stderr
