"""Stage `taxonomy`: clusters -> classes that have names. What a source of this stage must bring.

A source is one file of this folder, a module that satisfies `Source`: a file made by hand or in the report, a few
labelled images, or class names that an image-text model knows. Everything after the clustering works on classes.
Importing this package is cheap, because every job imports the sources of its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from maskmill.recipe.base import Model
    from maskmill.store.classes import Classes
    from maskmill.store.codebook import Codebook


@dataclass(frozen=True)
class Traits:
    """Facts about a source that hold whatever its parameters are.

    Attributes:
        names: False for the source that leaves the clusters as they are.
        labels: reads labels of some images. photos: reads photos.
    """

    names: bool = True
    labels: bool = False
    photos: bool = False


@dataclass(frozen=True)
class ShardVectors:
    """What one shard's clusters are computed from.

    Attributes:
        vectors: Ragged of tokens [h, w, d], or of regions [n, 1, d]. segments, table: of recipes with a cut, the
            segments [h, w] and the table of regions, whose rows are those of `vectors`.
    """

    vectors: Path
    segments: Path | None = None
    table: Path | None = None


@dataclass(frozen=True)
class Clustered:
    """What was clustered, as every source finds it.

    Attributes:
        book: the clusters. ground: codebook of background and foreground, in recipes that have one.
        shards: vectors of all shards, and where they lie in the images. manifest: of the run.
        seed: of the run. limit: vectors that a fit reads at most. device: of a network: auto, cpu, cuda or cuda:0.
        place: what the source's `place` has returned.
    """

    book: Codebook
    ground: Codebook | None
    shards: Sequence[ShardVectors]
    manifest: Path
    seed: int = 0
    limit: int = 500_000
    place: str = ""
    device: str = "auto"


class Source(Protocol):
    """Where the classes come from.

    Attributes:
        Params: the source's parameters, a frozen `maskmill.recipe.base.Model`. TRAITS: facts about the source.
    """

    Params: type[Model]
    TRAITS: Traits

    def serves(self, params: Any, recipe: str, recipes: Sequence[str], seeds: int) -> bool:
        """False where this source says nothing of a recipe of the run, whose clusters then stay without names.

        Args:
            recipes: of the run. seeds: how many it has.

        Raises:
            ConfigError: what the parameters name is impossible, as far as that is known before the first job.
        """

    def check_clusters(self, params: Any, recipe: str, clusters: int) -> None:
        """Asked of a recipe that is served and whose clustering has at most so many clusters, before the first job.

        Raises:
            ConfigError: the parameters name a cluster that it cannot have.
        """

    def place(self, params: Any, recipe: str) -> str:
        """Where the job finds what `grouping` tells the content of; nothing runs again for another place."""

    def grouping(self, params: Any, recipe: str) -> Mapping[str, Any]:
        """What decides which vectors belong together, as JSON values: a change paints the masks again.

        Args:
            recipe: the recipe's name.
        """

    def naming(self, params: Any, recipe: str) -> Mapping[str, Any]:
        """What the classes are called and their colours, as JSON values: a change paints nothing."""

    def fit(self, grouping: Mapping[str, Any], given: Clustered) -> tuple[Classes, Mapping[str, np.ndarray]]:
        """The classes, and {image id: values [H, W] int32} of images whose classes are known: 1..K, BACKGROUND, IGNORE.

        Args:
            grouping: what `grouping` has returned.

        Raises:
            UserError: what it names does not fit the clusters or the images.
        """
