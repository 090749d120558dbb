"""ACSeg's concept generator."""

from __future__ import annotations

import torch
from torch import nn

from maskmill.adapt._attention import Attention
from maskmill.adapt._modules import full, unit
from maskmill.device import float32


class ConceptBlock(nn.Module):
    """Cross-attention of concepts to tokens, self-attention among concepts, feed-forward; layer norm after each."""

    def __init__(self, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.across, self.among = Attention(depth, heads), Attention(depth, heads)
        self.forwards = nn.Sequential(nn.Linear(depth, hidden), nn.ReLU(), nn.Linear(hidden, depth))
        self.norms = nn.ModuleList(nn.LayerNorm(depth) for _ in range(3))

    def forward(self, p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Concepts [n, k, d], updated from the tokens [n, t, d]."""
        p = self.norms[0](p + self.across.few(p, x))
        p = self.norms[1](p + self.among(p, p)[0])
        return torch.as_tensor(self.norms[2](p + self.forwards(p)))


class ConceptHead(nn.Module):
    """k learnt vectors are adapted to each image; a token's share in each is its cosine, 0 where negative."""

    def __init__(self, depth: int, concepts: int, blocks: int, heads: int, hidden: int, centre: bool) -> None:
        super().__init__()
        self.centre = centre
        self.start = nn.Parameter(torch.randn(concepts, depth))
        self.blocks = nn.ModuleList(ConceptBlock(depth, heads, hidden) for _ in range(blocks))

    def concepts(self, x: torch.Tensor) -> torch.Tensor:
        """Concepts [n, k, d] of tokens [n, t, d]."""
        seen = nn.functional.layer_norm(x, x.shape[2:])
        p = self.start.expand(len(x), -1, -1)
        for block in self.blocks:
            p = block(p, seen)
        return p

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, t, d] of x [n, d, h, w], less the mean of their image where asked for."""
        tokens = x.flatten(2).mT
        return tokens - tokens.mean(1, keepdim=True) if self.centre else tokens

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> assignments [n, k, h, w] in 0..1; they need not sum to one."""
        tokens = self.tokens(x)
        concepts = self.concepts(tokens)
        with float32(x.device):  # the sign of a cosine decides whether it counts
            cosine = torch.einsum("nkd,ntd->nkt", unit(full(concepts), 2), unit(full(tokens), 2))
        return cosine.relu().unflatten(2, x.shape[2:])
