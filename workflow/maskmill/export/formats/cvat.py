"""CVAT 1.1 for images: XML with a run-length code for each mask, so holes are kept; and the labels of the task.

`rle` counts pixels along the rows of the box `left`, `top`, `width`, `height`, first those that are not set, as in
CVAT's own files. Images are found by their name in the task.
"""

from __future__ import annotations

import re
from xml.sax.saxutils import escape, quoteattr

from maskmill.export._layout import file_name
from maskmill.export._picture import Picture, Segment
from maskmill.export._runs import row_runs
from maskmill.export.formats._base import Entry, Format
from maskmill.store.manifest import Row

_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # an XML file cannot have them


class Cvat(Format):
    """Folder `cvat`."""

    def begin(self) -> None:
        naming, values = self.naming, range(1, self.naming.count + 1)
        labels = [
            {"name": naming.names[value], "color": naming.hexadecimal(value), "type": "mask", "attributes": []}
            for value in values
        ]
        self.write_json("labels.json", labels)
        self._file = self.opened("annotations.xml")
        self._count = 0
        last = max(0, self.facts.images - 1)
        self._file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta>\n<task>\n'
            f"<id></id>\n<name>{escape(self.facts.title)}</name>\n<size>{self.facts.images}</size>\n"
            "<mode>annotation</mode>\n<overlap>0</overlap>\n<start_frame>0</start_frame>\n"
            f"<stop_frame>{last}</stop_frame>\n<frame_filter></frame_filter>\n<z_order>True</z_order>\n<labels>\n"
        )
        for value in values:
            self._file.write(
                f"<label><name>{escape(naming.names[value])}</name><color>{naming.hexadecimal(value)}</color>"
                "<type>mask</type><attributes></attributes></label>\n"
            )
        self._file.write("</labels>\n</task>\n</meta>\n")

    def entry(self, picture: Picture) -> Entry:
        height, width = picture.size
        shown = quoteattr(_NOT_XML.sub("\ufffd", file_name(picture.row)))
        head = f'name={shown} width="{width}" height="{height}">\n'
        return Entry(head + "".join(map(self._mask, range(len(picture.segments)), picture.segments)) + "</image>\n")

    def add(self, row: Row, entry: Entry) -> None:
        self._file.write(f'<image id="{self._count}" {entry.text}')
        self._count += 1
        self.photo(row, f"images/{file_name(row)}", entry.photo)

    def _mask(self, order: int, segment: Segment) -> str:
        height, width = segment.mask.shape
        layer = order if segment.score is not None else 0  # instances may lie over each other
        return (
            f'<mask label={quoteattr(self.naming.names[segment.value])} source="auto" occluded="0"'
            f' rle="{", ".join(map(str, row_runs(segment.mask).tolist()))}" left="{segment.left}" top="{segment.top}"'
            f' width="{width}" height="{height}" z_order="{layer}"></mask>\n'
        )

    def end(self) -> None:
        self._file.write("</annotations>\n")
