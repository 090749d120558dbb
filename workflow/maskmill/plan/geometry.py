"""How a feature set lies over an image: pixels a token and length of a token, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from maskmill.errors import ConfigError
from maskmill.recipe import backbones
from maskmill.recipe.feature_set import FeatureSet


@dataclass(frozen=True)
class Geometry:
    """Pixels a token side, length of a token, and vectors stored once an image (cls, query of cls).

    `cells`: so many cells a side has a token of that stride in the store, where tokens are upsampled.
    """

    stride: int
    depth: int
    vectors: int = 1
    cells: int = 1


def geometry(feature_set: FeatureSet) -> Geometry:
    """The geometry of a feature set, whether its backbone is trained or not.

    Raises:
        ConfigError: timm does not know the backbone, or it has no such level.
    """
    parts = [_geometry(_untrained(part)) for part in feature_set.parts]
    depth = sum(part.depth for part in parts)
    vectors = 1 if feature_set.care else parts[0].vectors
    cells = 1 if feature_set.upsample is None else feature_set.upsample.factor
    return Geometry(parts[0].stride, depth, vectors, cells)


def _untrained(feature_set: FeatureSet) -> FeatureSet:
    """Without the section of a training, which changes no shape and has no hash."""
    return feature_set.model_copy(update={"pretrain": None})


@cache
def _geometry(feature_set: FeatureSet) -> Geometry:
    vectors = 2 if feature_set.facet == "key" else 1
    spec = backbones.of(feature_set.backbone)
    if spec.stride is not None and spec.depth is not None:  # without timm
        stride = spec.stride if spec.network else feature_set.stride or spec.stride
        return Geometry(stride, spec.depth, vectors)
    return Geometry(*_of_timm(feature_set), vectors)


def weight_bytes(feature_set: FeatureSet) -> int:
    """Bytes of the numbers in the weights file of a network of three channels, as a training writes them.

    Raises:
        ConfigError: timm does not know the backbone.
    """
    return _weight_bytes(_untrained(feature_set))


@cache
def _weight_bytes(feature_set: FeatureSet) -> int:
    return sum(value.numel() * value.element_size() for value in _network(feature_set, {}).state_dict().values())


def _of_timm(feature_set: FeatureSet) -> tuple[int, int]:
    """Stride and depth of the network."""
    options = {} if feature_set.stride is None else {"output_stride": feature_set.stride}
    model = _network(feature_set, options)
    try:
        if hasattr(model, "blocks") and hasattr(getattr(model, "patch_embed", None), "grid_size"):
            return int(model.patch_embed.patch_size[0]), int(model.embed_dim)
        level = model.feature_info[feature_set.layer]
        level = level if isinstance(level, dict) else vars(level)
        return int(level["reduction"]), int(level["num_chs"])
    except Exception as error:  # absent levels
        raise _unknown(feature_set, error) from None


def _network(feature_set: FeatureSet, options: Mapping[str, Any]) -> Any:
    """The network of timm, built without memory for its weights."""
    import torch

    from maskmill.backbones.network import import_timm

    name = str(backbones.of(feature_set.backbone.removeprefix("timm/")).architecture)
    try:
        with torch.device("meta"):
            return import_timm().create_model(name, pretrained=False, num_classes=0, **options)
    except Exception as error:  # unknown names, networks that need more arguments
        raise _unknown(feature_set, error) from None


def _unknown(feature_set: FeatureSet, error: Exception) -> ConfigError:
    return ConfigError(
        f"features.<name>.backbone: {feature_set.backbone!r} with layer {feature_set.layer}: timm does not say its "
        f"geometry ({' '.join(str(error).split())[:120] or type(error).__name__}); "
        "name a timm architecture and a layer of it"
    )
