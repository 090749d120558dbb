"""A network for RGB made one for pictures of N channels, as timm does it: the first layer's kernels are repeated.

Channel i gets the kernel, the mean and the standard deviation of colour i mod 3, and all kernels are multiplied by
3 / N, so that N channels excite the layer about as much as three do. Pictures begin with the channels that are shown,
so red, green and blue meet their own kernels where a file declares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from maskmill.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from maskmill.recipe.feature_set import FeatureSet

RGB = 3  # channels of a photo


def extended(values: Sequence[float], channels: int) -> list[float]:
    """Mean or standard deviation of three colours for so many channels: those of the colours, again and again."""
    return [values[i % RGB] for i in range(channels)]


def normalisation(facts: Mapping[str, Any], channels: int) -> tuple[list[float], list[float]]:
    """Mean and deviation of so many channels, from the facts of a weights file for three or for as many."""
    mean, std = (list(facts[key]) for key in ("mean", "std"))
    return (mean, std) if len(mean) == channels else (extended(mean, channels), extended(std, channels))


def adapted(
    timm: Any, state: dict[str, torch.Tensor], model: Any, feature_set: FeatureSet, channels: int
) -> dict[str, torch.Tensor]:
    """The tensors of a network for RGB, by name, for a `model` that takes so many channels.

    Raises:
        ConfigError: timm does not say which layer sees the image, or it is none of three channels.
    """
    if channels == RGB:
        return state
    wanted = model.state_dict()
    first = (getattr(model, "pretrained_cfg", None) or {}).get("first_conv")
    names = [f"{name}.weight" for name in ((first,) if isinstance(first, str) else first or ())]
    try:
        own = {name: timm.models.adapt_input_conv(channels, state[name]) for name in names}
    except (NotImplementedError, KeyError) as error:
        raise refused(feature_set, channels, " ".join(str(error).split())) from None
    if not own or any(tensor.shape != wanted[name].shape for name, tensor in own.items()):
        raise refused(feature_set, channels, "timm does not say which layer sees the image")
    return {**state, **own}


def refused(feature_set: FeatureSet, channels: int, reason: str) -> ConfigError:
    """The error of a backbone that can not be made to see so many channels."""
    return ConfigError(
        f"features.<name>.channels: {feature_set.backbone} can not see {channels} channels ({reason}); set channels: "
        "shown there, or name another backbone"
    )
