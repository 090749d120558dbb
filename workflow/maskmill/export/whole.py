"""Masks of whole images, put together from those of their windows, in the formats that keep where an image lies.

One image after the other: its mask is stitched into blocks on the disk once (`maskmill.images.spool`), every format
reads it from there, and the blocks are removed. Memory does not grow with the image.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from maskmill.export._layout import check_inside_folder, free_name, write_renamed
from maskmill.export.formats import WHOLE, WholeFacts, WholeFormat, WholeMask
from maskmill.images.place import place_of
from maskmill.images.spool import spooled
from maskmill.images.stitching import Canvas, Picture, stitch
from maskmill.progress import track

ReadMask = Callable[[Picture], np.ndarray]


class WholeFolders:
    """The folders of such formats; a context manager that says at its end what the user should know.

    Args:
        folder: where each format gets a folder of its name. formats: names of `WHOLE`.
    """

    def __init__(self, folder: Path, formats: Sequence[str], facts: WholeFacts) -> None:
        self.folder = folder
        self._writers: dict[str, WholeFormat] = {name: WHOLE[name](facts) for name in formats}
        self._renamed: dict[str, list[tuple[str, str]]] = {name: [] for name in formats}

    def add(self, canvas: Canvas, read_mask: ReadMask, dtype: np.dtype) -> None:
        """Write the mask of one image or page in every format.

        Raises:
            StoreError: windows do not fit each other, or an id points outside. InputError: the file is not there.
        """
        check_inside_folder(canvas.id)
        place = place_of(canvas)
        with spooled(stitch(canvas, read_mask, dtype), self.folder / ".levels") as levels:
            for name, writer in self._writers.items():
                path, shown = free_name(self.folder / name, canvas.id, writer.suffix)
                writer.write(WholeMask(canvas.id, levels, place), path)
                if shown != canvas.id:
                    self._renamed[name].append((canvas.id, path.name))

    def finish(self) -> None:
        """Write `renamed.csv` where it is needed, and print what the writers have noted."""
        for name, writer in self._writers.items():
            if self._renamed[name]:
                write_renamed(self.folder / name / "renamed.csv", self._renamed[name], "name")
            for text, count in writer.notes.items():
                print(f"{name}: {count} {'mask' if count == 1 else 'masks'}: {text}", file=sys.stderr)


def write_whole(folders: WholeFolders, canvases: Iterable[Canvas], read_mask: ReadMask, dtype: np.dtype) -> None:
    """All canvases, one after the other."""
    listed = list(canvases)
    for canvas in track(listed, len(listed), "export: whole masks"):
        folders.add(canvas, read_mask, dtype)
    folders.finish()


def advise(canvases: Iterable[Canvas], formats: Sequence[str]) -> str | None:
    """What the log says where images were cut into windows and no format puts their masks together."""
    cut = sum(canvas.windows for canvas in canvases)
    if not cut or any(name in WHOLE for name in formats):
        return None
    many = "1 image was" if cut == 1 else f"{cut} images were"
    return (
        f"export: {many} cut into windows, and there is a mask for every window; "
        f"export.formats: any of {', '.join(WHOLE)} puts them together, with the place of the image"
    )
