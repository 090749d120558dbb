"""A backbone that learns together with its head (`unfreeze`).

Nothing of the network looks at other images of a batch (batch norms keep the statistics that they came with), so a
batch goes through it in pieces: forward without a graph, and again with one when the gradient of the tokens is known.
The network's activations are those of a piece a thread, whatever the batch; only tokens and head hold the whole batch,
whose loss IIC and the clusterings need. Pieces are of one size and their gradients are added in order, so no number
depends on the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from maskmill.backbones.network import Backbone, resample_positions, untrained
from maskmill.errors import ConfigError
from maskmill.numerics.blocks import ordered
from maskmill.recipe.feature_set import STORING, FeatureSet

PIECE = {"cpu": 4, "cuda": 32}  # images that are computed at once
R = TypeVar("R")


@dataclass(frozen=True)
class Encoder:
    """A backbone that learns.

    Attributes:
        facts: architecture, mean and std of its weights file. threads: of the CPU.
    """

    backbone: Backbone
    facts: dict[str, Any]
    threads: int = 1

    @classmethod
    def of(cls, spec: Mapping[str, Any], device: torch.device) -> Encoder:
        """From the `encoder` of a head's metadata, with random weights, to be filled from the head's tensors."""
        feature_set = FeatureSet.model_validate(spec["feature_set"])
        return cls(untrained(spec["facts"], feature_set, device), dict(spec["facts"]))

    @property
    def spec(self) -> dict[str, Any]:
        """What `of` needs."""
        return {"facts": self.facts, "feature_set": self.backbone.set.model_dump(mode="json", exclude=STORING)}


class BackboneWithHead(nn.Module):
    """A backbone up to a level, and a head on it: RGB 0..255 [n, 3, H, W] -> [n, c, h, w].

    Attributes:
        model: timm's network; all of its weights learn but a ViT's position embeddings. head: see `small_head`.
        positions: those embeddings on the grid that they were made for; a grid of another size gets them resampled.
    """

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.model: nn.Module = encoder.backbone.model
        self.positions: torch.Tensor | None
        self._take_positions(encoder.backbone)
        self.model.requires_grad_(True)

    def _take_positions(self, backbone: Backbone) -> None:
        """Move the position embeddings of a ViT out of its parameters: they change their size with the grid."""
        self.register_buffer("positions", None)
        if not backbone.is_vit:
            return
        positions = backbone.positions
        if positions.native is None or positions.native.ndim != 3 or not positions.dynamic:
            raise ConfigError(f"adapt.unfreeze: {backbone.set.backbone} has no position embeddings that can be laid on "
                              "another grid; use a ViT that has, or a CNN, or leave it frozen")  # fmt: skip
        self.grid = positions.native_grid
        self.register_buffer("positions", positions.native.detach().clone())
        model: Any = self.model
        del model.pos_embed

    def train(self, mode: bool = True) -> BackboneWithHead:
        """The backbone stays in evaluation mode: its batch norms keep their statistics."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The head's maps; the head sees the whole batch, the backbone sees it in pieces."""
        backbone = self.encoder.backbone
        if self.positions is not None:
            h, w = x.shape[2] // backbone.stride, x.shape[3] // backbone.stride
            model: Any = self.model
            model.pos_embed = resample_positions(self.positions, self.grid, (h, w))
            model.patch_embed.grid_size = (h, w)
        learning = [p for p in self.model.parameters() if p.requires_grad]
        if torch.is_grad_enabled() and learning:
            return torch.as_tensor(self.head(_Pieces.apply(self, x, *learning)))  # type: ignore[no-untyped-call]
        return torch.as_tensor(self.head(torch.cat(list(self.by_pieces(self.tokens, [x])))))

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] of one piece, float32."""
        return self.encoder.backbone.maps(x.contiguous(memory_format=torch.channels_last)).float()

    def by_pieces(self, function: Callable[..., R], batches: Sequence[torch.Tensor]) -> Iterator[R]:
        """`function` of the pieces of tensors of equal length, in order, computed in threads.

        The threads take over the caller's gradient, inference and autocast modes. No more results than threads are
        held at once.
        """
        kind = batches[0].device.type
        pieces = list(zip(*(batch.split(PIECE[kind]) for batch in batches), strict=True))
        learning, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        half = torch.is_autocast_enabled(kind)

        def one(piece: tuple[torch.Tensor, ...]) -> R:
            cast = torch.autocast(kind, torch.bfloat16, enabled=half)
            with torch.inference_mode(inference), torch.set_grad_enabled(learning), cast:
                return function(*piece)

        workers = min(len(pieces), self.encoder.threads if kind == "cpu" else 1)
        return ordered(one, pieces, workers, each=1)


class _Pieces(torch.autograd.Function):
    """The backbone's tokens of a batch without a graph; backward computes every piece again."""

    @staticmethod
    def forward(ctx: Any, network: BackboneWithHead, x: torch.Tensor, *learning: nn.Parameter) -> torch.Tensor:
        ctx.network, ctx.learning, ctx.half = network, learning, torch.is_autocast_enabled(x.device.type)
        ctx.save_for_backward(x)
        return torch.cat(list(network.by_pieces(network.tokens, [x])))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,) = ctx.saved_tensors

        def one(part: torch.Tensor, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            with torch.enable_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=ctx.half):
                tokens = ctx.network.tokens(part)
            return torch.autograd.grad(tokens, ctx.learning, gradient, allow_unused=True)

        total: list[torch.Tensor | None] = [None for _ in ctx.learning]
        for found in ctx.network.by_pieces(one, [x, gradients[0]]):
            for i, more in enumerate(found):
                before = total[i]
                total[i] = more if before is None else before if more is None else before + more
        return None, None, *total
