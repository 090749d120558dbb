"""Formats of `export.formats`: a writer each, fed image by image.

A writer is made with its own folder and the facts of the export, opened as a context, given every image in the order of
the ids, and closed; closing writes what is known at the end. Its memory does not grow with the number of images.

What it makes of an image (`entry`) is apart from where that goes (`add`): of many images, a job a shard makes the
entries, and one job gives all of them their numbers and names.
"""

from __future__ import annotations

from maskmill.export.formats._base import Entry, Facts, Format
from maskmill.export.formats.coco_panoptic import CocoPanoptic
from maskmill.export.formats.cvat import Cvat
from maskmill.export.formats.label_studio import LabelStudio
from maskmill.export.formats.mmseg import Mmseg
from maskmill.export.formats.voc import Voc
from maskmill.export.formats.yolo import Yolo

FORMATS: dict[str, type[Format]] = {
    "coco_panoptic": CocoPanoptic, "voc": Voc, "yolo": Yolo, "mmseg": Mmseg, "cvat": Cvat, "label_studio": LabelStudio,
}  # fmt: skip

__all__ = ["FORMATS", "Entry", "Facts", "Format"]
