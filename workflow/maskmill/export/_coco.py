"""COCO JSON, written image by image with bounded memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class CocoWriter:
    """Write one COCO file: images and annotations stream to the disk, closing puts the parts together.

    Image and annotation ids count from 1 in the order they are added; what is added is text without them
    (`image_text`, `annotation_text`).
    """

    def __init__(self, path: Path, info: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> None:
        self.path, self.info, self.categories = path, dict(info), list(categories)
        self.images = self.annotations = 0
        self._parts = [path.with_name(f"{path.name}.{part}") for part in ("images", "annotations")]

    def __enter__(self) -> CocoWriter:
        self._files: list[TextIO] = [part.open("w") for part in self._parts]
        return self

    def add(self, text: str) -> None:
        """Add an image and its annotations, a line each."""
        image, *annotations = text.split("\n")
        self._image(image)
        for annotation in annotations:
            self.annotations += 1
            self._put(1, f'{{"id":{self.annotations},"image_id":{self.images},{annotation}', self.annotations)

    def panoptic(self, image: str, png: str, segments: str) -> None:
        """Add an image and the segments of it whose PNG has their ids."""
        self._image(image)
        self.annotations += 1
        body = f'{{"image_id":{self.images},"file_name":{json.dumps(png)},{segments}'
        self._put(1, body, self.annotations)

    def _image(self, text: str) -> None:
        self.images += 1
        self._put(0, f'{{"id":{self.images},{text}', self.images)

    def _put(self, part: int, text: str, count: int) -> None:
        self._files[part].write((",\n" if count > 1 else "\n") + text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        if error is None:
            self._join()
        for part in self._parts:
            part.unlink()

    def _join(self) -> None:
        head = {"info": self.info, "licenses": [], "categories": self.categories}
        with self.path.open("w") as out:
            out.write(json.dumps(head, indent=1)[:-2])
            for name, part in zip(("images", "annotations"), self._parts, strict=True):
                out.write(f',\n "{name}": [')
                with part.open() as source:
                    shutil.copyfileobj(source, out)
                out.write("]")
            out.write("\n}\n")


def compact(body: Mapping[str, Any]) -> str:
    """A JSON object without the brace that opens it, so that an id can be put before it; one line."""
    return json.dumps(body, separators=(",", ":"))[1:]


def image_text(file_name: str, height: int, width: int, **more: Any) -> str:
    """An image without its id."""
    return compact({"file_name": file_name, "height": height, "width": width} | more)


def annotation_text(category: int, rle: Mapping[str, Any], **more: Any) -> str:
    """A segment of an image without ids: compressed RLE with its area and box."""
    from pycocotools import mask as codec

    coded = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
    body = {
        "category_id": category,
        "segmentation": coded,
        "area": int(codec.area(rle)),
        "bbox": [float(side) for side in codec.toBbox(rle)],
        "iscrowd": 0,
    }
    return compact(body | more)
