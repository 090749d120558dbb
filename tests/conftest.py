"""What several test modules run on: the drawn pictures, and one finished run of the workflow on them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from small_run import ODD_NAMES, SMALL, draw, snakemake


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ of twelve pictures, half of them with names that any careless line of code trips over."""
    folder = tmp_path_factory.mktemp("photos 'n labels $(touch hacked) {x}")
    for i in range(12):
        name = f"{ODD_NAMES.get(i, f'set {i % 2}/im{i:02d}')}.png"
        label = draw(folder / "images" / name, i)
        out = folder / "labels" / name
        out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(label).save(out)
    return folder


@pytest.fixture(scope="session")
def finished(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of both recipes with labels, never interrupted."""
    work = tmp_path_factory.mktemp('finished "run" it\'s')
    config = {"images": str(photos / "images"), "labels": str(photos / "labels"), "evaluate": {"objects": True}}
    done = snakemake(work, SMALL | config)
    assert done.returncode == 0, done.stdout + done.stderr
    return work
