"""Stage `cluster`: vectors -> a codebook of clusters. What a method of this stage must bring.

A method is one file of this folder, a module that satisfies `Method`. Importing this package is cheap, because every
job imports the methods of its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from maskmill.cluster._auto import Fits
    from maskmill.numerics.points import Source
    from maskmill.recipe.base import Model
    from maskmill.store.codebook import Codebook


@dataclass(frozen=True)
class Traits:
    """Facts about a method that hold whatever its parameters are.

    Attributes:
        reads_images: `fit` is also given the vectors image by image, and the codebook of background and foreground.
        reads_head: `fit` is also given the file of the head that the stage adapt has learnt.
        finds_number: the method finds the number of clusters; its parameter `clusters`, if any, is a limit or a wish.
        counted: `clusters` may be auto; `Params` is a `NumberParams` (`maskmill.cluster._number`), and the module is a
            `CountedMethod`. `maskmill.cluster.run.fit` chooses the number, and `fit` gets it as `params.count`.
    """

    reads_images: bool = False
    reads_head: bool = False
    finds_number: bool = False
    counted: bool = False


class Method(Protocol):
    """A clustering.

    Attributes:
        Params: the method's parameters, a frozen `maskmill.recipe.base.Model`. TRAITS: facts about the method.
    """

    Params: type[Model]
    TRAITS: Traits

    def fit(self, source: Source, params: Any, seed: int, device: str, **given: Any) -> tuple[Codebook, dict[str, Any]]:
        """Cluster points; the result depends on the points, their order, the parameters and the seed only.

        Args:
            source: the points, [n, d] floats in memory, or a function that returns an iterator over blocks [b, d] of
                them, always in the same order.
            device: auto, cpu, cuda or cuda:0.
            given: with `reads_images`, `images` (a function that returns an iterator over all images in the order of
                their ids: vectors [h, w, d], and whether h and w are places of tokens) and `foreground` (a codebook of
                background, 0, and foreground, 1, or None); with `reads_head`, `head` (a path or None).

        Returns:
            the codebook, clusters ordered by size, and diagnostics.

        Raises:
            NumericsError: NaN or infinite values, or too few distinct points.
        """


class CountedMethod(Method, Protocol):
    """A clustering that is told how many clusters to make, so that the number can be chosen from the data."""

    def several(self, params: Any) -> Fits:
        """A function of vectors [n, d], ascending numbers of clusters and a seed that gives a codebook of each number.

        The number is chosen by it (`maskmill.cluster._auto`), on a few thousand vectors, a dozen times: what the
        numbers have in common is computed once.
        """
