"""COCO panoptic: one JSON file, and a PNG an image whose colours are the ids of its segments.

The layout is that of the COCO panoptic challenge: `annotations/panoptic_train.json`, the PNGs in a folder of the same
name, id = R + 256 G + 65536 B, and 0 where nothing is known. Every pixel that is not ignore belongs to one segment, its
category is the mask's value. Category 0 means "none" to readers of COCO, so the background has number k + 1.

Where instances are known, a pixel of the mask belongs to the highest-scoring instance of its class that covers it; what
no instance covers is one more segment of the class. Classes are things then, but for those that the masks call stuff.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from maskmill.export._coco import CocoWriter, compact, image_text
from maskmill.export._layout import file_name
from maskmill.export._picture import Picture, found_boxes
from maskmill.export.formats._base import Entry, Format
from maskmill.images.instances import Instances, ranked
from maskmill.images.masks import ignore_value
from maskmill.store.manifest import Row

JSON = "annotations/panoptic_train.json"
PNGS = "annotations/panoptic_train"
PHOTOS = "images/train"


class CocoPanoptic(Format):
    """Folder `coco_panoptic`."""

    def begin(self) -> None:
        naming = self.naming
        kinds = [
            {
                "id": value or naming.count + 1,
                "name": naming.names[value],
                "supercategory": naming.kind if value else "background",
                "isthing": int(value > 0 and self.facts.is_thing(value)),
                "color": naming.colours[value].tolist(),
            }
            for value in [*range(1, naming.count + 1), 0]
        ]
        path = self.folder / JSON
        path.parent.mkdir()
        self._coco = self._stack.enter_context(CocoWriter(path, {"description": self.facts.title}, kinds))

    def entry(self, picture: Picture) -> Entry:
        ids, kinds = self._ids(picture)
        body = io.BytesIO()
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(body, format="PNG")
        there, boxes = found_boxes(ids)
        areas = np.bincount(ids.ravel())[there]
        segments = [
            {
                "id": number,
                "category_id": kinds.get(number, number),
                "area": area,
                "bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start],
                "iscrowd": 0,
            }
            for number, area, (y, x) in zip(there.tolist(), areas.tolist(), boxes, strict=True)
            if number
        ]
        image = image_text(file_name(picture.row), *picture.size, maskmill_id=picture.row.id)
        return Entry(f"{image}\n{compact({'segments_info': segments})}", body.getvalue())

    def add(self, row: Row, entry: Entry) -> None:
        name = self.put(row, PNGS, ".png", entry.body)
        image, segments = entry.text.split("\n")
        self._coco.panoptic(image, f"{name}.png", segments)
        self.photo(row, f"{PHOTOS}/{file_name(row)}", entry.photo)

    def end(self) -> None:
        """The JSON file closes itself."""

    def _ids(self, picture: Picture) -> tuple[np.ndarray, dict[int, int]]:
        """Ids of segments int32 [H, W], and the categories of those whose id is not their category."""
        mask, nothing = picture.mask, self.naming.count + 1
        ids = mask.astype(np.int32)
        ids[mask == 0] = nothing
        ids[mask == ignore_value(mask.dtype)] = 0
        kinds: dict[int, int] = {}
        if picture.found is not None:
            _split(ids, picture.found, nothing, kinds)
        return ids, kinds


def _split(ids: np.ndarray, found: Instances, nothing: int, kinds: dict[int, int]) -> None:
    """Give pixels of a class to its instances, the best last; ids of instances begin above `nothing`."""
    whole = ids.copy()
    for i in ranked(found.scores)[::-1]:
        number = nothing + 1 + int(i)
        kinds[number] = int(found.labels[i])
        ids[found.masks[i] & (whole == found.labels[i]) & (whole > 0)] = number
