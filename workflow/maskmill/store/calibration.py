"""How often a class is right where its rule gives it some probability: what the stage taxonomy has measured on labels.

Only labels can say this, so classes that no labels made have no calibration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from maskmill.errors import StoreError

Kind = Literal["isotonic", "platt", "identity", "none"]
_FITS = {"isotonic": "isotonic regression", "platt": "a logistic curve"}


@dataclass(frozen=True)
class Calibration:
    """A curve from the probability of a vector's best class to how often this class is right.

    Attributes:
        kind: of the curve; identity: the probability as it is, since no curve came closer to images that it had not
            seen; none: there were too few labels for one, for the reason `why`.
        curve: [n, 2] float64, probabilities that ascend, and the confidence at each; straight lines lie between them.
        regions, images: labelled regions (or tokens) that the curve rests on, and the images that they lie in.
        before, after: expected calibration error of the probabilities, and of the confidence by curves that were fitted
            without the images that they are compared on; NaN where unknown.
        seen: {image id: mean confidence of what it shows} of the sampled images that are no examples.
    """

    kind: Kind
    curve: np.ndarray
    regions: int
    images: int
    before: float = float("nan")
    after: float = float("nan")
    why: str = ""
    seen: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def none(cls, why: str, regions: int, images: int) -> Calibration:
        """Too few labels for a curve."""
        return cls("none", np.zeros((0, 2)), regions, images, why=why)

    @classmethod
    def identity(cls, regions: int, images: int, before: float) -> Calibration:
        """The probability as it is, whose expected calibration error is `before`."""
        return cls("identity", np.array([[0.0, 0.0], [1.0, 1.0]]), regions, images, before, before)

    def __bool__(self) -> bool:
        """False where there is no curve."""
        return self.kind != "none"

    def confidence(self, probability: np.ndarray) -> np.ndarray:
        """Chance of being right, float32 [...], where the best class has a probability [...]; NaN without a curve."""
        if not self:
            return np.full(np.shape(probability), np.nan, np.float32)
        return np.interp(probability, self.curve[:, 0], self.curve[:, 1]).astype(np.float32)

    @property
    def sentence(self) -> str:
        """What a person should know of it."""
        if not self:
            return f"uncalibrated: {self.why}"
        if self.kind == "identity":
            return (
                f"checked on {self.regions} regions or tokens of {self.images} labelled images, each judged by classes "
                f"that it did not name: expected calibration error {self.before:.3f}, which no curve made smaller; the "
                "probability is kept as it is"
            )
        return (
            f"calibrated on {self.regions} regions or tokens of {self.images} labelled images, each judged by classes "
            f"that it did not name ({_FITS[self.kind]}); expected calibration error {self.before:.3f} before, "
            f"{self.after:.3f} after"
        )

    def facts(self) -> dict[str, Any]:
        """As JSON values, without the images; for `classes.json` and exports."""
        body: dict[str, Any] = {"kind": self.kind, "regions": self.regions, "images": self.images}
        if self:
            body |= {"error_before": round(self.before, 4), "error_after": round(self.after, 4)}
        return body | {"sentence": self.sentence}

    def stored(self) -> dict[str, Any]:
        """JSON values from which `restored` makes it again."""
        numbers = None if np.isnan(self.before) else [self.before, self.after]
        body = {"kind": self.kind, "curve": self.curve.tolist(), "regions": self.regions, "images": self.images}
        return body | {"errors": numbers, "why": self.why, "seen": dict(self.seen)}

    @classmethod
    def restored(cls, body: Mapping[str, Any]) -> Calibration:
        """From what `stored` gave.

        Raises:
            StoreError: it is none.
        """
        try:
            before, after = body["errors"] or (float("nan"), float("nan"))
            curve = np.array(body["curve"], np.float64).reshape(-1, 2)
            counts = int(body["regions"]), int(body["images"])
            seen = {str(image): float(value) for image, value in body["seen"].items()}
            return cls(body["kind"], curve, *counts, float(before), float(after), str(body["why"]), seen)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"no calibration of this version ({error!r}); run snakemake again") from None
