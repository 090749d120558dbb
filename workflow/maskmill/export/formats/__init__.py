"""Formats of `export.formats`: a writer each.

Those of `FORMATS` are fed image by image.

A writer is made with its own folder and the facts of the export, opened as a context, given every image in the order of
the ids, and closed; closing writes what is known at the end. Its memory does not grow with the number of images.

What it makes of an image (`entry`) is apart from where that goes (`add`): of many images, a job a shard makes the
entries, and one job gives all of them their numbers and names.
Those of `WHOLE` write the mask of a whole image, put together where it was cut into windows, as a file that keeps where
the image lies and how large its pixels are (`_whole.py`). Their memory does not grow with the image.
"""

from __future__ import annotations

from maskmill.export.formats._base import Entry, Facts, Format
from maskmill.export.formats._whole import WholeFacts, WholeFormat, WholeMask
from maskmill.export.formats.coco_panoptic import CocoPanoptic
from maskmill.export.formats.cvat import Cvat
from maskmill.export.formats.geojson import GeoJson
from maskmill.export.formats.geotiff import GeoTiff
from maskmill.export.formats.label_studio import LabelStudio
from maskmill.export.formats.mmseg import Mmseg
from maskmill.export.formats.ome_zarr import OmeZarr
from maskmill.export.formats.pyramid_tiff import PyramidTiff
from maskmill.export.formats.voc import Voc
from maskmill.export.formats.yolo import Yolo

FORMATS: dict[str, type[Format]] = {
    "coco_panoptic": CocoPanoptic, "voc": Voc, "yolo": Yolo, "mmseg": Mmseg, "cvat": Cvat, "label_studio": LabelStudio,
}  # fmt: skip

WHOLE: dict[str, type[WholeFormat]] = {
    "geotiff": GeoTiff, "ome_zarr": OmeZarr, "pyramid_tiff": PyramidTiff, "geojson": GeoJson,
}  # fmt: skip

__all__ = ["FORMATS", "WHOLE", "Entry", "Facts", "Format", "WholeFacts", "WholeFormat", "WholeMask"]
