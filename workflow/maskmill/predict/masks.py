"""The masks of new images, written: PNG and overlay of what is one picture, and formats of whole images."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maskmill.errors import InputError
from maskmill.export.formats import WHOLE, WholeFacts, WholeFormat, WholeMask
from maskmill.export.naming import Naming
from maskmill.images.decode import MAX_PIXELS
from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.images.palette import class_palette, overlay, png_palette
from maskmill.images.photos import three
from maskmill.images.raster import Shown
from maskmill.images.spool import spooled
from maskmill.images.stitching import Canvas, Picture, stitch
from maskmill.predict.pictures import NewFile
from maskmill.predict.segmenter import Segmenter
from maskmill.store.atomic import atomic
from maskmill.store.disk import disk_errors


class Masks:
    """Segments images and writes their masks below a folder.

    Attributes:
        notes: what to know of masks that were written, and of how many.
    """

    def __init__(self, segmenter: Segmenter, out: Path, overlays: bool, formats: Sequence[str]) -> None:
        self.segmenter, self.out, self.overlays, self.formats = segmenter, out, overlays, formats
        self.dtype = mask_dtype(segmenter.clusters)
        classes = segmenter.classes
        self.colours = class_palette(segmenter.clusters, {int(c["id"]): str(c["colour"]) for c in classes})
        naming = Naming.of(classes) if classes else Naming.default(segmenter.clusters)
        self.facts = WholeFacts(naming, "maskmill predict")
        self.notes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def write(self, file: NewFile, canvas: Canvas) -> None:
        """All files of one image or page.

        Raises:
            InputError: it cannot be read, or is too large for a PNG while no other format is asked for; the reason.
        """
        height, width = canvas.size
        as_png = height * width <= MAX_PIXELS
        if not as_png and not self.formats:
            raise InputError(f"{width}x{height} pixels are too many for a PNG; give --format {' or '.join(WHOLE)}")
        if not canvas.windows and not self.formats:
            self._png(canvas.id, self._one(file, canvas))
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with disk_errors(self.out), tempfile.TemporaryDirectory(prefix=".maskmill-", dir=self.out) as name:
            folder = Path(name)
            read = self._windows(file) if canvas.windows else (lambda _: self._one(file, canvas))
            with spooled(stitch(canvas, read, self.dtype), folder / "levels") as levels:
                if as_png:
                    self._png(canvas.id, levels.whole.compute(scheduler="synchronous"))
                for each in self.formats:
                    mask = WholeMask(canvas.id, levels, file.place(canvas))
                    self._whole(each, WHOLE[each](self.facts), mask, folder / each)

    def _one(self, file: NewFile, canvas: Canvas) -> np.ndarray:
        """The mask [H, W] of an image that is one picture; writes its overlay too."""
        shown = file.shown(canvas.pictures[0])
        mask = self._mask(shown, canvas.size)
        if self.overlays and shown is not None:
            picture = Image.fromarray(overlay(three(shown.pixels), mask, colours=self.colours))
            _save(self.out / f"{canvas.id}.overlay.jpg", picture)
        return mask

    def _windows(self, file: NewFile) -> Callable[[Picture], np.ndarray]:
        """Reads the mask of one window; empty ones are ignore, as in a run that left them out."""

        def read(picture: Picture) -> np.ndarray:
            return self._mask(file.shown(picture), (picture.height, picture.width))

        return read

    def _mask(self, shown: Shown | None, size: tuple[int, int]) -> np.ndarray:
        if shown is None:
            return np.full(size, ignore_value(self.dtype), self.dtype)
        return self.segmenter.mask(shown.pixels, shown.valid)

    def _png(self, name: str, mask: np.ndarray) -> None:
        image = Image.fromarray(mask)
        if mask.dtype == np.uint8:
            image.putpalette(png_palette(self.colours))
        _save(self.out / f"{name}.png", image)

    def _whole(self, name: str, writer: WholeFormat, mask: WholeMask, folder: Path) -> None:
        """Write one format into a folder of its own, and move what it wrote to where it belongs."""
        folder.mkdir()
        target = self.out / f"{mask.id}{writer.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        writer.write(mask, folder / target.name)
        for made in sorted(folder.iterdir()):
            final = target.with_name(made.name)
            if final.is_dir() and not final.is_symlink():
                shutil.rmtree(final)
            os.replace(made, final)
        with self._lock:
            self.notes.update({f"{name}: {text}": count for text, count in writer.notes.items()})


def _save(path: Path, image: Image.Image) -> None:
    with atomic(path) as temporary:
        image.save(temporary, format="PNG" if path.suffix == ".png" else "JPEG", quality=90)
