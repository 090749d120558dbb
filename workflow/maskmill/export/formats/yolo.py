"""YOLO segmentation, as Ultralytics reads it: one text file an image, one line a polygon, and data.yaml.

Each line is one connected part of a class, or of an instance: the class's number from 0, then x y of every corner as
shares of the width and the height. Holes are joined with the border (maskmill.export._polygons), so a line gives its
part back pixel for pixel. Background and ignore have no line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import yaml

from maskmill.export._layout import stem, suffix_of
from maskmill.export._picture import Picture
from maskmill.export.formats._base import Entry, Format
from maskmill.images.masks import ignore_value
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import Row

_HEAD = """# {title}
# Photos belong into images/ (export.photos: link). Ultralytics wants a set for val; there are no labels made by hand
# here, so it names the same images: its scores say how well the pseudo-masks were learnt, nothing else.
train: images
val: images
"""


class Yolo(Format):
    """Folder `yolo`."""

    def begin(self) -> None:
        names = dict(enumerate(self.naming.names[1:]))
        listed = yaml.safe_dump({"names": names}, allow_unicode=True, sort_keys=False, width=10**6)
        self.write("data.yaml", _HEAD.format(title=" ".join(self.facts.title.split())) + listed)
        (self.folder / "images").mkdir()
        (self.folder / "labels").mkdir()

    def entry(self, picture: Picture) -> Entry:
        return Entry(body=_lines(picture).encode("ascii"))

    def add(self, row: Row, entry: Entry) -> None:
        # Ultralytics finds a label by putting "labels" in place of the last folder "images" of the photo's path.
        name = f"~{json_hash(row.id)}" if "images" in PurePosixPath(row.id).parts[:-1] else stem(row)
        name = self.put(row, "labels", ".txt", entry.body, name)
        self.photo(row, f"images/{name}{suffix_of(row)}", entry.photo)

    def end(self) -> None:
        """Nothing comes after the images."""


def _parts(picture: Picture) -> Iterator[tuple[int, np.ndarray]]:
    """(value, corners [n, 2] in pixels) of every part of the mask, or of every instance."""
    from maskmill.export._polygons import polygons  # numba takes half a second

    if picture.found is None:
        yield from polygons(picture.mask, (0, ignore_value(picture.mask.dtype)))
        return
    for segment in picture.segments:
        for _, points in polygons(segment.mask.astype(np.uint8), (0, 255)):
            yield segment.value, points + np.array([segment.left, segment.top])


def _lines(picture: Picture) -> str:
    """The text of an image's file. Each of the few different coordinates is written as a number once."""
    parts = list(_parts(picture))
    if not parts:
        return ""
    points = np.concatenate([corners for _, corners in parts])
    words = np.empty(points.shape, object)
    for axis, side in enumerate(picture.size[::-1]):
        places, which = np.unique(points[:, axis], return_inverse=True)
        words[:, axis] = np.array([f"{place / side:.7f}" for place in places.tolist()], object)[which]
    text, start = [], 0
    for value, corners in parts:
        end = start + len(corners)
        text.append(f"{value - 1} {' '.join(words[start:end].ravel().tolist())}\n")
        start = end
    return "".join(text)
