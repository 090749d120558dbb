"""No reduction: vectors are clustered as they are."""

from __future__ import annotations

from maskmill.recipe.base import Model
from maskmill.reduce import Traits

TRAITS = Traits(fitted=False)


class Params(Model):
    """none has no parameters."""


def dimensions(params: Params, depth: int) -> int:
    """The length of the vectors as they are."""
    return depth


def memory_gb(params: Params) -> float:
    """Nothing is fitted."""
    return 0.0


def row_bytes(d: int, params: Params) -> float:
    """Nothing is fitted."""
    return 0.0
