"""OME-Zarr labels (OME-NGFF 0.4, Zarr v2): a multiscale label image with colours and class names.

`<id>.zarr/labels/maskmill` is laid out as the labels of an image are: its folder `labels` can be put into the OME-Zarr
of the image, and opens in napari by itself. Levels are halves of each other by the most frequent value.

Scales are microns where the file says how large its pixels are, metres where it lies on a map in metres without being
turned, else pixels of the full resolution. The translation of a level is what its pixels' centres are moved by halving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from maskmill.export.formats._whole import IGNORED, WholeFormat, WholeMask
from maskmill.images.masks import ignore_value
from maskmill.images.palette import IGNORE
from maskmill.images.place import Place
from maskmill.images.stitching import bands

NAME = "maskmill"  # of the labels
VERSION = "0.4"
TILE = 1024


class OmeZarr(WholeFormat):
    """`<id>.zarr`."""

    suffix: ClassVar[str] = ".zarr"

    def write(self, mask: WholeMask, path: Path) -> None:
        import zarr

        root = zarr.open_group(str(path), mode="w", zarr_format=2)
        labels = root.create_group("labels")
        labels.attrs["labels"] = [NAME]
        group = labels.create_group(NAME)
        levels = mask.levels.all
        for number, level in enumerate(levels):
            _store(group, str(number), level)
        group.attrs.update(
            {
                "multiscales": [_multiscales(mask, len(levels))],
                "image-label": self._label(ignore_value(levels[0].dtype)),
            }
        )

    def _label(self, ignore: int) -> dict[str, Any]:
        """Colours and names of the values; the background and ignore are transparent."""
        named = {**self.names(), ignore: IGNORED}
        colours = {value: [*map(int, rgb), 255] for value, rgb in enumerate(self.facts.naming.colours)}
        colours[0][3] = 0
        colours[ignore] = [*IGNORE, 0]
        return {
            "version": VERSION,
            "colors": [{"label-value": value, "rgba": rgba} for value, rgba in sorted(colours.items())],
            "properties": [{"label-value": value, "class": name} for value, name in sorted(named.items())],
            "source": {"image": "../../"},
        }


def _store(group: Any, name: str, level: Any) -> None:
    """One array, its blocks in folders of rows."""
    chunks = tuple(min(TILE, side) for side in level.shape)
    array = group.create_array(
        name, shape=level.shape, chunks=chunks, dtype=level.dtype, fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )  # fmt: skip
    for top, band in bands(level, TILE):
        array[top : top + len(band)] = band


def _multiscales(mask: WholeMask, levels: int) -> dict[str, Any]:
    base, unit = _pixel(mask.place)
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name in "yx"]
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [side * 2**level for side in base]},
                {"type": "translation", "translation": [side * (2**level - 1) / 2 for side in base]},
            ],
        }
        for level in range(levels)
    ]
    how = {"description": "the most frequent of each 2 x 2 values", "method": "mode"}
    return {"version": VERSION, "name": mask.id, "axes": axes, "datasets": datasets, "type": "mode", "metadata": how}


def _pixel(place: Place) -> tuple[tuple[float, float], str | None]:
    """Height and width of a pixel, and their unit."""
    if place.microns is not None:
        return place.microns, "micrometer"
    if place.on_earth and place.transform is not None:
        from rasterio.crs import CRS

        a, b, _, d, e, _ = place.transform
        crs = CRS.from_wkt(place.crs or "")
        if b == d == 0 and crs.is_projected and np.isclose(crs.linear_units_factor[1], 1):
            return (abs(e), abs(a)), "meter"
    return place.scale, None
