"""Multi-head attention with any number of heads, and a cheaper exact form of it for few queries."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Attention(nn.Module):
    """Attention of queries [n, q, d] to tokens [n, t, d]; a head has ceil(d / heads) dimensions.

    With d divisible by `heads` this is `torch.nn.MultiheadAttention`.
    """

    def __init__(self, depth: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, -(-depth // heads)
        inner = heads * self.width
        self.query, self.key, self.value = (nn.Linear(depth, inner) for _ in range(3))
        self.out = nn.Linear(inner, depth)

    def forward(
        self,
        q: torch.Tensor,
        x: torch.Tensor,
        causal: bool = False,
        values: torch.Tensor | None = None,
        hide: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Output [n, q, d] and weights [n, heads, q, t]; causal: query i sees tokens 0 to i.

        Args:
            values: [n, t, d], what is averaged; None: x. hide: a dropout of the weights.
        """
        query, key, value = (
            layer(part).unflatten(2, (self.heads, self.width)).transpose(1, 2)
            for layer, part in ((self.query, q), (self.key, x), (self.value, x if values is None else values))
        )  # [n, heads, q or t, width]
        scores = query @ key.transpose(2, 3) * self.width**-0.5
        if causal:
            later = torch.ones(q.shape[1], x.shape[1], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        weights = scores.softmax(3)
        if hide is not None:
            weights = hide(weights)
        return self.out((weights @ value).transpose(1, 2).flatten(2)), weights

    def few(self, q: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The output of `forward` without computing the keys and values of all tokens; cheaper where q is small.

        A score <q, W x> equals <W^T q, x>, and a weighted mean of values W x equals W times the weighted mean of x. So
        the cost falls from t * d * d to q * t * d. The keys' bias adds the same number to all scores of a query, which
        the softmax cancels, so it is left out.
        """
        query = self.query(q).unflatten(2, (self.heads, self.width))  # [n, q, heads, width]
        shape = (self.heads, self.width, x.shape[2])
        seen = torch.einsum("nqhe,hed->nhqd", query, self.key.weight.view(shape))
        weights = (torch.einsum("nhqd,ntd->nhqt", seen, x) * self.width**-0.5).softmax(3)
        mean = torch.einsum("nhqt,ntd->nqhd", weights, x)
        value = torch.einsum("nqhd,hed->nqhe", mean, self.value.weight.view(shape)).flatten(2) + self.value.bias
        return torch.as_tensor(self.out(value))
