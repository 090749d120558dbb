"""No classes: every cluster is painted as itself, without a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maskmill.recipe.base import Model
from maskmill.taxonomy import Clustered, Traits

if TYPE_CHECKING:
    import numpy as np

    from maskmill.store.classes import Classes

TRAITS = Traits(names=False)


class Params(Model):
    """No parameters."""


def serves(params: Params, recipe: str, recipes: Sequence[str], seeds: int) -> bool:
    """True: there is nothing to say."""
    return True


def check_clusters(params: Params, recipe: str, clusters: int) -> None:
    """Nothing: no cluster is named by its number."""


def place(params: Params, recipe: str) -> str:
    """Nowhere: `grouping` names everything."""
    return ""


def grouping(params: Params, recipe: str) -> dict[str, Any]:
    """Nothing."""
    return {}


def naming(params: Params, recipe: str) -> dict[str, Any]:
    """Nothing."""
    return {}


def fit(grouping: Mapping[str, Any], given: Clustered) -> tuple[Classes, Mapping[str, np.ndarray]]:
    """Never asked for: without names there are no classes."""
    raise AssertionError("taxonomy.source none has no classes")
