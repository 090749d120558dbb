"""Slot attention (Locatello et al., NeurIPS 2020) and DINOSAUR's decoders: tokens -> slots -> tokens, with masks.

Weights start as in DINOSAUR's code: biases of its multi-layer perceptrons and attentions at 0, projections of the
transformer decoder by Xavier's rule, everything else as torch starts it.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from maskmill.adapt._attention import Attention
from maskmill.images.interpolate import matrix

N = TypeVar("N", bound=nn.Module)


def unbiased(module: N) -> N:
    """The module with all biases of its linear layers at 0; the weights stay as they were drawn."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return module


def xavier(*layers: nn.Linear) -> nn.Linear:
    """Draw the weights of linear layers by Xavier's rule, as one matrix of all of their rows; the first of them."""
    reach = (6 / (layers[0].in_features + sum(layer.out_features for layer in layers))) ** 0.5
    for layer in layers:
        nn.init.uniform_(layer.weight, -reach, reach)
    return layers[0]


class SlotAttention(nn.Module):
    """k slots, drawn from one learnt normal distribution, that compete for the inputs.

    Attributes:
        draw: [k, c], the standard normal draw that slots start from where none is given.
    """

    def __init__(self, size: int, slots: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        reach = (3 / size) ** 0.5  # Xavier's rule for the published shape [1, 1, size]
        self.mean, self.log_sigma = (nn.Parameter(torch.empty(1, size).uniform_(-reach, reach)) for _ in range(2))
        self.draw: torch.Tensor
        self.register_buffer("draw", torch.randn(slots, size))
        self.norm_input, self.norm_slots, self.norm_mlp = (nn.LayerNorm(size) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(size, size, bias=False) for _ in range(3))
        self.update = nn.GRUCell(size, size)
        self.mlp = unbiased(nn.Sequential(nn.Linear(size, 4 * size), nn.ReLU(), nn.Linear(4 * size, size)))

    def forward(self, x: torch.Tensor, draw: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots [n, k, c] and their masks [n, k, t], which sum to one over slots, of inputs [n, t, c].

        Args:
            draw: standard normal [n, k, c].
        """
        n, k, c = len(x), *self.draw.shape
        x = self.norm_input(x)
        key, value = self.key(x), self.value(x)
        slots = self.mean + self.log_sigma.exp() * (self.draw.expand(n, k, c) if draw is None else draw)
        for _ in range(self.iterations):
            masks = (self.query(self.norm_slots(slots)) @ key.mT * c**-0.5).softmax(1)  # slots compete
            weights = masks + 1e-8
            seen = weights / weights.sum(2, keepdim=True) @ value
            slots = self.update(seen.reshape(n * k, c), slots.reshape(n * k, c).to(seen.dtype)).view(n, k, c)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots, masks


class MlpDecoder(nn.Module):
    """Each slot decodes all tokens from their positions alone; a softmax over the slots mixes what they decode."""

    def __init__(self, depth: int, size: int, width: int, layers: int, side: int) -> None:
        super().__init__()
        self.place = nn.Parameter(0.02 * torch.randn(side, side, size))
        hidden = [part for i in range(layers) for part in (nn.Linear(width if i else size, width), nn.ReLU())]
        self.hidden, self.alpha, self.out = nn.Sequential(*hidden), nn.Linear(width, 1), nn.Linear(width, depth)
        unbiased(self)

    def forward(self, slots: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [n, d, h, w] from slots [n, k, c], and masks [n, k, h * w]; of x only the grid is used.

        The last layer is linear and the masks sum to one, so it is applied to the mixture: the same at 1/k of the cost.
        """
        h, w = x.shape[2:]
        body = self.hidden(slots[:, :, None] + self.places(h, w))  # [n, k, t, width]
        masks = self.alpha(body).squeeze(3).softmax(1)
        mixed = torch.einsum("nkt,nktf->ntf", masks, body)
        return self.out(mixed).mT.unflatten(2, (h, w)), masks

    def places(self, h: int, w: int) -> torch.Tensor:
        """Positions [h * w, c], laid bilinearly on the grid."""
        side = len(self.place)
        place: torch.Tensor = self.place
        if (h, w) != (side, side):
            rows, columns = (torch.from_numpy(matrix(side, n)).to(place.device) for n in (h, w))
            place = torch.einsum("yi,ijc,xj->yxc", rows, place, columns)
        return place.flatten(0, 1)


class TransformerDecoder(nn.Module):
    """Token after token, row by row, from the tokens before it and the slots (the decoder of SLATE)."""

    def __init__(self, depth: int, size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.begin = nn.Parameter(torch.randn(1, 1, depth) * depth**-0.5)
        self.tokens = nn.Sequential(xavier(nn.Linear(depth, width, bias=False)), nn.LayerNorm(width))
        self.memory = nn.Sequential(xavier(nn.Linear(size, width, bias=False)), nn.LayerNorm(width))
        first = DecoderLayer(width, heads)  # torch's decoder copies one layer: all start from the same weights
        self.layers = nn.ModuleList(copy.deepcopy(first) for _ in range(layers))
        self.out = xavier(nn.Linear(width, depth))
        nn.init.zeros_(self.out.bias)

    def forward(self, slots: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [n, d, h, w] from slots [n, k, c] and the true tokens before each; masks [n, k, h * w]."""
        true = x.flatten(2).mT  # [n, t, d]
        y = self.tokens(torch.cat([self.begin.expand(len(x), 1, -1).to(true.dtype), true[:, :-1]], 1))
        memory = self.memory(slots)
        for layer in self.layers:
            y, weights = layer(y, memory)
        return self.out(y).mT.unflatten(2, x.shape[2:]), weights.mean(1).mT


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the slots, feed-forward; normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.among, self.across = Attention(width, heads), Attention(width, heads)
        self.forwards = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        for attention in (self.among, self.across):  # as torch starts its own attention
            xavier(attention.query, attention.key, attention.value)
            unbiased(attention)

    def forward(self, y: torch.Tensor, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Output [n, t, width] and weights of the slots [n, heads, t, k]."""
        z = self.norms[0](y)
        y = y + self.among(z, z, causal=True)[0]
        seen, weights = self.across(self.norms[1](y), memory)
        y = y + seen
        return y + self.forwards(self.norms[2](y)), weights


class SlotHead(nn.Module):
    """Tokens [n, d, h, w] -> slots -> tokens."""

    def __init__(self, depth: int, slots: SlotAttention, decoder: nn.Module, width: int, decoded: bool) -> None:
        super().__init__()
        size = slots.draw.shape[1]
        self.input = unbiased(
            nn.Sequential(nn.LayerNorm(depth), nn.Linear(depth, width), nn.ReLU(), nn.Linear(width, size))
        )
        self.slots, self.decoder, self.decoded = slots, decoder, decoded

    def forward(self, x: torch.Tensor, draw: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens made again [n, d, h, w], and masks [n, k, h, w] that sum to one over slots."""
        slots, attention = self.slots(self.input(x.flatten(2).mT), draw)
        made, masks = self.decoder(slots, x)
        return made, (masks if self.decoded else attention).unflatten(2, x.shape[2:])

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Masks [n, k, h, w] of slots that start from the head's own draw."""
        if self.decoded:
            return self(x)[1]
        return self.slots(self.input(x.flatten(2).mT))[1].unflatten(2, x.shape[2:])
