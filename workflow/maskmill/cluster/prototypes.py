"""The clusters are the prototypes that a head has learnt (stage adapt): nothing is fitted here but their sizes.

Prototypes are trained beside the head, for as many steps. After few steps they have not converged, and then the same
codes are read out better by k-means. Which of the two a recipe's masks show (`readout`) is decided without labels: see
`maskmill.cluster._candidates`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from maskmill.cluster import Traits
from maskmill.cluster._directions import codebook_of_directions
from maskmill.cluster._number import no_auto
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.recipe.base import Model

if TYPE_CHECKING:
    from maskmill.numerics.points import Source
    from maskmill.store.codebook import Codebook


TRAITS = Traits(reads_head=True)


class Params(Model):
    """Parameters of prototypes."""

    clusters: Annotated[int, no_auto("a head learns as many prototypes as it is told; give a number")] = Field(
        8, ge=2, le=65534, description="number of prototypes k that the head learns"
    )
    readout: Literal["auto", "prototypes", "kmeans"] = Field(
        "auto", description="what the masks show: the prototypes, k-means of the codes, or whichever is closer to them"
    )
    restarts: int = Field(10, ge=1, le=1000, description="seedings of that k-means")


def fit(
    source: Source, params: Params, seed: int, device: str = "auto", head: str | Path | None = None
) -> tuple[Codebook, dict[str, Any]]:
    """The codebook of a head's prototypes, that of the most points first; see `kmeans.fit` for the arguments.

    Args:
        head: head.safetensors with `head.prototypes.weight` [k, c].

    Returns:
        a spherical codebook, largest cluster first; diagnostics: unused (prototypes that take no point).

    Raises:
        ConfigError: there is no head. StoreError: it has no prototypes, or others than the recipe asks for.
        NumericsError: one prototype takes everything.
    """
    from maskmill.numerics.neighbours import unit_rows
    from maskmill.store.artefact import read_tensors

    if head is None:
        raise ConfigError("cluster.method: prototypes needs the head that has them; give --head")
    weight = read_tensors(head)[0].get("head.prototypes.weight")
    if weight is None or len(weight) != params.clusters:
        found = "no prototypes" if weight is None else f"{len(weight)} prototypes"
        raise StoreError(f"{head}: {found}, cluster.clusters asks for {params.clusters}; run snakemake again")
    rows = unit_rows(weight.astype(np.float32))
    book, unused = codebook_of_directions(rows, source)
    if len(book) - unused < 2:
        raise NumericsError("cluster: one prototype takes every token: the head has collapsed; see docs/adapt.md")
    return book, {"unused": unused}
