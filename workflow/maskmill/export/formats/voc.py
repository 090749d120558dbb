"""PASCAL VOC: indexed PNGs in `SegmentationClass`, lists of images, and `labelmap.txt`.

255 is void, as in VOC. `labelmap.txt` is the file of that name of CVAT and Datumaro: name:r,g,b:parts:actions. It lists
the colour of void too, because their readers look up colours, not indices, and refuse a colour that they do not find.
Its lines cannot hold every name (a colon ends it, # begins a comment), so `dataset_meta.json`, which Datumaro prefers,
has the names as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from maskmill.export._layout import suffix_of
from maskmill.export._picture import Picture
from maskmill.export.formats._base import Entry, Format
from maskmill.images.palette import IGNORE
from maskmill.store.manifest import Row

VOID = "ignored"  # Datumaro's name of VOC's 255


class Voc(Format):
    """Folder `voc`."""

    def begin(self) -> None:
        names = [*self.naming.names]
        names.append(_free(VOID, names))
        colours = [*self.naming.colours.tolist(), list(IGNORE)]
        lines = (f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(plain_names(names), colours, strict=True))
        self.write("labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *lines, ""]))
        labels = {str(i): name for i, name in enumerate(names)}
        self.write_json("dataset_meta.json", {"label_map": labels, "segmentation_colors": colours, "labels": names})
        self._list = self.opened("ImageSets/Segmentation/train.txt")

    def entry(self, picture: Picture) -> Entry:
        return Entry(body=picture.png)

    def add(self, row: Row, entry: Entry) -> None:
        name = self.put(row, "SegmentationClass", ".png", entry.body)
        self._list.write(f"{name}\n")
        self.photo(row, f"JPEGImages/{name}{suffix_of(row)}", entry.photo)

    def end(self) -> None:
        """Nothing comes after the images."""


def plain_names(names: Sequence[str]) -> list[str]:
    """Names that a line of labelmap.txt can hold, each another."""
    plain: list[str] = []
    for name in names:
        plain.append(_free(("_" if name.startswith("#") else "") + name.replace(":", "_"), plain))
    return plain


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name
