"""Small photos on the disk, and their rows as a manifest has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from maskmill.store.manifest import Row


def rows_of(folder: Path, count: int, size: tuple[int, int] = (60, 80), seed: int = 0) -> list[Row]:
    """Coloured blobs on coloured grounds, no two alike; PNG files in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        y, x = np.mgrid[: size[0], : size[1]]
        photo = np.ones((*size, 3)) * draws.uniform(0, 255, 3)
        for _ in range(3):
            cy, cx = draws.uniform(0, size[0]), draws.uniform(0, size[1])
            blob = np.hypot(y - cy, x - cx) < draws.uniform(5, 25)
            photo[blob] = draws.uniform(0, 255, 3)
        photo += draws.normal(0, 8, photo.shape)
        file = folder / f"p{i:03d}.png"
        Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(file)
        rows.append(Row(f"p{i:03d}", str(file), size[1], size[0], "s0000000000", None))
    return rows
