"""Label Studio: tasks with predictions as brushes, in JSON files of bounded size, and the labelling configuration."""

from __future__ import annotations

import json
from typing import Any, TextIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from maskmill.export._layout import file_name
from maskmill.export._picture import Picture, Segment
from maskmill.export._runs import brush
from maskmill.export.formats._base import Entry, Format
from maskmill.store.manifest import Row

BRUSHES, PHOTO = "tag", "image"  # names of the two parts of the configuration
TASKS, LETTERS = 1000, 100_000_000  # at most in a file: Label Studio refuses uploads of more than 250 MB


class LabelStudio(Format):
    """Folder `label_studio`."""

    def begin(self) -> None:
        names, colour = self.naming.names, self.naming.hexadecimal
        labels = "".join(
            f'    <Label value={quoteattr(names[value])} background="{colour(value)}"/>\n'
            for value in range(1, self.naming.count + 1)
        )
        self.write(
            "config.xml",
            f'<View>\n  <Image name="{PHOTO}" value="$image" zoom="true"/>\n'
            f'  <BrushLabels name="{BRUSHES}" toName="{PHOTO}">\n{labels}  </BrushLabels>\n</View>\n',
        )
        self._file: TextIO | None = None
        self._files = self._tasks = self._letters = 0

    def entry(self, picture: Picture) -> Entry:
        results = [self._result(number, picture, segment) for number, segment in enumerate(picture.segments)]
        prediction: dict[str, Any] = {"model_version": self.facts.title, "result": results}
        scores = [segment.score for segment in picture.segments if segment.score is not None]
        if scores:
            prediction["score"] = float(f"{np.mean(scores):.7g}")
        url = self.facts.image_url + quote(file_name(picture.row), safe="/~")
        task = {"data": {"image": url, "maskmill_id": picture.row.id}, "predictions": [prediction]}
        return Entry(json.dumps(task, separators=(",", ":")))

    def add(self, row: Row, entry: Entry) -> None:
        self._put(entry.text)

    def _result(self, number: int, picture: Picture, segment: Segment) -> dict[str, Any]:
        whole = np.zeros(picture.size, bool)
        h, w = segment.mask.shape
        whole[segment.top : segment.top + h, segment.left : segment.left + w] = segment.mask
        body: dict[str, Any] = {
            "id": f"r{number + 1}",
            "type": "brushlabels",
            "from_name": BRUSHES,
            "to_name": PHOTO,
            "original_width": picture.size[1],
            "original_height": picture.size[0],
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": list(brush(whole)),
                "brushlabels": [self.naming.names[segment.value]],
            },
        }
        return body if segment.score is None else body | {"score": float(f"{segment.score:.7g}")}

    def _put(self, task: str) -> None:
        if self._file is not None and (self._tasks >= TASKS or self._letters + len(task) > LETTERS):
            self._finish()
        if self._file is None:
            self._files += 1
            self._file = self.opened(f"tasks-{self._files:04d}.json")
            self._tasks = self._letters = 0
        self._file.write(("[\n" if not self._tasks else ",\n") + task)
        self._tasks += 1
        self._letters += len(task)

    def _finish(self) -> None:
        if self._file is not None:
            self._file.write("\n]\n")
            self._file.close()
            self._file = None

    def end(self) -> None:
        self._finish()
