"""Stage pretrain: photos -> the weights of a backbone, learnt without labels, from scratch or from given weights.

A feature set asks for the result with `backbone: {pretrain: NAME}`, and the section `pretrain` of its recipe says how.
`Method` is what the module of a method must bring, `Traits` what it must say of itself. A method builds a
`maskmill.pretrain._learner.Learner`, which `maskmill.pretrain._trainer` trains; `maskmill.pretrain.run` holds the files
of the stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._settings import TrainingParams
    from maskmill.pretrain._views import CropSpec


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a method is, for the parts of the workflow that serve it.

    Attributes:
        dense: it learns from tokens of places, not from one vector an image only.
        segments: it reads the segments of the recipe's cut.
        regrouped: crops after the first of a photo are dealt out to the micro-batches anew, so that statistics of a
            batch norm do not tell which crops belong together (MoCo's shuffled batch norm).
    """

    dense: bool
    segments: bool = False
    regrouped: bool = False


class Method(Protocol):
    """The module of a method, `maskmill/pretrain/<name>.py` or `maskmill/pretrain/<name>/`.

    Attributes:
        Params: the method's settings, with those of the trainer (`TrainingParams`). TRAITS: see `Traits`.
    """

    Params: type[TrainingParams]
    TRAITS: Traits

    @staticmethod
    def views(params: Any) -> tuple[CropSpec, ...]:
        """The crops that are drawn of every photo, in the order in which a learner gets them.

        A module may have a function `draw` too: (params, height, width, generator) -> boxes [crops, 4] (y0, y1, x0, x1
        as shares of the photo), where crops of a photo are not independent of one another; and, with segments, a
        function `accepts`: (params, segments int64 [side, side] of each crop) -> bool; what it does not accept is drawn
        anew, three times at most.
        """

    @staticmethod
    def build(network: Learning, params: Any, photos: int) -> Learner:
        """The untrained learner around a network; random weights are drawn from torch's global generator.

        Args:
            photos: how many there are to learn from.

        Raises:
            ConfigError: the network does not have what the method needs.
        """
