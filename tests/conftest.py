"""What several test modules run on: the drawn pictures, and one finished run of the workflow on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from small_run import SMALL, draw, snakemake


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


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of both recipes with labels, never interrupted."""
    work = tmp_path_factory.mktemp("finished")
    config = {"images": str(photos / "images"), "labels": str(photos / "labels"), "evaluate": {"objects": True}}
    done = snakemake(work, SMALL | config)
    assert done.returncode == 0, done.stdout + done.stderr
    return work
