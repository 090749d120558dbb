"""Photos and labels that are not the files that the manifest describes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.errors import InputError
from maskmill.evaluate.labelled import read_label
from maskmill.images.photos import ManifestPhotos, read_photo
from maskmill.inputs.run import Outputs, run
from maskmill.store.manifest import Manifest, read_manifest

SIZE = (40, 60)


def save(path: Path, seed: int, levels: int = 256) -> None:
    """Noise: as an uncompressed image every one has the same number of bytes."""
    path.parent.mkdir(exist_ok=True)
    shape = SIZE if levels < 256 else (*SIZE, 3)
    pixels = np.random.default_rng(seed).integers(levels, size=shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=0)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Two photos with labels, as the stage `inputs` sees them."""
    for i, name in enumerate("ab"):
        save(tmp_path / f"images/{name}.png", i)
        save(tmp_path / f"labels/{name}.png", i, levels=5)
    out = Outputs(*(tmp_path / "inputs" / name for name in ("manifest.parquet", "rejected.csv", "classes.json")))
    run(str(tmp_path / "images"), str(tmp_path / "labels"), {}, out, 1, tmp_path / "frames")
    return read_manifest(out.manifest)


def replaced(path: Path, seed: int, levels: int = 256) -> None:
    """Another content of the same size and time."""
    before = path.stat()
    save(path, seed, levels)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_manifest_knows_what_is_in_its_files(manifest: Manifest) -> None:
    for row in manifest.rows:
        assert row.bytes == Path(row.path).stat().st_size
        assert row.crc32c is not None
        assert row.label_digest is not None
        assert read_photo(row).shape == (*SIZE, 3)
        assert read_label(row).shape == SIZE


def test_a_photo_that_was_replaced_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    replaced(tmp_path / "images/a.png", 7)
    told = r"images/a\.png: another content than in the manifest; it changed since the inputs were checked"
    with pytest.raises(InputError, match=told):
        read_photo(manifest.row("a"))
    with pytest.raises(InputError, match=told):
        ManifestPhotos(manifest.path, "paint").photo("a")
    read_photo(manifest.row("b"))


def test_a_label_that_was_replaced_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    replaced(tmp_path / "labels/b.png", 7, levels=5)
    with pytest.raises(InputError, match=r"labels/b\.png: label: another content than in the manifest"):
        read_label(manifest.row("b"))
    read_label(manifest.row("a"))
