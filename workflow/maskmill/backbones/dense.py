"""The backbone of a feature set with all that it asks for: shifts, debias, concat, upsample, in this order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from maskmill.backbones import network
from maskmill.backbones._channels import RGB

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense
    from maskmill.recipe.feature_set import FeatureSet


def load(weights: str | Path, feature_set: FeatureSet, device: torch.device, channels: int = RGB) -> Dense:
    """A backbone from its weights file, or from the folder of the weights of all its parts.

    Args:
        weights: of `maskmill.backbones.weights`; a folder for a set with `concat`. channels: of the pictures.

    Raises:
        WeightsError, ConfigError: as `maskmill.backbones.network.load`.
    """
    given = Path(weights)
    found = []
    for part in feature_set.parts:
        file = given / f"{part.weights_slug}.safetensors" if given.is_dir() else given
        found.append(_part(file, part, device, channels))
    dense = found[0]
    if feature_set.concat is not None:
        from maskmill.backbones._concat import Concatenated

        dense = Concatenated(feature_set, found)
    if feature_set.upsample is not None:
        from maskmill.backbones._upsample import Upsampled

        dense = Upsampled(feature_set, dense)
    return dense


def _part(file: Path, part: FeatureSet, device: torch.device, channels: int) -> Dense:
    """One network, and what is made of its tokens alone."""
    dense: Dense = network.load(file, part, device, channels)
    if part.shifts is not None:
        from maskmill.backbones._shift import Shifted

        dense = Shifted(part, dense)
    if part.debias is not None:
        from maskmill.backbones._debias import Debiased

        dense = Debiased(part, dense)
    return dense
