"""What the writers of masks of whole images share: those that keep where an image lies, however large it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from maskmill.export.naming import Naming
from maskmill.images.place import Place
from maskmill.images.spool import Levels

IGNORED = "ignore"  # what the largest mask value is called


@dataclass(frozen=True)
class WholeMask:
    """The mask of one image or page, put together where it was cut into windows.

    Attributes:
        id: of the image or page. levels: of its mask, on the disk. place: where it lies.
    """

    id: str
    levels: Levels
    place: Place


@dataclass(frozen=True)
class WholeFacts:
    """What the writers know before the first mask.

    Attributes:
        naming: of the mask values. title: what made the masks, in words. tolerance: of polygons, in pixels.
    """

    naming: Naming
    title: str
    tolerance: float = 0.0


@dataclass
class WholeFormat(ABC):
    """Writes one file, or one folder, a mask.

    Attributes:
        notes: what the user should know of the masks that were written so far: text -> how many.
    """

    suffix: ClassVar[str]
    facts: WholeFacts
    notes: dict[str, int] = field(default_factory=dict)

    @abstractmethod
    def write(self, mask: WholeMask, path: Path) -> None:
        """Write the mask to a path that does not exist; its folder does."""

    def note(self, text: str) -> None:
        """Count one more mask of which this holds."""
        self.notes[text] = self.notes.get(text, 0) + 1

    def names(self) -> dict[int, str]:
        """Of the mask values 0..k."""
        return dict(enumerate(self.facts.naming.names))
