"""No refinement."""

from __future__ import annotations

import numpy as np

from maskmill.recipe.base import Model
from maskmill.refine import Traits

TRAITS = Traits(reads_photo=False)


class Params(Model):
    """There is nothing to set."""


def one_part(params: Params) -> bool:
    """A segment keeps all its parts."""
    return False


def refine(logits: np.ndarray, image: np.ndarray, params: Params, void: np.ndarray | None = None) -> np.ndarray:
    """The logits [k, H, W] themselves."""
    return logits
