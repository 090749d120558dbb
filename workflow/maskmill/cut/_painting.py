"""MaskCut between two eigenproblems: the mask that a vector gives, whether it is accepted, and when to stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maskmill.cut._object import Object, object_of
from maskmill.cut._structure import OUTCOMES as SHARED
from maskmill.cut._structure import confidence, diagnostics, no_structure, without_solving

if TYPE_CHECKING:
    from maskmill.cut._engine import Spectrum

OUTCOMES = SHARED | {"weak cut": 5}
ENDINGS = {"enough": 0, "overlap": 1, "small": 2, "weak cut": 3, "no structure": 4}


class Rules(Protocol):
    """The parameters of `maskmill.cut.maskcut` that are read here."""

    @property
    def masks(self) -> int: ...
    @property
    def overlap(self) -> float: ...
    @property
    def min_area(self) -> float: ...
    @property
    def max_lambda(self) -> float: ...
    @property
    def split(self) -> bool: ...
    @property
    def compat(self) -> str | None: ...


class Painter:
    """The state of one image.

    Attributes:
        keep: bool [h, w], False where painted. segments: uint8 [h, w], the accepted masks less earlier ones.
        scores: one a segment, the confidence of the cut that made it.
    """

    def __init__(self, h: int, w: int, rules: Rules) -> None:
        self.rules = rules
        self.keep = np.ones((h, w), bool)
        self.segments = np.zeros((h, w), np.uint8)
        self.scores: list[float] = []
        self.ending: str | None = None
        self._cuts = 0  # iterations used
        self._previous = np.zeros((h, w), bool)  # compat: the mask of the iteration before, empty where rejected
        self._first: dict[str, float] | None = None  # diagnostics of the first cut

    def goes_on(self, density: float) -> bool:
        """Whether the next graph, of this share of joined pairs, is worth solving."""
        if self.ending is None and (self.rules.compat is None or self._cuts == 0):
            outcome = without_solving(int(self.keep.sum()), density)
            if outcome is not None:
                self._end("no structure", outcome, density)
        return self.ending is None

    def take(self, spectrum: Spectrum, density: float) -> None:
        """The mask of a solved graph: accept and paint it, or end."""
        if spectrum.multiple:
            return self._end("no structure", "no unique cut", density)
        lambda_2, lambda_3 = (float(value) for value in spectrum.values[:2])
        # the cut between the painted tokens and the rest costs about this, whatever the rest looks like
        worst = self.rules.max_lambda * float(self.keep.mean())
        if self.rules.compat is None and lambda_2 > worst:
            return self._end("weak cut", "weak cut", density)
        y = spectrum.vectors[0].double().cpu().numpy().reshape(self.keep.shape)
        found = object_of(y, corners=True)
        if self._first is None:
            self._first = diagnostics(spectrum, density, found.rivals)
        score = confidence(lambda_2, lambda_3, density)
        if self.rules.compat:
            self._published(found.mask, score)
        else:
            self._accept(found, score)
        if self.ending is None and self._cuts >= self.rules.masks:
            self.ending = "enough"

    def _accept(self, found: Object, score: float) -> None:
        """The default rules: a mask must be new and not small; the first that is rejected ends the image."""
        rules, masks = self.rules, [found.mask]
        if rules.split:
            masks += found.others()
        for i, mask in enumerate(masks):
            union = self.segments > 0
            new = mask & ~union
            overlaps = (mask & union).sum() > rules.overlap * (mask | union).sum()
            small = new.sum() <= rules.min_area * mask.size
            if self._cuts and (overlaps or small):
                if i == 0:
                    self.ending = "overlap" if overlaps else "small"
                    return
                continue
            if self._cuts < rules.masks:
                self._paint(mask, new, score)
                self._cuts += 1

    def _published(self, mask: np.ndarray, score: float) -> None:
        """The published rules: a mask is compared with the iteration before it only, and a rejected one is repeated.

        Where a mask is rejected nothing is painted, so that the next graph and its mask are the same: they are not
        computed again.
        """
        area = mask.sum()
        while self._cuts < self.rules.masks:
            self._cuts += 1
            overlap = (mask & self._previous).sum() > 0.5 * (mask | self._previous).sum()
            if self._cuts == 1 or not (overlap or area <= 0.01 * mask.size):
                self._paint(mask, mask & (self.segments == 0), score)
                self._previous = mask
                return
            self._previous = np.zeros_like(mask)

    def _paint(self, mask: np.ndarray, new: np.ndarray, score: float) -> None:
        self.keep &= ~mask
        if new.any():
            self.scores.append(score)
            self.segments[new] = len(self.scores)

    def _end(self, ending: str, outcome: str, density: float) -> None:
        self.ending = ending
        if self._first is None:
            self._first = no_structure(OUTCOMES[outcome], density)

    def result(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Segments and diagnostics."""
        assert self._first is not None
        assert self.ending is not None
        scores = np.zeros(self.rules.masks, np.float32)
        scores[: len(self.scores)] = self.scores
        ended = {"masks": float(len(self.scores)), "ending": float(ENDINGS[self.ending])}
        return self.segments, self._first | ended | {"scores": scores}
