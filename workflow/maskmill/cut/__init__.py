"""Stage `cut`: the tokens of an image -> segments, and how sure the cut is. What a method of this stage must bring.

A method is one file of this folder, a module that satisfies `Method`; with `Traits.batched` it satisfies
`BatchedMethod`. Importing this package is cheap, because every job imports the methods of its recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from maskmill.recipe.base import Model

Need = Literal["colour", "cls_query", "backbone"]
"""What a method may ask for besides the tokens of an image; it is passed as a keyword argument of this name.

colour: float32 [h, w, 3], r, g, b in 0..1 of the feature set that `cut.colour` names, on the grid of the tokens.
cls_query: float32 [heads, d_head], the query of the cls token, of the same block as the keys.
backbone: str, the backbone behind the tokens (`colour` is no network: its tokens are r, g, b, x, y), with "and n more"
    where there are several (`concat`).
"""


@dataclass(frozen=True)
class Traits:
    """Facts about a method that hold whatever its parameters are.

    Attributes:
        reads_codes: the tokens must be the codes of a head (stage adapt) that are masks of parts of an image.
        reads_colours: the tokens must be those of a colour feature set.
        colour: the method can look at a colour feature set, so that the section may have the key `colour`.
        batched: the module has `cut_batch`, with which a GPU cuts images of one grid together.
        outcomes: name -> code of the per-image diagnostic `outcome`; empty where the method has no such diagnostic.
            Code 0 is a cut; every other code says why an image has no segment.
        tree: the segments are the leaves of a forest, and the diagnostics have `parents` (see `Method.cut`).
    """

    reads_codes: bool = False
    reads_colours: bool = False
    colour: bool = False
    batched: bool = False
    tree: bool = False
    outcomes: Mapping[str, int] = field(default_factory=dict)


class Method(Protocol):
    """A cut.

    Attributes:
        Params: the method's parameters, a frozen `maskmill.recipe.base.Model`. TRAITS: facts about the method.
    """

    Params: type[Model]
    TRAITS: Traits

    def needs(self, params: Any) -> tuple[Need, ...]:
        """What `cut` is given besides the tokens, with these parameters."""

    def regions_per_image(self, params: Any, code_length: int) -> int:
        """The most segments that the method finds in an image. `code_length`: length of a code of the head, if any."""

    def cut(
        self, tokens: np.ndarray, params: Any, seed: int, image_id: str, **needed: Any
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Cut one image, on one thread; a result depends on the arguments only.

        Args:
            tokens: [h, w, d] float32. seed, image_id: together they seed whatever is drawn at random.
            needed: one keyword argument for each name that `needs` returns.

        Returns:
            segments uint8 [h, w], 0 = no segment, and diagnostics: numbers or arrays of a length that depends on the
            parameters only. `confidence` (0..1) must be there; `scores` float32 [n] may be, the score of segment i at
            i - 1.

            A method with `TRAITS.tree` returns the leaves of a forest as its segments 1..n, and `parents` float32 [P]
            with P = 2 * regions_per_image - 1: the parent of node i at i - 1, and 0 for a root or where there is no
            such node. Nodes 1..n are the leaves; inner nodes follow, each after its children, of which it has two or
            more. Its `scores` float32 [P] are those of all nodes. `maskmill.images.tree` reads and makes them. Stages
            that know no trees take the leaves as ordinary segments; `evaluate objects` scores every node.

        Raises:
            NumericsError: a token is NaN or infinite; the message names the image.
        """


class BatchedMethod(Method, Protocol):
    """A cut that a GPU makes of several images together."""

    def cut_batch(
        self, tokens: np.ndarray, params: Any, seed: int, ids: Sequence[str], device: str
    ) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """`cut` of every image of tokens [b, h, w, d], in order; the batch does not change the segments."""
