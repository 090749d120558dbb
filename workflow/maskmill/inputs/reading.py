"""How a run reads its images, for who reads new ones the same way: range, channels, pages and windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskmill.errors import InputError, StoreError
from maskmill.images.decode import TILES
from maskmill.images.raster import Facts, Raster, Shown, read_raw, render
from maskmill.images.rendering import Rendering
from maskmill.images.view import View
from maskmill.inputs._cut import is_empty, views_of
from maskmill.recipe.base import validate
from maskmill.recipe.inputs import Window

BYTES = 6  # of a pixel, where a file is read as a whole: three channels of 16 bits


def check_whole(facts: Facts, pages: int | str, max_pixels: int, advice: str = TILES) -> None:
    """A picture of a file that is not cut into windows: all its channels are held at once, of `max` and `mean` twice.

    Raises:
        InputError: more than `max_pixels`, or than `BYTES` of so many; the reason without the path, with `advice`.
    """
    height, width = facts.size
    if height * width > max_pixels:
        raise InputError(f"{width}x{height} pixels, {max_pixels / 1e6:.4g} million are allowed; {advice}")
    held = {"max": 2 * facts.dtype.itemsize, "mean": 8 + facts.dtype.itemsize}.get(str(pages), facts.dtype.itemsize)
    size = height * width * facts.channels * (held if facts.pages > 1 else facts.dtype.itemsize)
    if size > BYTES * max_pixels:
        raise InputError(
            f"{width}x{height} pixels of {facts.channels} channels of {facts.dtype} are {size / 1e9:.3g} GB, "
            f"{BYTES * max_pixels / 1e9:.3g} GB ({BYTES} bytes a pixel of {max_pixels / 1e6:.4g} million) are allowed "
            f"at once; {advice}"
        )


@dataclass(frozen=True)
class Reading:
    """What `inputs` decided for the images of a run.

    Attributes:
        rendering: channels, range and pages. window: how large images are cut; None: they are not.
    """

    rendering: Rendering = field(default_factory=Rendering)
    window: Window | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any], where: str) -> Reading:
        """Of what a segmenter keeps (`maskmill.export.segmenter`); `where` is for the message.

        Raises:
            StoreError: it is nothing that maskmill has written.
        """
        if not stored:
            return cls()
        try:
            rendering, window = stored.get("rendering"), stored.get("window")
            return cls(
                Rendering() if rendering is None else Rendering.read(rendering),
                None if window is None else validate(Window, window, where, "inputs.window"),
            )
        except AttributeError:
            raise StoreError(f"{where}: inputs: not what maskmill writes; copy the whole folder again") from None

    @property
    def channels(self) -> int:
        """How many channels a backbone sees that sees all of them."""
        return self.rendering.count or 3

    @property
    def only_photos(self) -> bool:
        """Whether ordinary photos are read as they always were, however large."""
        return self.window is None and self.rendering.whole

    def views(self, facts: Facts) -> list[tuple[str, list[View]]]:
        """(what is added to the file's id, views) of every picture of a file; several views where it is cut.

        Raises:
            InputError: the file has not the channels, pages or levels that are wanted; the reason without the path.
        """
        found = self.rendering.pictures(facts)
        if self.window is None:
            return [(name, [view]) for name, view in found]
        return [(name, views_of(facts, view, self.window)) for name, view in found]

    def is_photo(self, facts: Facts, views: list[tuple[str, list[View]]]) -> bool:
        """Whether a file with these views is read as a photo of eight bits, as the run has read such files."""
        return self.rendering.as_photo(facts) and all(len(each) == 1 and each[0].level == 0 for _, each in views)

    def shown(self, raster: Raster, view: View) -> Shown | None:
        """The picture of a view; None of an empty window, where the run has left such out.

        Raises:
            InputError: the data are damaged; the reason without the path.
        """
        shown = render(read_raw(raster, view), raster.facts, view)
        skips = self.window is not None and self.window.skip_empty and view.window is not None
        return None if skips and is_empty(shown) else shown
