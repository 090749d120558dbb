"""Stage rounds: a student is trained on the masks of the round before, and predicts the masks of this round.

`Method` is what the module of a student must bring, `Traits` what it must say of itself. `maskmill.rounds.run` holds
the files of the stage, `maskmill.rounds.infer` a trained student at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch

    from maskmill.images.instances import Instances
    from maskmill.recipe.base import Model
    from maskmill.rounds._masks import Masks
    from maskmill.rounds._training import Sources, StudentTraining


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a student is, for the parts of the workflow that serve it.

    Attributes:
        photos: it sees the photos of the manifest through an encoder, instead of stored features; its Params have
            `encoder`, the feature set that names the encoder's backbone, and `size`, of the photos that it predicts.
        instances: it learns from instances and predicts instances; `load` then gives an `InstancePredictor`.
        semantic: it predicts more than its instances, so that its masks are not painted from stored ones.
    """

    photos: bool
    instances: bool
    semantic: bool = False


class Examples(Protocol):
    """What a student learns from: the images behind the masks of the round before, with their targets."""

    def view(self, image_id: str) -> Any:
        """What the student sees of an image.

        Tokens by feature set, {name: [h, w, d]}; or the photo, uint8 RGB [H, W, 3].
        """


class Predictor(Protocol):
    """A trained network."""

    def logits(self, view: Any) -> np.ndarray:
        """Logits [k + 1, h, w] float32 of one image, background first; what it sees is as in `Examples.view`.

        Each stands for `Params.upsample` cells of the mask a side.
        """


class InstancePredictor(Protocol):
    """A trained network that finds instances, from which its masks are painted."""

    def instances(self, view: np.ndarray) -> Instances:
        """Instances of a photo uint8 RGB [H, W, 3], best first; they may overlap."""

    def paint(self, found: Instances) -> tuple[np.ndarray, np.ndarray]:
        """Mask [h, w] of classes 0 to k, and how sure each of its cells is, [h, w] in 0..1."""

    def logits(self, found: Instances) -> np.ndarray:
        """Logits [k + 1, h, w] float32 whose best class is the painted mask."""


class Method(Protocol):
    """The module of a student, `maskmill/rounds/<name>.py` or `maskmill/rounds/<name>/`.

    Attributes:
        Params: the student's settings, a frozen `Model`; among them `upsample`, mask cells a side for each logit.
        TRAITS: see `Traits`.
        CLASSIFIER: names of the tensors that have one row a class, whose rows follow when classes change their ids.
    """

    Params: type[Model]
    TRAITS: Traits
    CLASSIFIER: tuple[str, ...]

    @staticmethod
    def data(sources: Sources, masks: Masks, params: Any, training: StudentTraining) -> Examples:
        """What a round learns from.

        Raises:
            ConfigError: a source that this student needs is not given. NumericsError: there is nothing to learn from.
            StoreError: an image of the masks is missing in a source.
        """

    @staticmethod
    def fit(examples: Any, params: Any, training: StudentTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Train a student on what `data` has returned.

        Returns:
            tensors of its file, and diagnostics: `loss` [steps], `timing`, and what else its metadata is to hold. The
            result depends on the examples, the parameters and the seed only.

        Raises:
            NumericsError: a loss or gradient that is not finite. StoppedError: SIGTERM or SIGUSR1 came.
        """

    @staticmethod
    def load(
        tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Any, device: torch.device
    ) -> Predictor | InstancePredictor:
        """The trained network, from the tensors and the metadata (`spec`) of a student's file."""
