"""Backbones by name: what is known of each without its weights. Importing this module is cheap.

A backbone is a name. The names in `KNOWN` are maskmill's own; every other name is a timm architecture, which says
itself what it is once it is built. What a backbone does to photos is `maskmill.backbones.Dense`, whatever is behind it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BackboneSpec:
    """Facts about a backbone.

    Attributes:
        name: as a feature set names it.
        architecture: timm's name of the network; None where there is no network, and so no weights, no facet but
            `token`, no layers and no checkpoint.
        stride: pixels a token. depth: length of a token. None where only the network itself says it; where there is no
            network, `features.<name>.stride` may ask for another stride.
        cls_token: whether it has one, with plain attention; None where only the network itself says it.
        colours: the first three numbers of a token are r, g, b in 0..1.
        builder: where there is no network, `module:class` of what is made of (feature set, device, digest,
            channels). about: and what that is, for its weights file.
    """

    name: str
    architecture: str | None = None
    stride: int | None = None
    depth: int | None = None
    cls_token: bool | None = None
    colours: bool = False
    builder: str = ""
    about: str = ""

    @property
    def network(self) -> bool:
        """True where there is a network with weights."""
        return self.architecture is not None

    def build(self, feature_set: Any, device: torch.device, digest: str, channels: int) -> Any:
        """The backbone at work, where there is no network, for a `maskmill.recipe.feature_set.FeatureSet`."""
        module, name = self.builder.split(":")
        return getattr(importlib.import_module(module), name)(feature_set, device, digest, channels)


KNOWN = {
    spec.name: spec
    for spec in (
        BackboneSpec("efficientnet_lite0", "tf_efficientnet_lite0", cls_token=False),
        BackboneSpec("vit_small_focus", "vit_small_patch14_dinov2", stride=14, depth=384, cls_token=True),
        BackboneSpec(
            "colour",
            stride=16,
            depth=5,
            colours=True,
            builder="maskmill.backbones.colour:Colour",
            about="colour and place, no network",
        ),
        BackboneSpec(
            "sift",
            stride=8,
            depth=128,
            builder="maskmill.backbones.sift:Sift",
            about="SIFT descriptors of a grid, no network",
        ),
    )
}


def of(name: str) -> BackboneSpec:
    """The facts about a backbone; a name that is not maskmill's own is one of timm's."""
    return KNOWN.get(name) or BackboneSpec(name, name)
