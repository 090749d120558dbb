"""COCO JSON, written image by image with bounded memory, and run-length codes of a whole mask at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np


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


def encode_all(mask: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
    """(value, compressed RLE) of every value of mask [H, W], ascending.

    The runs of all values are found in one pass over the pixels; encoding value by value would take one pass each.
    """
    from pycocotools import mask as codec

    height, width = mask.shape
    flat = mask.ravel(order="F")  # COCO counts down the columns
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    present, first = np.unique(values[order], return_index=True)
    for value, mine in zip(present, np.split(order, first[1:]), strict=True):
        edges = np.stack([starts[mine], ends[mine]], axis=1).ravel()  # runs of others and of this value in turn
        counts = np.diff(edges, prepend=0)
        if edges[-1] < flat.size:
            counts = np.append(counts, flat.size - edges[-1])
        yield int(value), codec.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
