"""Networks: any timm ViT or CNN as a `maskmill.backbones.Dense`, `forward(images) -> (tokens, cls)`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskmill.backbones import weights_file
from maskmill.backbones._channels import RGB, adapted, normalisation, refused
from maskmill.backbones._flip import averaged
from maskmill.device import has_bfloat16
from maskmill.errors import ConfigError, WeightsError
from maskmill.recipe import backbones
from maskmill.recipe.feature_set import FeatureSet

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense

FACETS = {"query": 0, "key": 1, "value": 2}  # place in the fused qkv projection
PROBE = 256  # pixels a side of the image on which a CNN's stride is seen
_declared: list[Any] = []  # keeps the operator library alive


def import_timm() -> Any:
    """timm, also where torchvision's compiled library does not fit torch.

    torchvision registers Python kernels for `nms` when it is imported and dies if its compiled library did not declare
    the operator first; maskmill needs none of these operators, so declaring them is enough.
    """
    import torch

    with _without_dynamo():
        if not _declared:
            try:
                importlib.import_module("torchvision")
            except (RuntimeError, ImportError) as error:
                if "torchvision::" not in str(error):
                    raise
                library = torch.library.Library("torchvision", "FRAGMENT")
                for name in ("nms", "qnms"):
                    if not hasattr(torch.ops.torchvision, name):
                        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                _declared.append(library)
        return importlib.import_module("timm")


@contextlib.contextmanager
def _without_dynamo() -> Iterator[None]:
    """Within: what imports torch's compiler gets an empty one, and torch loads the real one later, if ever.

    torchvision asks it one question (in `roi_align`), timm marks a method of NaFlexViT not to be compiled.
    Nothing here compiles, and the compiler (with sympy and FSDP) is 1.5 s of CPU a job with a network.
    """
    names = ("torch._dynamo", "torch._dynamo.utils")
    if any(name in sys.modules for name in names):
        yield
        return
    empty, utils = (types.ModuleType(name) for name in names)
    empty.__path__ = []
    vars(empty)["disable"] = lambda fn=None, *_, **__: fn if fn is not None else lambda other: other
    vars(utils)["is_compile_supported"] = lambda _device: False
    sys.modules.update(zip(names, (empty, utils), strict=True))
    try:
        yield
    finally:
        for name, module in zip(names, (empty, utils), strict=True):
            if sys.modules.get(name) is module:
                del sys.modules[name]


class Backbone:
    """A frozen network that gives dense features.

    Attributes:
        stride: pixels a token. multiple: image sides must be multiples of it. depth: length of a token.
        mean, std: [1, 3 or N, 1, 1] of the input normalisation, for values in 0..1; `forward` applies it.
        digest: sha256 of the weights, for provenance.
        heads: attention heads behind the third of `outputs`; None where it has none.
    """

    def __init__(
        self, model: Any, feature_set: FeatureSet, mean: Any, std: Any, device: torch.device, digest: str = ""
    ) -> None:
        import torch

        self.model = model.eval().requires_grad_(False).to(device)
        self.set, self.device, self.digest = feature_set, device, digest
        self.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(std, device=device).view(1, -1, 1, 1)
        self.is_vit = hasattr(model, "blocks") and hasattr(getattr(model, "patch_embed", None), "grid_size")
        self._facet: _Facet | None = None
        self.heads: int | None = None
        self._norm = True
        if self.is_vit:
            self.positions = _Positions(self.model)
            if feature_set.facet in FACETS:
                self._facet = _Facet(self.model, feature_set)
                self.heads = None if feature_set.flip == "average" else self._facet.heads
            self.stride = int(model.patch_embed.patch_size[0])
            side = self.stride * 2 if self.positions.dynamic else int(model.patch_embed.img_size[0])
        elif feature_set.facet != "token":
            raise ConfigError(
                f"features.<name>.facet: {feature_set.facet!r} needs a ViT; {feature_set.backbone} has only 'token'"
            )
        else:
            self.stride, side = 1, PROBE
        tokens, _ = self.forward(torch.zeros(1, side, side, len(mean), dtype=torch.uint8))
        self.depth = int(tokens.shape[-1])
        self.multiple = self.stride = side // tokens.shape[1]
        if feature_set.stride not in (None, self.stride):
            raise _no_stride(feature_set, f"layer {feature_set.layer} has stride {self.stride}")

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 RGB [b, H, W, 3], or all N channels, -> tokens [b, h, w, d] and cls [b, d], float32.

        The facet `token` is the block's output after the final norm; keys, queries and values are those of the block's
        attention, all heads side by side, keys less their bias unless `key_bias: keep`. `cls` is the cls token of the
        same facet and block, or the mean over the tokens of a network without one. Blocks after it are not computed.
        """
        tokens, cls, _ = self.outputs(images)
        return tokens, cls

    def outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The two of `forward`, and the query of the cls token [b, d] float32, all heads side by side, bias included.

        Together with keys the query gives the attention of the cls token: softmax over the patches of
        q . k_i / sqrt(d_head), per head. That a key lacks its bias b changes nothing, because q . b is the same
        for every patch. None for every facet but the key, and for a network without a cls token or with attention
        that is more than this product (`is_plain`). With `flip: average` all are means over the images and their
        mirror images, and there is no query.
        """
        if self.set.flip == "average":
            return averaged(self._outputs, images.to(self.device, non_blocking=True))
        return self._outputs(images)

    def _outputs(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """`outputs` of the images as they are."""
        import torch

        half = torch.bfloat16 if has_bfloat16(self.device) else torch.float16
        with torch.inference_mode():
            x = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()  # [b, 3 or N, H, W]
            x = (x / 255 - self.mean) / self.std
            if self.is_vit:
                self.positions.fit(x.shape[2] // self.stride, x.shape[3] // self.stride)
            with torch.autocast(self.device.type, half, enabled=self.device.type == "cuda"):
                return self._facets(x) if self._facet else (*self._tokens(x), None)

    def _tokens(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output of the chosen block or feature level."""
        level, prefix = self._level(x)
        tokens = level.permute(0, 2, 3, 1).float()  # [b, h, w, d]
        if prefix is not None and getattr(self.model, "cls_token", None) is not None:
            return tokens, prefix[:, 0].float()
        return tokens, tokens.mean((1, 2))

    def _level(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The chosen level [b, d, h, w], and the prefix tokens [b, p, d] where there are some."""
        level = self._intermediate(x)
        return level if isinstance(level, tuple) else (level, None)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """RGB 0..255 [b, 3, H, W] -> tokens [b, d, h, w] of the facet `token`, with gradients where they are wanted.

        The caller sees to the position embeddings of a ViT (`resample_positions`).
        """
        return self._level((x / 255 - self.mean) / self.std)[0]

    def _facets(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Key, query or value of the chosen block, and the cls token's query."""
        assert self._facet is not None
        h, w = x.shape[2] // self.stride, x.shape[3] // self.stride
        with self._facet.stopping():
            self._intermediate(x)
        facet = self._facet.take(int(getattr(self.model, "num_prefix_tokens", 0)) + h * w)  # [b, p + h*w, d]
        tokens = facet[:, -h * w :].reshape(len(facet), h, w, -1)
        has_cls = getattr(self.model, "cls_token", None) is not None
        return tokens, facet[:, 0] if has_cls else tokens.mean((1, 2)), self._facet.cls_query()

    def _intermediate(self, x: torch.Tensor) -> Any:
        """The chosen level: [b, d, h, w], or ([b, d, h, w], prefix tokens [b, p, d]) where there are such tokens."""
        forward = getattr(self.model, "forward_intermediates", None)
        if forward is None:
            raise ConfigError(f"features.<name>.backbone: timm's {self.set.backbone} has no dense features")
        count = len(self.model.blocks) if self.is_vit else len(self.model.feature_info)
        _check_layer(self.set, count, "blocks" if self.is_vit else "feature levels")
        options = {"norm": self._norm, "stop_early": True, "intermediates_only": True, "return_prefix_tokens": True}
        known = inspect.signature(forward).parameters
        try:
            return forward(x, indices=[self.set.layer], **{k: v for k, v in options.items() if k in known})[0]
        except (AssertionError, RuntimeError) as error:
            if self._norm and "normalization" in str(error):  # hierarchical networks: no one norm fits every level
                self._norm = False
                return self._intermediate(x)
            if isinstance(error, RuntimeError) and "size of tensor" not in str(error):
                raise
            size, reason = f"{x.shape[2]}x{x.shape[3]} px", " ".join(str(error).split()) or "fixed image size"
            raise ConfigError(
                f"features.<name>.size: {self.set.backbone} does not take images of {size} ({reason})"
            ) from error


def _check_layer(feature_set: FeatureSet, count: int, what: str) -> None:
    if not -count <= feature_set.layer < count:
        raise ConfigError(
            f"features.<name>.layer: {feature_set.layer}, but {feature_set.backbone} has {count} {what}; "
            f"use {-count}..{count - 1}"
        )


class _Positions:
    """Position embeddings of a ViT for any rectangular grid.

    Bicubic without antialiasing, which gives the exported original of the embedded ViT-S/14 (518 px, run at 224) to
    1.5e-5; timm's own resampling antialiases, and its worst key had a cosine of 0.989 with the original.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.native: torch.Tensor | None = getattr(model, "pos_embed", None)
        self.grid = self.native_grid = tuple(model.patch_embed.grid_size)
        self.dynamic = bool(getattr(model, "dynamic_img_size", False))

    def fit(self, h: int, w: int) -> None:
        """Make the model ready for h x w patches."""
        if (h, w) == self.grid:
            return
        if self.dynamic and self.native is not None and self.native.ndim == 3:
            from torch import nn

            resampled = resample_positions(self.native, self.native_grid, (h, w))
            self.model.pos_embed = nn.Parameter(resampled, requires_grad=False)
            self.model.patch_embed.grid_size = (h, w)
        elif not self.dynamic and hasattr(self.model, "set_input_size"):
            patch = self.model.patch_embed.patch_size
            self.model.set_input_size(img_size=(h * patch[0], w * patch[1]))
        self.grid = (h, w)


def resample_positions(positions: torch.Tensor, old: tuple[int, ...], new: tuple[int, int]) -> torch.Tensor:
    """Position embeddings [1, p + h*w, d] for another grid, bicubic; the p prefix embeddings stay as they are.

    The same grid gives the same numbers.
    """
    import torch
    from torch.nn.functional import interpolate

    prefix = positions.shape[1] - old[0] * old[1]
    if tuple(old) == tuple(new):
        return positions
    grid = positions[:, prefix:].reshape(1, *old, -1).permute(0, 3, 1, 2)  # [1, d, h, w]
    grid = interpolate(grid.float(), size=new, mode="bicubic", align_corners=False, antialias=False)
    rows = grid.flatten(2).transpose(1, 2).to(positions.dtype)  # [1, h'*w', d]
    return torch.cat([positions[:, :prefix], rows], 1)


class _Enough(Exception):  # noqa: N818 - not an error: it ends the forward pass
    """The input of the chosen attention is known, the rest need not be computed."""


class _Facet:
    """Query, key or value of one block: one third of its projection, applied to the input of its attention.

    A head's numbers lie side by side within a third in every timm ViT (reshape to [b, T, 3, heads, d_head]), so the
    third is all heads concatenated. The bias of the keys is never added when it is to be subtracted: softmax does not
    see a vector added to every key, so it is arbitrary, and DINOv2's drowns the cosines.
    """

    def __init__(self, model: Any, feature_set: FeatureSet) -> None:
        self.set = feature_set
        _check_layer(feature_set, len(model.blocks), "blocks")
        attention = getattr(model.blocks[feature_set.layer], "attn", None)
        self.weight, self.bias = self._projection(attention, feature_set.facet)
        if feature_set.facet == "key" and feature_set.key_bias == "subtract":
            self.bias = None
        has_query = feature_set.facet == "key" and is_plain(model, attention)
        self.query = self._projection(attention, "query") if has_query else None
        self.heads = int(attention.num_heads) if has_query else None  # type: ignore[union-attr]
        self.seen: torch.Tensor | None = None
        self.active = False
        attention.register_forward_pre_hook(self._see, with_kwargs=True)  # type: ignore[union-attr]

    def _projection(self, attention: Any, facet: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight [d, c] and bias [d] of a facet."""
        letter = facet[0]  # timm names the parts q, k, v
        fused, single = getattr(attention, "qkv", None), getattr(attention, f"{letter}_proj", None)
        if fused is None and single is None:
            raise self._unsupported()
        if fused is None:
            return single.weight, single.bias  # type: ignore[union-attr]
        third = fused.weight.shape[0] // 3
        part = slice(FACETS[facet] * third, (FACETS[facet] + 1) * third)
        biases = [fused.bias[part]] if fused.bias is not None else []
        own = getattr(attention, f"{letter}_bias", None)  # EVA, BEiT: biases beside a projection without
        biases += [own] if own is not None else []
        return fused.weight[part], sum(biases[1:], biases[0]) if biases else None

    def _see(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.active:
            self.seen = args[0] if args else kwargs["x"]
            raise _Enough

    @contextlib.contextmanager
    def stopping(self) -> Iterator[None]:
        """Within: the forward pass ends at the chosen attention."""
        self.active, self.seen = True, None
        try:
            with contextlib.suppress(_Enough):
                yield
        finally:
            self.active = False

    def take(self, tokens: int) -> torch.Tensor:
        """The facet [b, tokens, d], float32."""
        from torch.nn.functional import linear

        if self.seen is None or self.seen.ndim != 3 or self.seen.shape[1] != tokens:
            raise self._unsupported()
        return linear(self.seen, self.weight, self.bias).float()

    def cls_query(self) -> torch.Tensor | None:
        """The query of the first token [b, d], float32, of what `take` has seen."""
        from torch.nn.functional import linear

        if self.query is None or self.seen is None:
            return None
        return linear(self.seen[:, 0], *self.query).float()

    def _unsupported(self) -> ConfigError:
        return ConfigError(
            f"features.<name>.facet: {self.set.backbone} has no {self.set.facet} a token "
            "(no plain attention over all tokens in this block); use facet: token"
        )


def is_plain(model: Any, attention: Any) -> bool:
    """True where the first token is a cls token whose attention is the softmax of q . k / sqrt(d_head), no more.

    Rotated or normalised queries and keys and relative positions make it more: BEiT, EVA-02, DINOv3, ...
    """
    if getattr(model, "cls_token", None) is None or getattr(model, "rope", None) is not None:
        return False
    norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    if any(norm is not None and type(norm).__name__ != "Identity" for norm in norms):
        return False
    if any(getattr(attention, name, None) is not None for name in ("relative_position_bias_table", "rel_pos", "rope")):
        return False
    heads, scale = getattr(attention, "num_heads", 0), getattr(attention, "scale", None)
    width = model.embed_dim // max(1, heads)
    return bool(heads) and scale is not None and abs(float(scale) * width**0.5 - 1) < 1e-6


def load(weights: str | Path, feature_set: FeatureSet, device: torch.device, channels: int = RGB) -> Backbone | Dense:
    """A backbone from its weights file (see maskmill.backbones.weights).

    Args:
        channels: of the pictures that it sees; its first layer is adapted (maskmill.backbones._channels).

    Raises:
        WeightsError: the file is absent, truncated, damaged or of another architecture. ConfigError: facet, layer or
            stride that the architecture does not have, or so many channels.
    """
    timm = import_timm()
    state, facts = weights_file.read(weights)
    spec = backbones.of(str(facts["architecture"]))  # without a network, the file has the backbone's own name
    if not spec.network:
        found: Dense = spec.build(feature_set, device, facts["sha256"], channels)
        return found
    model = create(timm, facts["architecture"], feature_set, channels)
    if len(facts["mean"]) != channels:  # else it was trained on so many
        state = adapted(timm, state, model, feature_set, channels)
    wanted = model.state_dict()
    unfit = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
    if unfit:
        raise WeightsError(
            f"{weights}: {len(unfit)} of {len(wanted)} tensors do not fit timm's {facts['architecture']} "
            f"({', '.join(unfit[:3])}); delete it and run again"
        )
    model.load_state_dict({key: state[key] for key in wanted})
    mean, std = normalisation(facts, channels)
    return Backbone(model, feature_set, mean, std, device, facts["sha256"])


def untrained(facts: Mapping[str, Any], feature_set: FeatureSet, device: torch.device) -> Backbone:
    """The network that `facts` describes (architecture, mean, std) with random weights, to be filled from a file."""
    model = create(import_timm(), facts["architecture"], feature_set)
    return Backbone(model, feature_set, facts["mean"], facts["std"], device)


def create(timm: Any, architecture: str, feature_set: FeatureSet, channels: int = RGB, drop_path: float = 0.0) -> Any:
    """The network of timm for any image size: ViTs interpolate their position embeddings to the grid at hand."""
    options: dict[str, Any] = {"num_classes": 0, "pretrained": False}
    if drop_path:
        options["drop_path_rate"] = drop_path
    if feature_set.stride is not None:
        options["output_stride"] = feature_set.stride
    if channels != RGB:
        options["in_chans"] = channels
    try:
        try:
            return timm.create_model(architecture, dynamic_img_size=True, **options)
        except TypeError:
            return timm.create_model(architecture, **options)
    except (TypeError, AssertionError, NotImplementedError, ValueError) as error:
        if channels != RGB and "in_chans" in str(error):
            raise refused(feature_set, channels, " ".join(str(error).split())) from None
        if feature_set.stride is None:
            raise
        raise _no_stride(feature_set, " ".join(str(error).split())) from None


def _no_stride(feature_set: FeatureSet, reason: str) -> ConfigError:
    return ConfigError(
        f"features.<name>.stride: {feature_set.backbone} can not give stride {feature_set.stride} ({reason}); "
        "leave it out, or use a CNN whose last level dilates (16 or 8)"
    )
