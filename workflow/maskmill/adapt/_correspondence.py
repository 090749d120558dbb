"""STEGO's correspondence loss: where features of two images correlate by more than a shift, codes shall too.

Hamilton et al., Unsupervised semantic segmentation by distilling feature correspondences (ICLR 2022), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import nn

from maskmill.adapt._modules import full, unit
from maskmill.device import float32

Measured = Mapping[str, tuple[torch.Tensor, torch.Tensor]]  # kind of pair -> centred F and S
PAIRS = 256  # of each kind, that automatic shifts and histograms are read from
KINDS = ("self", "knn", "random")  # pairs: an image with itself, with one of its neighbours, with any other
BINS = 40  # of a histogram over [-1, 1]


def sample(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Maps [n, c, h, w] at places [n, s, s, 2] in [-1, 1], bilinear: [n, c, s, s] float32 under autocast too."""
    with float32(maps.device):
        return nn.functional.grid_sample(full(maps), places, padding_mode="border", align_corners=True)


def correlate(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Cosine of every place of a [n, c, s, s] with every place of b: [n, s, s, s, s].

    Float32 under autocast too: the shifts that it is compared with are differences in its second digit, and they were
    measured in float32.
    """
    with float32(a.device):
        return torch.einsum("nchw,ncij->nhwij", unit(full(a)), unit(full(b)))


def centred(f: torch.Tensor) -> torch.Tensor:
    """Correlation of features [n, s, s, s, s] minus its mean over the places of b; the mean of all is put back."""
    inner = f - f.mean((3, 4), keepdim=True)
    return inner - inner.mean() + f.mean()


def loss(f: torch.Tensor, s: torch.Tensor, shift: float | torch.Tensor) -> torch.Tensor:
    """- mean(max(S, 0) (F - b)) with F centred already.

    Where F exceeds the shift b, the loss pulls the codes together, elsewhere it pushes them apart. The clamp, which is
    on S and never on F, leaves pairs of codes without a gradient that already have a negative correlation.
    """
    return -(s.clamp_min(0) * (f - shift)).mean()


def others(n: int, draws: torch.Generator) -> torch.Tensor:
    """For each of n images another one of the batch [n]: a random permutation whose fixed points are moved by one."""
    order = torch.randperm(n, generator=draws, device=draws.device)
    fixed = order == torch.arange(n, device=order.device)
    return torch.where(fixed, (order + 1) % n, order)


def uniform(n: int, side: int, draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of random places for n images, [n, side, side, 2] in [-1, 1] each; see `sample`."""
    here, there = (2 * torch.rand(n, side, side, 2, generator=draws, device=draws.device) - 1 for _ in range(2))
    return here, there


def pairs(
    x: tuple[torch.Tensor, torch.Tensor],
    code: tuple[torch.Tensor, torch.Tensor],
    side: int,
    shuffles: int,
    draws: torch.Generator,
    places: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """(kind, centred F, S) for an image with itself, its neighbour, and `shuffles` times with others of the batch.

    Args:
        x, code: features and codes [n, d or c, h, w] of the images and of their neighbours.
        side: sampled places a side. The images are sampled at one set of places, their partners at another.
        places: these two, see `uniform`, which draws them by default.
    """
    n = len(x[0])
    here, there = places or uniform(n, side, draws)
    f, s = sample(x[0], here), sample(code[0], here)
    yield "self", centred(correlate(f, f)), correlate(s, s)
    yield "knn", centred(correlate(f, sample(x[1], there))), correlate(s, sample(code[1], there))
    for _ in range(shuffles):
        other = others(n, draws)
        yield "random", centred(correlate(f, sample(x[0][other], there))), correlate(s, sample(code[0][other], there))


def measure(
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    encode: Callable[[torch.Tensor], torch.Tensor],
    side: int,
    draws: torch.Generator,
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each kind of pair all centred F and all S over the batches, flat."""
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {kind: [] for kind in KINDS}
    with torch.no_grad():
        for x, partner in batches:
            for kind, f, s in pairs((x, partner), (encode(x), encode(partner)), side, 1, draws):
                found[kind].append((f.flatten(), s.flatten()))
    return {kind: (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])) for kind, parts in found.items()}


def quantiles(measured: Measured, wanted: Mapping[str, float]) -> dict[str, float]:
    """Of every kind of pair the given quantile of its centred F: an automatic shift."""
    return {kind: float(np.quantile(measured[kind][0].cpu().numpy(), q)) for kind, q in wanted.items()}


def histograms(features: Measured, codes: Measured) -> dict[str, list[float]]:
    """Of every kind of pair the histogram of F before the training and of S after it."""
    return {
        f"{name} {kind}": histogram(values[i])
        for name, i, measured in (("features", 0, features), ("codes", 1, codes))
        for kind, values in measured.items()
    }


def histogram(values: torch.Tensor) -> list[float]:
    """Shares of the values in BINS equal bins of [-1, 1]."""
    counts = torch.histc(values.float().clamp(-1, 1), BINS, -1, 1)
    return [float(share) for share in counts / counts.sum()]
