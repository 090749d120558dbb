"""A backbone that is trained as a whole: any timm ViT or CNN at its last level, with gradients, in several threads.

`maskmill.backbones.network.Backbone` reads features of a frozen network; this is the same network while it learns, seen
at the level that a feature set reads by default. Several threads may call one network at once: position embeddings are
resampled for each call, stochastic depth draws from the generator of the call, and batch norms change no state. They
use the statistics that came with the weights, or those of the micro-batch (`estimate_statistics` then finds those that
a frozen network needs).
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import threading
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from maskmill.backbones._channels import RGB, adapted, normalisation
from maskmill.backbones.network import create, import_timm, is_plain, resample_positions
from maskmill.errors import ConfigError, WeightsError
from maskmill.recipe.feature_set import FeatureSet

__all__ = ["Learning", "Maps", "Origin", "build", "drawing", "estimate_statistics", "normalisation"]
_call = threading.local()  # of the pass that a thread computes: draws, masked cells, and whether attention is wanted


class Maps(NamedTuple):
    """What a network says of images: tokens [n, d, h, w], cls [n, d], and the attention of the cls token.

    Attributes:
        cls: the cls token, or the mean over the tokens of a network without one.
        attention: [n, heads, h, w], softmax over the patches and the prefix tokens; None unless it was asked for.
    """

    tokens: torch.Tensor
    cls: torch.Tensor
    attention: torch.Tensor | None = None


@dataclass(frozen=True)
class Origin:
    """What a network is made from.

    Attributes:
        feature_set: names the backbone, for messages. architecture: timm's name. state: its tensors in timm's names;
            None starts from scratch. channels: of the pictures. stride: output stride of a CNN, None: its own.
        drop_path: stochastic depth of the student. keeps_norms: batch norms keep the statistics of `state`.
    """

    feature_set: FeatureSet
    architecture: str
    state: Mapping[str, torch.Tensor] | None = None
    channels: int = RGB
    stride: int | None = None
    drop_path: float = 0.0
    keeps_norms: bool = False


class Learning(nn.Module):
    """A timm network that learns.

    Attributes:
        model: timm's network. depth: length d of a token. stride: pixels a token; sides of a ViT's pictures are
            multiples of it. is_vit: it has blocks. heads: of the attention of the cls token in the last block; None
            without plain attention or without a cls token.
        mask_token: [d], stands for hidden patches; None unless `add_mask_token` was called.
        keeps_norms: batch norms use the statistics that came with the weights, also in training; else those of the
            micro-batch.
    """

    def __init__(self, model: Any, keeps_norms: bool = False) -> None:
        super().__init__()
        self.keeps_norms = keeps_norms
        self.model = model
        self.is_vit = hasattr(model, "blocks") and hasattr(getattr(model, "patch_embed", None), "grid_size")
        self._norm = True
        self.heads: int | None = None
        self.mask_token: nn.Parameter | None = None
        if self.is_vit:
            self._prepare_vit(model)
        for norm in () if keeps_norms else _batch_norms(model):
            norm.track_running_stats = False  # in training: statistics of the micro-batch, and none are kept
        self.train(self.training)
        _seed_drop_paths(model)
        try:
            self.depth, self.stride = self._probe()
        except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(
                f"pretrain: {type(model).__name__} can not be trained here ({reason}); name another backbone, such as "
                "a vit_..., resnet..., convnext... or efficientnet... of timm"
            ) from None

    def train(self, mode: bool = True) -> Learning:
        """As usual; batch norms that keep their statistics never leave the mode of evaluation."""
        super().train(mode)
        for norm in _batch_norms(self) if self.keeps_norms else ():
            norm.eval()
        return self

    def _prepare_vit(self, model: Any) -> None:
        positions = getattr(model, "pos_embed", None)
        if positions is not None and (positions.ndim != 3 or not getattr(model, "dynamic_img_size", False)):
            raise ConfigError(
                f"pretrain: {type(model).__name__} has position embeddings that can not be laid on another grid; use a "
                "ViT that has, or a CNN"
            )
        if getattr(type(model), "_pos_embed", None) is _timm_positions():  # others do more than add positions
            model._pos_embed = types.MethodType(_with_positions, model)
        attention = getattr(model.blocks[-1], "attn", None)
        if attention is not None and is_plain(model, attention):
            self.heads = int(attention.num_heads)
            attention.register_forward_pre_hook(_watched)

    def _probe(self) -> tuple[int, int]:
        """(depth, stride), seen on an empty picture. What the last level does not depend on does not learn."""
        first = next(self.model.parameters())
        channels = int(next(p for p in self.model.parameters() if p.ndim == 4).shape[1])
        side = int(self.model.patch_embed.patch_size[0]) * 2 if self.is_vit else 128
        with torch.enable_grad():
            tokens, cls, _ = self(torch.zeros(2, channels, side, side, device=first.device))
            parameters = list(self.model.parameters())
            found = torch.autograd.grad((tokens.sum() + cls.sum()), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, found, strict=True):
            parameter.requires_grad_(gradient is not None)
        return int(tokens.shape[1]), side // int(tokens.shape[2])

    def add_mask_token(self) -> None:
        """Give the network a token that stands for hidden patches.

        Raises:
            ConfigError: it is no ViT.
        """
        if not self.is_vit or "_pos_embed" not in vars(self.model):
            raise ConfigError("pretrain: hidden patches need a plain ViT; set the weight of the patch loss to 0")
        self.mask_token = nn.Parameter(torch.zeros(self.depth, device=next(self.model.parameters()).device))
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, x: torch.Tensor, masked: torch.Tensor | None = None, attention: bool = False) -> Maps:
        """Tokens and cls of normalised pictures.

        Args:
            x: [n, C, H, W] float32. masked: bool [n, h, w], patches that the network does not see (`add_mask_token`).
            attention: also the attention of the cls token in the last block, without a gradient.

        Raises:
            ConfigError: the attention is asked for, but the network has none.
        """
        if attention and self.heads is None:
            raise ConfigError("pretrain: needs a ViT with a cls token and plain attention; name another backbone")
        _call.masked, _call.mask_token = masked, self.mask_token
        _call.watching, _call.seen = attention, None
        try:
            found = self._level(x if self.is_vit else x.contiguous(memory_format=torch.channels_last))
            seen = _call.seen
        finally:
            _call.masked = _call.mask_token = _call.seen = None
            _call.watching = False
        tokens, prefix = found if isinstance(found, tuple) else (found, None)
        has_cls = prefix is not None and getattr(self.model, "cls_token", None) is not None
        cls = prefix[:, 0] if has_cls else tokens.mean((2, 3))
        return Maps(tokens, cls, self._attention(seen, tokens) if attention else None)

    def _level(self, x: torch.Tensor) -> Any:
        """The last level: [n, d, h, w], or ([n, d, h, w], prefix tokens [n, p, d])."""
        forward = self.model.forward_intermediates
        options = {"norm": self._norm, "stop_early": True, "intermediates_only": True, "return_prefix_tokens": True}
        known = inspect.signature(forward).parameters
        try:
            return forward(x, indices=[-1], **{k: v for k, v in options.items() if k in known})[0]
        except (AssertionError, RuntimeError) as error:
            if not self._norm or "normalization" not in str(error):
                raise
            self._norm = False  # hierarchical networks: no one norm fits every level
            return self._level(x)

    @torch.no_grad()
    def _attention(self, seen: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Softmax attention of the cls token [n, heads, h, w], of the input of the last attention [n, T, d]."""
        attention, heads = self.model.blocks[-1].attn, int(self.heads or 1)
        query, key, _ = attention.qkv(seen).chunk(3, -1)
        n, rows, d = key.shape
        query = query[:, 0].view(n, heads, d // heads)
        key = key.view(n, rows, heads, d // heads)
        weights = (torch.einsum("nhc,nthc->nht", query, key).float() / (d // heads) ** 0.5).softmax(-1)
        h, w = tokens.shape[2:]
        return weights[..., -h * w :].reshape(n, heads, h, w)

    def copy(self) -> Learning:
        """A teacher: the same weights, without gradient and without stochastic depth."""
        found = copy.deepcopy(self).requires_grad_(False)
        for module in found.modules():
            if isinstance(module, SeededDropPath):
                module.rate = 0.0
        return found

    def state(self) -> dict[str, torch.Tensor]:
        """The weights in timm's names."""
        return {name: value.detach() for name, value in self.model.state_dict().items()}


def build(origin: Origin) -> Learning:
    """The network at its first step; random weights come from torch's global generator.

    Raises:
        ConfigError: a stride or a number of channels that the architecture does not have. WeightsError: the weights do
            not fit it.
    """
    timm, wanted = import_timm(), origin.feature_set.model_copy(update={"stride": origin.stride})
    try:
        model = create(timm, origin.architecture, wanted, origin.channels, origin.drop_path)
    except (TypeError, RuntimeError) as error:
        hint = "set pretrain.drop_path: 0" if "drop_path" in str(error) else "name another backbone"
        raise ConfigError(
            f"pretrain: timm can not make {origin.architecture} ({' '.join(str(error).split())[:120]}); {hint}"
        ) from None
    if origin.state is not None:
        state = dict(origin.state)
        own = model.state_dict()
        if any(name not in state or state[name].shape != value.shape for name, value in own.items()):
            state = adapted(timm, state, model, wanted, origin.channels)
        unfit = [name for name, value in own.items() if name not in state or state[name].shape != value.shape]
        if unfit:
            raise WeightsError(f"pretrain: {unfit[0]} does not fit timm's {origin.architecture}; delete the weights "
                               "file and run again")  # fmt: skip
        model.load_state_dict({name: state[name] for name in own})
    found = Learning(model, origin.keeps_norms)
    return found if found.is_vit else found.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextlib.contextmanager
def drawing(draws: torch.Generator) -> Iterator[None]:
    """Within: stochastic depth of this thread draws from a generator; outside nothing is dropped."""
    _call.draws = draws
    try:
        yield
    finally:
        _call.draws = None


class SeededDropPath(nn.Module):
    """Stochastic depth that draws from the generator of the pass (`drawing`), whatever other threads draw."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The branch of a block, or nothing of it, image by image; what stays is scaled."""
        draws: torch.Generator | None = getattr(_call, "draws", None)
        if draws is None or self.rate == 0 or not self.training:
            return x
        keep = torch.rand(len(x), generator=draws, device=x.device) >= self.rate
        return x * (keep / (1 - self.rate)).view(-1, *[1] * (x.ndim - 1)).to(x.dtype)


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Give batch norms the mean statistics of some micro-batches of pictures, which a frozen network uses.

    Networks without batch norms, or whose batch norms keep their statistics, stay as they are, and no batch is read.
    """
    norms = _batch_norms(network)
    if not norms or getattr(network, "keeps_norms", False):
        return
    training = network.training
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.track_running_stats, norm.momentum = True, None  # None: the mean over all batches
    network.train()
    for batch in batches:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.track_running_stats, norm.momentum = False, momentum
    network.train(training)


def _batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def _seed_drop_paths(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "DropPath":
                setattr(parent, name, SeededDropPath(float(getattr(child, "drop_prob", 0.0) or 0.0)))


def _watched(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Before the last attention: its input is kept where the attention is asked for."""
    if getattr(_call, "watching", False):
        _call.seen = arguments[0].detach()


def _timm_positions() -> Any:
    """How timm's plain ViT adds its positions."""
    import_timm()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer._pos_embed


def _with_positions(model: Any, x: torch.Tensor) -> torch.Tensor:
    """The `_pos_embed` of timm for patches [n, h, w, d]: hidden ones replaced, positions resampled as when frozen."""
    n, h, w, d = x.shape
    masked = getattr(_call, "masked", None)
    if masked is not None:
        x = torch.where(masked[..., None], _call.mask_token.to(x.dtype), x)
    rows = x.reshape(n, h * w, d)
    prefix = [each.expand(n, -1, -1) for each in (model.cls_token, model.reg_token) if each is not None]
    if model.pos_embed is None:
        return torch.cat([*prefix, rows], 1)
    positions = resample_positions(model.pos_embed, model.patch_embed.grid_size, (h, w))
    if model.no_embed_class:  # positions of patches only
        return torch.as_tensor(model.pos_drop(torch.cat([*prefix, rows + positions], 1)))
    return torch.as_tensor(model.pos_drop(torch.cat([*prefix, rows], 1) + positions))
