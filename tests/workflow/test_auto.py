"""A whole run with clusters: auto: a recipe of tokens with a round, and one of regions; planned beforehand."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whole_run
import yaml
from PIL import Image

from maskmill.store.artefact import read_json
from maskmill.store.codebook import read

pytestmark = pytest.mark.slow

COLOURS = np.array([[220, 30, 30], [30, 200, 40], [40, 60, 220], [240, 240, 240]])
FEATURES = {"semantic": {"backbone": "colour", "stride": 8, "size": {"square": 64}}}
AUTO = {"clusters": "auto", "range": [2, 9]}
RECIPES: dict[str, Any] = {
    "tokens": {
        "features": FEATURES,
        "regions": {"features": "semantic", "pool": "token"},
        "cluster": {"method": "kmeans", **AUTO},
        "rounds": {"count": 1, "steps": 4, "features": ["semantic"]},
    },
    "pieces": {
        "features": FEATURES,
        "cut": {"features": "semantic", "method": "grid", "rows": 2, "columns": 2},
        "regions": {"features": "semantic", "pool": "mean"},
        "cluster": {"method": "agglomerative", "spherical": False, **AUTO},
    },
}


def draw(folder: Path) -> dict[str, Any]:
    """Photos of four quarters, each of one of four colours, with their labels, and the configuration."""
    draws = np.random.default_rng(0)
    for place in ("photos", "labels"):
        (folder / place).mkdir()
    for i in range(12):
        label = draws.permutation(4).reshape(2, 2).repeat(32, axis=0).repeat(32, axis=1).astype(np.uint8)
        photo = np.clip(COLOURS[label] + draws.integers(-15, 16, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / f"photos/{i:02d}.png")
        Image.fromarray(label).save(folder / f"labels/{i:02d}.png")
    for name, recipe in RECIPES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "images": str(folder / "photos"), "labels": str(folder / "labels"), "seeds": [0, 1],
        "recipes": [str(folder / f"{name}.yaml") for name in RECIPES], "evaluate": {"candidates": {"steps": 100}},
    }  # fmt: skip


def test_a_number_that_is_chosen_reaches_every_stage(tmp_path: Path, programs: Path) -> None:
    config = draw(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    asked = [programs / "maskmill", "plan", "--images", "12"]
    planned = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    whole_run.run(tmp_path, config, programs, "--dry-run")
    whole_run.run(tmp_path, config, programs)
    for name in RECIPES:
        for seed in (0, 1):
            folder = tmp_path / f"results/recipes/{name}/seed{seed}"
            auto = read_json(folder / "cluster/selection.json")["auto"]
            assert (auto["chosen"], auto["supported"], auto["end"]) == (4, True, False)
            assert len(read(folder / "cluster/codebook.safetensors")) == 4
            scores = read_json(folder / "round0/scores.json")
            assert scores["clusters"] == 4
            assert scores["scores"][0]["miou"] > 0.9
    candidates = read_json(tmp_path / "results/recipes/tokens/seed0/candidates.json")
    assert candidates["clusters"] == 4
    page = (tmp_path / "results/report.html").read_text()
    assert page.count("<b>4</b> clusters, chosen from 2 to") == 2
    assert 'class="warn"' not in page
