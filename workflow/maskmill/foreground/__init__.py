"""Stage `foreground`: which fine clusters of tokens are foreground, found without labels. What a method must bring.

A method is one file of this folder, a module that satisfies `Method`: it gives the evidence of one image, and the stage
adds it up over the clusters. Importing this package is cheap, because every job imports the methods of its recipe.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from maskmill.recipe.base import Model


@dataclass(frozen=True)
class Traits:
    """Facts about a method that hold whatever its parameters are.

    Attributes:
        reads_query: `mask` reads the keys of a ViT and the query of its cls token; `foreground.features` must have
            `facet: key`.
    """

    reads_query: bool = False


class Method(Protocol):
    """Evidence of what is foreground.

    Attributes:
        Params: the method's parameters, a frozen `maskmill.recipe.base.Model`. TRAITS: facts about the method.
    """

    Params: type[Model]
    TRAITS: Traits

    def mask(self, keys: np.ndarray, query: Any, params: Any) -> np.ndarray | None:
        """Foreground bool [h, w] of one image, or None where there is no evidence.

        Args:
            keys: tokens [h, w, d] float32 of `foreground.features`; with `reads_query` they are keys.
            query: float32 [heads, d_head] of the cls token, None without `reads_query`.

        Raises:
            NumericsError: NaN or infinite values.
        """
