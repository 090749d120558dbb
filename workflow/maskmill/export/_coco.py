"""COCO JSON, written image by image with bounded memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO


class CocoWriter:
    """Write one COCO file: `image` and `annotation` stream to the disk, closing puts the parts together.

    Image and annotation ids count from 1 in the order they are added.
    """

    def __init__(self, path: Path, info: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]) -> None:
        self.path, self.info, self.categories = path, dict(info), list(categories)
        self.images = self.annotations = 0
        self._parts = [path.with_name(f"{path.name}.{part}") for part in ("images", "annotations")]

    def __enter__(self) -> CocoWriter:
        self._files: list[TextIO] = [part.open("w") for part in self._parts]
        return self

    def image(self, file_name: str, height: int, width: int, **more: Any) -> int:
        """Add an image, its id is returned."""
        self.images += 1
        body = {"id": self.images, "file_name": file_name, "height": height, "width": width} | more
        self._put(0, body, self.images)
        return self.images

    def annotation(self, image: int, category: int, rle: Mapping[str, Any], **more: Any) -> None:
        """Add a segment of an image: compressed RLE with its area and box."""
        from pycocotools import mask as codec

        self.annotations += 1
        coded = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        body = {
            "id": self.annotations,
            "image_id": image,
            "category_id": category,
            "segmentation": coded,
            "area": int(codec.area(rle)),
            "bbox": [float(side) for side in codec.toBbox(rle)],
            "iscrowd": 0,
        }
        self._put(1, body | more, self.annotations)

    def panoptic(self, image: int, png: str, segments: Sequence[Mapping[str, Any]]) -> None:
        """Add the segments of an image whose PNG has their ids."""
        self.annotations += 1
        self._put(1, {"image_id": image, "file_name": png, "segments_info": segments}, self.annotations)

    def _put(self, part: int, body: Mapping[str, Any], count: int) -> None:
        self._files[part].write((",\n" if count > 1 else "\n") + json.dumps(body, separators=(",", ":")))

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
