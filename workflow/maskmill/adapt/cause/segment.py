"""CAUSE's heads: STEGO's projector, and a decoder whose queries are concepts of the tokens; what is trained of them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maskmill.adapt._attention import Attention
from maskmill.adapt._modules import Projector, Prototypes, cosines, drop_entries, full, unit
from maskmill.adapt._teachers import ema_update
from maskmill.device import float32

if TYPE_CHECKING:
    from maskmill.adapt.cause.params import Params

FORWARD = 2048  # width of the decoder's feed-forward layer


class Segment(nn.Module):
    """STEGO's projector with a dropout of single entries: [n, d, h, w] -> codes [n, c, h, w]."""

    def __init__(self, depth: int, params: Params) -> None:
        super().__init__()
        self.dropout = params.dropout
        self.projector = Projector(depth, params.dimensions, 0.0)

    def project(self, x: torch.Tensor, draws: torch.Generator | None) -> torch.Tensor:
        """Codes of maps; each branch hides entries of its own."""
        linear = self.projector.linear(drop_entries(x, self.dropout, draws))
        return torch.as_tensor(linear + self.projector.bent(drop_entries(x, self.dropout, draws)))

    def forward(self, x: torch.Tensor, codebook: torch.Tensor, draws: torch.Generator | None = None) -> torch.Tensor:
        """Codes; with a generator entries are hidden. The codebook is not looked at."""
        return self.project(x, draws)


class ConceptDecoder(Segment):
    """The same after one block of a transformer, whose queries are the concepts of the tokens, with learnt positions.

    Queries attend to each other, then to the tokens; the result is added to the tokens. Attention has one head.
    Positions are learnt on a square grid and laid bilinearly on that of the tokens.
    """

    def __init__(self, depth: int, params: Params) -> None:
        super().__init__(depth, params)
        self.places = nn.Parameter(torch.randn(depth, params.positions, params.positions))
        self.among, self.across = Attention(depth, 1), Attention(depth, 1)
        self.forwards = nn.ModuleList([nn.Linear(depth, FORWARD), nn.Linear(FORWARD, depth)])
        self.norms = nn.ModuleList(nn.LayerNorm(depth) for _ in range(3))
        for attention in (self.among, self.across):
            bound = (6 / (4 * depth)) ** 0.5  # Xavier, of the three maps as one matrix [3 d, d]
            for layer in (attention.query, attention.key, attention.value):
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)
            nn.init.zeros_(attention.out.bias)

    def forward(self, x: torch.Tensor, codebook: torch.Tensor, draws: torch.Generator | None = None) -> torch.Tensor:
        """Codes of tokens [n, d, h, w], by the concepts of the codebook [k, d]."""

        def hide(part: torch.Tensor) -> torch.Tensor:
            return drop_entries(part, self.dropout, draws)

        tokens = x.flatten(2).mT  # [n, t, d]
        query = codebook[concepts_of(tokens, codebook)].to(x.dtype)
        places = self._places((x.shape[2], x.shape[3]))
        own = self.among(query + places, query + places, values=query, hide=hide)[0]
        query = self.norms[0](query + hide(own))
        query = self.norms[1](query + hide(self.across(query + places, tokens, hide=hide)[0]))
        wide = hide(self.forwards[0](query).relu())
        query = self.norms[2](query + hide(self.forwards[1](wide)))
        return self.project((tokens + query).mT.unflatten(2, x.shape[2:]), draws)

    def _places(self, size: tuple[int, int]) -> torch.Tensor:
        """Positions [t, d] of a grid (h, w)."""
        maps = self.places[None]
        if tuple(maps.shape[2:]) != tuple(size):
            maps = nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)
        return maps[0].flatten(1).mT


