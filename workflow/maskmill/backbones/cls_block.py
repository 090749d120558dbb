"""A block of a ViT with the attention of its cls token in the open, and what the output answers to it.

timm computes attention in one fused operation that shows no weights. Here the row of the cls token is computed by hand:
it is all that the cls token's output depends on. For a head with weights a_j over the tokens, context c = sum a_j v_j
and a loss L of the output, dL/da_j is the product of dL/dc and v_j, so one small backward pass (a projection and an
MLP for one token) gives the gradient for all tokens.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from maskmill.backbones.network import Backbone, is_plain
from maskmill.errors import ConfigError

if TYPE_CHECKING:
    import torch

SAME = 1e-3  # largest difference between timm's cls token and ours, in its standard deviations
PROBE = 4  # patches a side of the image on which they are compared


class ClsBlock:
    """The block of a feature set (its `layer`), on one grid of patches; several threads may use it at once.

    Args:
        backbone: a copy of its network is made, as the position embeddings are set for the grid. size: pixels (H, W).
        who: the key that asks, for messages.

    Raises:
        ConfigError: the network is no ViT with a cls token and plain attention, or the first block is asked for.
    """

    def __init__(self, backbone: Backbone, size: tuple[int, int], who: str) -> None:
        name = backbone.set.backbone
        if not backbone.is_vit:
            raise ConfigError(f"{who}: {name} is no ViT; name a feature set of a ViT with a cls token, such as "
                              "vit_small_patch8_224.dino")  # fmt: skip
        depth = len(backbone.model.blocks)
        self.layer = backbone.set.layer % depth
        block = backbone.model.blocks[self.layer]
        if not (is_plain(backbone.model, getattr(block, "attn", None)) and _is_usual(block)):
            raise ConfigError(f"{who}: {name} has no cls token with plain attention; name a feature set of a ViT that "
                              "has, such as vit_small_patch8_224.dino")  # fmt: skip
        if not (backbone.positions.dynamic and self.layer):
            what = "is the first block" if backbone.positions.dynamic else "takes images of one size only"
            raise ConfigError(f"{who}: {name}, layer {backbone.set.layer}, {what}; name another layer or backbone")
        backbone = copy.deepcopy(backbone)
        self.model, self.mean, self.std = backbone.model, backbone.mean, backbone.std
        self.block: Any = self.model.blocks[self.layer]
        self.heads, self.prefix = int(self.block.attn.num_heads), int(self.model.num_prefix_tokens)
        self.stride, self.positions = backbone.stride, backbone.positions
        self._compare(f"{who}: {name}")
        self.grid = size[0] // self.stride, size[1] // self.stride
        self.positions.fit(*self.grid)

    def start(self, x: torch.Tensor) -> torch.Tensor:
        """Photos [n, 3, H, W] of 0..255 -> the tokens that the block sees [n, t, d], prefix tokens first."""
        import torch

        with torch.no_grad():
            x = (x / 255 - self.mean) / self.std
            options = {"indices": [self.layer - 1], "norm": False, "stop_early": True, "intermediates_only": True}
            maps, prefix = self.model.forward_intermediates(x, return_prefix_tokens=True, **options)[0]
            return torch.cat([prefix, maps.flatten(2).mT], 1)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Photos [n, 3, H, W] of 0..255 -> tokens [n, d, h, w] of the feature set."""
        import torch

        with torch.no_grad():
            found = self.model.norm(self.block(self.start(x)))[:, self.prefix :]
            return torch.as_tensor(found.mT.unflatten(2, self.grid))

    def attention(self, start: torch.Tensor) -> torch.Tensor:
        """Attention of the cls token to the patches [n, heads, h * w], of what `start` gives."""
        import torch

        with torch.no_grad():
            return self._row(start)[0][:, :, self.prefix :]

    def cls(self, start: torch.Tensor) -> torch.Tensor:
        """The cls token after block and norm [n, d], of what `start` gives."""
        import torch

        with torch.no_grad():
            weights, values = self._row(start)
            return self._output(start[:, 0], _context(weights, values))

    def gradients(self, start: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How 1 - cos(cls token, target) answers to the attention of the cls token, for k targets [k, d].

        Returns:
            the attention [n, heads, h * w], and the gradient of each loss with respect to it, averaged over the heads
            [n, k, h * w]: where it is negative, more attention brings the cls token nearer to the target.
        """
        import torch

        with torch.no_grad():
            weights, values = self._row(start)
            context = _context(weights, values)[:, None].expand(-1, len(targets), -1).contiguous()  # [n, k, d]
        with torch.enable_grad():
            context.requires_grad_()
            output = self._output(start[:, None, 0], context)
            loss = 1 - torch.nn.functional.cosine_similarity(output, targets, dim=2)
            (answer,) = torch.autograd.grad(loss.sum(), context)
        by_head = answer.unflatten(2, (self.heads, -1))  # [n, k, heads, width]
        found = torch.einsum("nkhe,nhte->nkt", by_head, values[:, :, self.prefix :]) / self.heads
        return weights[:, :, self.prefix :], found

    def _row(self, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of the cls token to all tokens [n, heads, t], and their values [n, heads, t, width]."""
        attention = self.block.attn
        parts = attention.qkv(self.block.norm1(start)).unflatten(2, (3, self.heads, -1))  # [n, t, 3, heads, width]
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = (query[:, :, :1] @ key.mT)[:, :, 0] * attention.scale
        return scores.softmax(2), value

    def _output(self, cls: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The cls token after block and norm, from what it was [..., d] and the values that it saw [..., d]."""
        block = self.block
        x = cls + block.ls1(block.attn.proj(context))
        return self.model.norm(x + block.ls2(block.mlp(block.norm2(x))))  # type: ignore[no-any-return]

    def _compare(self, who: str) -> None:
        """Refuse a block that computes something else than is written here."""
        import torch

        side = PROBE * self.stride
        self.positions.fit(PROBE, PROBE)
        ramp = torch.linspace(0, 255, 3 * side * side, device=self.mean.device).view(1, 3, side, side)
        start = self.start(ramp)
        with torch.no_grad():
            expected = self.model.norm(self.block(start))[:, 0]
        if (self.cls(start) - expected).abs().max() > SAME * expected.std():
            raise ConfigError(f"{who} has another block than a plain ViT's; name a feature set of a plain one")


def _is_usual(block: Any) -> bool:
    """Whether a block has the parts that `ClsBlock` uses; what they compute is compared afterwards."""
    parts = [getattr(block, name, None) for name in ("norm1", "ls1", "norm2", "mlp", "ls2")]
    projections = [getattr(block.attn, name, None) for name in ("qkv", "proj")]
    return all(part is not None for part in [*parts, *projections])


def _context(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Values [n, heads, t, width] averaged by weights [n, heads, t], all heads side by side [n, d]."""
    import torch

    return torch.einsum("nht,nhte->nhe", weights, values).flatten(1)
