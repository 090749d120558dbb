"""Small stand-ins for large images: tiled GeoTIFFs, with a pyramid where it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_tiff(path: Path, values: np.ndarray, overviews: Sequence[int] = (), **kind: Any) -> None:
    """A GeoTIFF [H, W] or [H, W, channels] in tiles of 32 pixels, ten metres a pixel; `kind`: see rasterio."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    values = values if values.ndim == 3 else values[..., None]
    height, width, count = values.shape
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": count, "dtype": values.dtype.name,
        "tiled": True, "blockxsize": 32, "blockysize": 32, "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6),
    }  # fmt: skip
    if count == 3:
        profile |= {"photometric": "RGB"}
    with rasterio.open(path, "w", **(profile | kind)) as out:
        out.write(np.moveaxis(values, 2, 0))
    if overviews:
        with rasterio.open(path, "r+") as out:
            out.build_overviews(list(overviews), rasterio.enums.Resampling.average)
