"""Files for the stage inputs, and the stage run on them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maskmill.errors import InputError
from maskmill.inputs.run import Outputs, run
from maskmill.recipe.inputs import Inputs
from maskmill.store.manifest import Manifest, read_manifest


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(path)
    return path


def label(path: Path, size: tuple[int, int] = (8, 12)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ones(size, np.uint8)).save(path)
    return path


def read(out: Path, images: object, labels: object = None, threads: int = 1, **keys: Any) -> Manifest:
    """Run the stage; the manifest that it wrote."""
    settings_ = Inputs(**keys).model_dump()
    names = Outputs(out / "manifest.parquet", out / "rejected.csv", out / "classes.json")
    sources = [str(image) for image in images] if isinstance(images, list) else str(images)
    run(sources, str(labels) if labels else None, settings_, names, threads, out / "frames")
    return read_manifest(names.manifest)


def fails(out: Path, images: object, match: str, labels: object = None, **keys: Any) -> str:
    with pytest.raises(InputError, match=match) as caught:
        read(out, images, labels, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rejected(out: Path) -> list[dict[str, str]]:
    with (out / "rejected.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def video(path: Path, frames: int = 7, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A lossless film of flat grey frames; its frames uint8 [n, H, W, 3]."""
    import av

    pictures = np.stack([np.full((*size, 3), 30 * i % 256, np.uint8) for i in range(frames)])
    pictures[:, : size[0] // 2, : size[1] // 2] = 255  # a white corner tells how it lies
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1" if path.suffix == ".mkv" else "mpeg4", rate=5)
        stream.width, stream.height = size[1], size[0]
        stream.pix_fmt = "bgr0" if path.suffix == ".mkv" else "yuv420p"
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return pictures
