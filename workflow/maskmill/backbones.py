"""Backbones by name: any timm ViT or CNN behind one call, `forward(images) -> (tokens, cls)`."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskmill.config import FeatureSet
from maskmill.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    import torch

FACETS = {"query": 0, "key": 1, "value": 2}  # place in the fused qkv projection
_declared: list[Any] = []  # keeps the operator library alive


def import_timm() -> Any:
    """timm, also where torchvision's compiled library does not fit torch.

    torchvision registers Python kernels for `nms` when it is imported and dies if its compiled library did not declare
    the operator first; maskmill needs none of these operators, so declaring them is enough.
    """
    import torch

    try:
        return importlib.import_module("timm")
    except (RuntimeError, ImportError) as error:
        if "torchvision::" not in str(error) and "torchvision" not in str(error):
            raise
    if not _declared:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
    return importlib.import_module("timm")


class Backbone:
    """A frozen network that gives dense features.

    Attributes:
        stride: pixels a token. multiple: image sides must be multiples of it. mean, std: per channel, for RGB in 0..1.
        depth: length of a token. digest: what made the weights (for provenance).
    """

    def __init__(self, model: Any, feature_set: FeatureSet, mean: Any, std: Any, device: torch.device) -> None:
        import torch

        self.model = model.eval().requires_grad_(False).to(device)
        self.set, self.device = feature_set, device
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self.is_vit = hasattr(model, "blocks") and hasattr(model, "patch_embed")
        if self.is_vit:
            self.stride = int(model.patch_embed.patch_size[0])
        elif feature_set.facet != "token":
            raise ConfigError(
                f"features.<name>.facet: {feature_set.facet!r} needs a ViT; {feature_set.backbone} has only 'token'"
            )
        else:
            self.stride = self._probe_stride()
        self.multiple = self.stride
        self._captured: list[torch.Tensor] = []
        if self.is_vit and feature_set.facet in FACETS:
            self._hook()

    def _probe_stride(self) -> int:
        """Pixels a cell of the chosen feature level, seen on a small image."""
        import torch

        with torch.inference_mode():
            level = self._intermediate(torch.zeros(1, 3, 256, 256, device=self.device))
        return 256 // level.shape[-1]

    def _hook(self) -> None:
        """Catch the output of the fused qkv projection of the chosen block."""
        blocks = self.model.blocks
        try:
            attention = blocks[self.set.layer].attn
        except IndexError:
            raise ConfigError(
                f"features.<name>.layer: {self.set.layer}, but {self.set.backbone} has {len(blocks)} blocks"
            ) from None
        if not hasattr(attention, "qkv") or attention.qkv is None:
            raise ConfigError(
                f"features.<name>.facet: {self.set.backbone} has no fused qkv projection; use facet: token"
            )
        attention.qkv.register_forward_hook(lambda _module, _inputs, output: self._captured.append(output))
        self._attention = attention

    def _intermediate(self, x: torch.Tensor) -> Any:
        """The chosen level: [b, d, h, w], or for a ViT ([b, d, h, w], prefix tokens [b, p, d])."""
        if not hasattr(self.model, "forward_intermediates"):
            raise ConfigError(f"features.<name>.backbone: timm's {self.set.backbone} has no dense features")
        options: dict[str, Any] = {"return_prefix_tokens": True} if self.is_vit else {}
        try:
            return self.model.forward_intermediates(
                x, indices=[self.set.layer], norm=True, stop_early=True, intermediates_only=True, **options
            )[0]
        except (IndexError, AssertionError):
            raise ConfigError(f"features.<name>.layer: {self.set.backbone} has no level {self.set.layer}") from None

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 RGB [b, H, W, 3] -> tokens [b, h, w, d] and cls [b, d], float32.

        The facet `token` is the block's output after the final norm; keys, queries and values are those of the block's
        attention, all heads side by side, keys less their bias unless `key_bias: keep`. A network without a cls
        token gives the mean over its tokens.
        """
        import torch

        x = (images.to(self.device).permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std  # [b, 3, H, W]
        h, w = x.shape[2] // self.stride, x.shape[3] // self.stride
        half = torch.bfloat16 if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        with torch.inference_mode(), torch.autocast(self.device.type, half, enabled=self.device.type == "cuda"):
            level = self._intermediate(x)
            if not self.is_vit:
                return level.permute(0, 2, 3, 1).float(), level.float().mean((2, 3))
            if self._captured:
                return self._facet(self._captured.pop(), h, w)
            tokens, prefix = level
        tokens = tokens.permute(0, 2, 3, 1).float()  # [b, h, w, d]
        cls = prefix[:, 0].float() if prefix.shape[1] else tokens.mean((1, 2))
        return tokens, cls

    def _facet(self, qkv: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The chosen third of [b, p + h*w, 3*d]: heads lie side by side within a third already."""
        third = FACETS[self.set.facet]
        d = qkv.shape[2] // 3
        facet = qkv[..., third * d : (third + 1) * d].float()  # [b, p + h*w, d]
        if self.set.facet == "key" and self.set.key_bias == "subtract" and self._attention.qkv.bias is not None:
            # Softmax does not see a vector added to every key, so the bias is arbitrary; DINOv2's drowns the cosines.
            facet = facet - self._attention.qkv.bias[d : 2 * d].float()
        tokens = facet[:, -h * w :].reshape(len(facet), h, w, d)
        cls = facet[:, 0] if facet.shape[1] > h * w else tokens.mean((1, 2))
        return tokens, cls


def load(weights: str | Path, feature_set: FeatureSet, device: torch.device) -> Backbone:
    """A backbone from its weights file (see maskmill.weights).

    Raises:
        WeightsError: the file is absent, truncated or of another architecture. ConfigError: facet, layer or stride
            that the architecture does not have.
    """
    from safetensors import SafetensorError, safe_open

    timm = import_timm()
    try:
        with safe_open(str(weights), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["maskmill"])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{weights}: no such file; run snakemake, its rule `weights` makes it") from None
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise WeightsError(f"{weights}: not a weights file of maskmill ({error}); delete it and run again") from None
    options: dict[str, Any] = {"num_classes": 0}
    if feature_set.stride is not None:
        options["output_stride"] = feature_set.stride
    try:
        model = _create(timm, facts["architecture"], options)
    except (TypeError, AssertionError, NotImplementedError, ValueError) as error:
        if feature_set.stride is None:
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"features.<name>.stride: {feature_set.backbone} has no output stride {feature_set.stride} ({reason})"
        ) from None
    missing, _ = model.load_state_dict(state, strict=False)
    if missing:
        raise WeightsError(
            f"{weights}: lacks {len(missing)} tensors ({', '.join(missing[:3])}); delete it and run again"
        )
    return Backbone(model, feature_set, facts["mean"], facts["std"], device)


def _create(timm: Any, architecture: str, options: dict[str, Any]) -> Any:
    """The network for any image size: ViTs interpolate their position embeddings to the grid at hand."""
    import torch

    with torch.device("cpu"):
        try:
            return timm.create_model(architecture, pretrained=False, dynamic_img_size=True, **options)
        except TypeError:
            return timm.create_model(architecture, pretrained=False, **options)
