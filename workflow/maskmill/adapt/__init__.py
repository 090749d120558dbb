"""Stage adapt: a small head learnt on stored features makes a new feature set, `codes`, for the later stages.

`Method` is what the module of a method must bring, `Traits` what it must say of itself. `maskmill.adapt.run` holds the
files of the stage, `maskmill.adapt.infer` a trained head at work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.adapt._encoder import Encoder
    from maskmill.adapt._training import HeadTraining
    from maskmill.recipe.base import Model


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a method is, for the parts of the workflow that serve it.

    Attributes:
        neighbours: reads the table of the nearest images of each image; its Params have `crops` and `neighbours`.
        per_image: its codes are masks of one image: channel j of two images has nothing in common. They can be cut
            (`cut: {method: argmax}`) but neither clustered nor compared between images.
        crops: items of its training may be crops of an image's grid; its Params have `crops`.
        trains_backbone: it can train the backbone together with the head; its Params have `unfreeze`, and it is a
            `BackboneMethod`.
        photos: its training sees photos through the frozen backbone (`maskmill.adapt._photos.FrozenPhotos`); the head
            itself works on stored tokens.
        colours: its training may look at the photos' colours on the grid of the tokens (`TokenImages.colours`).
    """

    neighbours: bool
    per_image: bool
    crops: bool
    trains_backbone: bool
    photos: bool = False
    colours: bool = False


class Method(Protocol):
    """The module of a method, `maskmill/adapt/<name>.py` or `maskmill/adapt/<name>/`.

    Attributes:
        Params: the method's settings, a frozen `Model`; among them `batch_size`, the items of an optimiser step.
        TRAITS: see `Traits`.
    """

    Params: type[Model]
    TRAITS: Traits

    @staticmethod
    def code_length(params: Any, clusters: int) -> int:
        """Length c of a code, known before anything is trained. clusters: the k of the recipe."""

    @staticmethod
    def build(depth: int, params: Any, clusters: int) -> torch.nn.Module:
        """The untrained head for tokens of length `depth`; its weights are drawn from torch's global generator.

        The module has a method `codes`: tokens [n, d, h, w] float32 -> codes [n, c, h, w]. Where the method learns
        prototypes, its attribute `prototypes` has a `weight` [k, c].
        """

    @staticmethod
    def fit(images: Any, params: Any, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Train a head.

        Args:
            images: `maskmill.adapt._data.TokenImages`; tokens [h, w, d] of an image by its position in the sorted ids.
                With the trait `photos`: `maskmill.adapt._photos.FrozenPhotos`.

        Returns:
            tensors `head.<name>`, the state of what `build` makes, and diagnostics: `loss` [steps], `timing`, and what
            else the monitor is to show. The result depends on the images, the parameters and the seed only.

        Raises:
            NumericsError: a loss or gradient that is not finite. StoppedError: SIGTERM or SIGUSR1 came.
        """


class BackboneMethod(Method, Protocol):
    """A method that can train the backbone too (`unfreeze: true`).

    `fit` then gets images [H, W, 3] uint8 instead of tokens, and finds the backbone in `images.encoder`.
    """

    @staticmethod
    def build(depth: int, params: Any, clusters: int, encoder: Encoder | None = None) -> torch.nn.Module:
        """As `Method.build`; with an encoder, `codes` takes photos [n, 3, H, W] of 0..255 and the backbone learns."""
