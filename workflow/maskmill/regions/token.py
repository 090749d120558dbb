"""Every token is a region of its own: the plain baselines, without cut and without region table."""

from __future__ import annotations

from maskmill.recipe.base import Model
from maskmill.regions import Traits

TRAITS = Traits(pools=False)


class Params(Model):
    """token has no parameters."""
