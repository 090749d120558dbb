"""Stage `cluster`: vectors -> a codebook of clusters. What a method of this stage must bring.

A method is one file of this folder, a module that satisfies `Method`. Importing this package is cheap, because every
job imports the methods of its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
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
    """

    reads_images: bool = False
    reads_head: bool = False
    finds_number: bool = False


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
