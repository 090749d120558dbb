"""No classes: every cluster is painted as itself, without a name."""

from __future__ import annotations

from typing import Any

from maskmill.recipe.base import Model
from maskmill.taxonomy import Traits

TRAITS = Traits(names=False)


class Params(Model):
    """No parameters."""


def grouping(params: Params, recipe: str) -> dict[str, Any]:
    """Nothing."""
    return {}


def naming(params: Params, recipe: str) -> dict[str, Any]:
    """Nothing."""
    return {}
