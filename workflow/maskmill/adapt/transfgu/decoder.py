"""The decoder: tokens and class embeddings see each other in two blocks; logits are cosines, normed over the classes.

Strudel, Garcia, Laptev and Schmid, Segmenter (ICCV 2021), with TransFGU's sizes and initial weights.
"""

from __future__ import annotations

import torch
from torch import nn

from maskmill.adapt._modules import Prototypes, full, unit
from maskmill.device import float32

START = 0.02  # deviation of the initial weights of linear layers, cut at two units
RATIO = 4  # hidden units of a block's MLP, in widths


class Block(nn.Module):
    """A pre-norm transformer block without biases of queries, keys and values; dropout by a generator."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, RATIO * width), nn.Linear(RATIO * width, width)

    def forward(self, x: torch.Tensor, draws: torch.Generator | None = None) -> torch.Tensor:
        """Tokens [n, t, d] -> [n, t, d]; nothing is dropped without a generator."""
        parts = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts  # [n, heads, t, width]
        weights = (query @ key.mT * query.shape[3] ** -0.5).softmax(3)
        context = (self._drop(weights, draws) @ value).transpose(1, 2).flatten(2)
        x = x + self._drop(self.proj(context), draws)
        hidden = self._drop(nn.functional.gelu(self.fc1(self.norm2(x))), draws)
        return x + self._drop(self.fc2(hidden), draws)

    def _drop(self, x: torch.Tensor, draws: torch.Generator | None) -> torch.Tensor:
        if draws is None or self.dropout <= 0:
            return x
        keep = torch.rand(x.shape, generator=draws, device=x.device) >= self.dropout
        return x * (keep / (1 - self.dropout)).to(x.dtype)


class Decoder(nn.Module):
    """Tokens [n, d, h, w] -> logits [n, k, h, w].

    Attributes:
        embeddings: of the classes [1, k, width].
        prototypes: the unit vectors of the classes among the logits [k, k]: the nearest one names the likeliest class.
    """

    def __init__(self, depth: int, classes: int, width: int, heads: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(blocks)])
        self.enter = nn.Linear(depth, width)
        self.of_tokens = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.of_classes = nn.Parameter(width**-0.5 * torch.randn(width, width))
        self.norm, self.over_classes = nn.LayerNorm(width), nn.LayerNorm(classes)
        self.apply(_start)
        # torch's orthogonal_ sees the published [1, k, width] as one row: all embeddings together have length 1.
        self.embeddings = nn.Parameter(unit(torch.randn(1, classes * width)).view(1, classes, width))
        self.prototypes = Prototypes(classes, classes).requires_grad_(False)
        self.prototypes.weight.copy_(torch.eye(classes))

    def forward(self, x: torch.Tensor, draws: torch.Generator | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [n, k, h, w], and what the classes have become [n, k, width], of unit length; both float32."""
        n, _, h, w = x.shape
        tokens = self.enter(x.flatten(2).mT)
        seen = torch.cat([tokens, self.embeddings.expand(n, -1, -1)], 1)
        for block in self.blocks:
            seen = block(seen, draws)
        seen = self.norm(seen)
        with float32(x.device):  # in bfloat16 near cosines are equal
            seen = full(seen)
            tokens = unit(seen[:, : h * w] @ self.of_tokens, 2)
            classes = unit(seen[:, h * w :] @ self.of_classes, 2)
            logits = self.over_classes(tokens @ classes.mT)
        return logits.mT.unflatten(2, (h, w)), classes

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> logits [n, k, h, w]; nothing is dropped."""
        return self(x)[0]  # type: ignore[no-any-return]


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=START)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
