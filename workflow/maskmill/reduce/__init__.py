"""Stage `reduce`: vectors -> shorter vectors, before they are clustered. What a method of this stage must bring.

A method is one file of this folder, a module that satisfies `Method`; where `Traits.fitted` is true it satisfies
`FittedMethod`. Importing this package is cheap, because every job imports the methods of its recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from maskmill.recipe.base import Model

Blocks = Callable[[], "Iterator[np.ndarray]"]
"""A function that returns an iterator over blocks of vectors [m, d] of floats."""


@dataclass(frozen=True)
class Traits:
    """Facts about a method that hold whatever its parameters are.

    Attributes:
        fitted: the method has a model to fit; without one, vectors are clustered as they are, and no job runs.
        max_fit_points: vectors that a fit takes at most, where `reduce.max_fit_points` does not say it.
        bounded_memory: a fit holds all its vectors and is refused where it needs more than `memory_gb` GiB.
    """

    fitted: bool = True
    max_fit_points: int = 0
    bounded_memory: bool = False


class Method(Protocol):
    """A reduction.

    Attributes:
        Params: the method's parameters, a frozen `maskmill.recipe.base.Model`. TRAITS: facts about the method.
    """

    Params: type[Model]
    TRAITS: Traits

    def dimensions(self, params: Any, depth: int) -> int:
        """Length of a reduced vector, of vectors of length `depth`; a fit may find fewer dimensions in the data."""

    def memory_gb(self, params: Any) -> float:
        """GiB that a fit may take; 0 where the parameters set no limit."""

    def row_bytes(self, d: int, params: Any) -> float:
        """Memory of a fit for each of its vectors [d], in bytes; 0 where it does not grow with their number."""


class FittedMethod(Method, Protocol):
    """A reduction that is fitted on a sample of vectors and then applied to all of them."""

    def fit(self, blocks: Blocks, params: Any, seed: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """The model as arrays by name, and diagnostics.

        Raises:
            NumericsError: NaN, too few distinct vectors, or more of them than `memory_gb` allows.
        """

    def prepare(self, model: Mapping[str, np.ndarray], params: Any) -> Any:
        """What `transform` reads: made once from the arrays of a model, not once an image."""

    def transform(self, x: np.ndarray, fitted: Any, params: Any) -> np.ndarray:
        """Vectors x [m, d] reduced to [m, k] float32; a row depends on its own vector only."""

    def depth(self, model: Mapping[str, np.ndarray]) -> int:
        """Length k of a reduced vector of this model."""
