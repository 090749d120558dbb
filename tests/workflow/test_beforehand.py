"""A plan (`-n`) already says what would stop the run: see tests/recipe/test_beforehand.py for all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_run import draw, jobs, snakemake

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"images": "nowhere"}, "config.yaml: images: 'nowhere' does not exist"),
        ({"features": {"grouping": {"backbone": "resnet5"}}}, "'resnet5' is not a timm model (did you mean 'resnet"),
    ],
)
def test_a_plan_names_what_is_missing(keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    done = snakemake(tmp_path, {"recipes": ["lost"]} | keys, "-n")
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def test_too_many_clusters_stop_the_run_when_the_images_are_counted(tmp_path: Path) -> None:
    for i in range(3):
        draw(tmp_path / f"photos/{i}.png", i)
    config = {"images": str(tmp_path / "photos"), "recipes": ["lost"], "cluster": {"clusters": 4}}
    done = snakemake(tmp_path / "work", config)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "recipe lost: cluster.clusters: 4 clusters, but 3 images have at most 3 regions (cut: lost)" in said
    assert jobs(done)["inputs"] == 1
    assert sorted(path.name for path in (tmp_path / "work/results").iterdir()) == ["inputs"]
    assert not (tmp_path / "work/resources").exists()