def concepts_of(tokens: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The concept [n, t] of tokens [n, t, d]: the code [k, d] of the largest cosine."""
    with torch.no_grad(), float32(tokens.device):
        return (unit(full(tokens), 2) @ unit(full(codebook)).T).argmax(2)


class CauseHead(nn.Module):
    """What is kept: the codebook [k, d], the teacher that makes the codes, and the prototypes of the clusters.

    Attributes:
        mean: [d], what is subtracted from every token.
    """

    mean: torch.Tensor

    def __init__(self, depth: int, params: Params, clusters: int) -> None:
        super().__init__()
        self.codebook = nn.Parameter(torch.empty(params.concepts, depth))
        segment = ConceptDecoder if params.head == "tr" else Segment
        self.teacher = segment(depth, params).requires_grad_(False)
        self.prototypes = Prototypes(clusters, params.dimensions)
        self.register_buffer("mean", torch.zeros(depth))
        for vectors in (self.codebook, self.prototypes.weight):
            nn.init.uniform_(vectors, -1 / len(vectors), 1 / len(vectors))

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> codes [n, c, h, w]; nothing is dropped."""
        return torch.as_tensor(self.teacher(self.seen(x), self.codebook))

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] less the mean."""
        return x - self.mean[:, None, None]

    def scores(self, rows: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Cosines [n, k, t, 1] of rows [n, t, .] with vectors [k, .], as `usage` takes them."""
        return cosines(rows.mT[..., None], vectors)


class Learner(nn.Module):
    """The head, and what is needed only while it learns: its student, two projections, and the bank of old projections.

    Attributes:
        bank: unit projections of the teacher, [k, room, p]; those of a concept are overwritten in turn.
        written: [k], how many each concept was given so far.
    """

    bank: torch.Tensor
    written: torch.Tensor

    def __init__(self, head: CauseHead, params: Params) -> None:
        super().__init__()
        self.head = head
        self.student = copy.deepcopy(head.teacher).requires_grad_(True)
        self.projection = nn.Linear(params.dimensions, params.projection)
        self.projection_teacher = copy.deepcopy(self.projection).requires_grad_(False)
        self.register_buffer("bank", torch.zeros(params.concepts, params.bank, params.projection))
        self.register_buffer("written", torch.zeros(params.concepts, dtype=torch.int64))

    def learning(self) -> list[nn.Parameter]:
        """What the contrast moves."""
        return [*self.student.parameters(), *self.projection.parameters()]

    def follow(self, momentum: float) -> None:
        """The teachers follow."""
        ema_update(self.head.teacher, self.student, momentum)
        ema_update(self.projection_teacher, self.projection, momentum)

    def kept(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Projections [m, p] in the bank, and the concept of each [m]."""
        room = self.bank.shape[1]
        there = torch.arange(room, device=self.written.device) < self.written[:, None]  # [k, room]
        return self.bank[there], there.nonzero()[:, 0]

    @torch.no_grad()
    def remember(self, concepts: torch.Tensor, projections: torch.Tensor, draws: torch.Generator) -> None:
        """Put a random half of each concept's projections into the bank, rounded down.

        Args:
            concepts: [m]. projections: unit vectors [m, p].
        """
        room = self.bank.shape[1]
        order = torch.rand(len(concepts), generator=draws, device=concepts.device).argsort()
        order = order[concepts[order].argsort(stable=True)]
        owner = concepts[order]
        ones = torch.ones(1, dtype=torch.int64, device=owner.device).expand(len(owner))
        counts = torch.zeros_like(self.written).scatter_add_(0, owner, ones)
        rank = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner]
        half = counts // 2
        keep = (rank < half[owner]) & (rank >= half[owner] - room)
        owner, rank = owner[keep], rank[keep]
        self.bank[owner, (self.written[owner] + rank) % room] = projections[order[keep]].to(self.bank.dtype)
        self.written += half


def without_training(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors of the head alone, of those of its `Learner`."""
    prefix = "head.head."
    return {f"head.{name[len(prefix) :]}": value for name, value in tensors.items() if name.startswith(prefix)}
