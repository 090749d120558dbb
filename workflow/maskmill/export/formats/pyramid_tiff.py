"""Pyramidal OME-TIFF: tiles of 512 pixels, each level half of the one before, in SubIFDs; the size of a pixel is kept.

OME-XML and the tags of resolution both hold the size. Masks of 8 bits have their colours as a palette. Class names
are a MapAnnotation of the OME-XML: value -> name. BigTIFF where the mask has more than about 4 GB before compression.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from maskmill.export.formats._whole import IGNORED, WholeFormat, WholeMask
from maskmill.images.masks import ignore_value
from maskmill.images.place import Place
from maskmill.images.stitching import bands
from maskmill.store.hashing import json_hash

TILE = 512
NAMESPACE = "maskmill/classes"  # of the annotation with the names
_BIG = 2**32 - 2**25  # bytes that a classic TIFF is sure to hold


class PyramidTiff(WholeFormat):
    """`<id>.ome.tif`."""

    suffix: ClassVar[str] = ".ome.tif"

    def write(self, mask: WholeMask, path: Path) -> None:
        import tifffile

        levels = mask.levels.all
        dtype = levels[0].dtype
        colours: dict[str, Any] = {"photometric": "minisblack"}
        if dtype == np.uint8:
            table = np.frombuffer(self.facts.naming.png_palette(), np.uint8).reshape(256, 3)
            colours = {"photometric": "palette", "colormap": table.T.astype(np.uint16) * 257}
        size = sum(int(np.prod(level.shape)) for level in levels) * dtype.itemsize
        shared = {"dtype": dtype, "tile": (TILE, TILE), "compression": "zlib", "software": "maskmill"} | colours
        with tifffile.TiffWriter(path, bigtiff=size > _BIG, ome=True) as out:
            for number, level in enumerate(levels):
                first: dict[str, Any] = {"subifds": len(levels) - 1, "metadata": self._ome(mask, ignore_value(dtype))}
                more = {"subfiletype": 1, "metadata": None} if number else first
                out.write(_tiles(level), shape=level.shape, **shared, **more, **_resolution(mask.place, number))

    def _ome(self, mask: WholeMask, ignore: int) -> dict[str, Any]:
        """Of the OME-XML; its identifier follows from the content, so that equal masks make equal files."""
        names = {str(value): name for value, name in {**self.names(), ignore: IGNORED}.items()}
        about: dict[str, Any] = {
            "axes": "YX",
            "Name": mask.id,
            "Description": self.facts.title,
            "Channel": {"Name": [self.facts.naming.kind]},
            "MapAnnotation": {"Namespace": NAMESPACE, **names},
        }
        if mask.place.microns is not None:
            down, right = mask.place.microns
            about |= {"PhysicalSizeY": down, "PhysicalSizeYUnit": "µm"}
            about |= {"PhysicalSizeX": right, "PhysicalSizeXUnit": "µm"}
        key = json_hash([mask.id, self.facts.title, names])
        return about | {"UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, key)), "Creator": "maskmill"}


def _tiles(level: Any) -> Iterator[np.ndarray]:
    """Row by row; those at the right and lower border are filled up by the writer."""
    for _, band in bands(level, TILE):
        for left in range(0, band.shape[1], TILE):
            yield np.ascontiguousarray(band[:, left : left + TILE])


def _resolution(place: Place, level: int) -> dict[str, Any]:
    """Pixels of a level in a centimetre, along x and y."""
    if place.microns is None:
        return {}
    down, right = (10_000 / (side * 2**level) for side in place.microns)
    return {"resolution": (right, down), "resolutionunit": "CENTIMETER"}
