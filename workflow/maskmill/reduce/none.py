"""No reduction: vectors are clustered as they are."""

from __future__ import annotations

from maskmill.recipe.sections import Model


class Params(Model):
    """none has no parameters."""
