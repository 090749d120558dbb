"""Modularity of soft assignments of tokens, the loss of ACSeg and of CAUSE's codebook and clusters."""

from __future__ import annotations

import torch

from maskmill.adapt._modules import unit

ROOM = {"cpu": 1 << 22, "cuda": 1 << 27}  # products that `largest_products` holds at once


def affinity(x: torch.Tensor) -> torch.Tensor:
    """Cosines of tokens [n, t, d] with each other, 0 where negative: [n, t, t]."""
    x = unit(x, 2)
    return (x @ x.mT).relu()


def modularity(a: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """Modularity [n] of weighted graphs a [n, t, t] and soft assignments s [n, t, k] in 0..1 of their nodes.

    1/m sum_ij (a_ij - d_i d_j / m) max_k s_ik s_jk with degrees d and m = sum d; where s is hard this is Newman's
    modularity (the literature's 2m is the m here).
    """
    return gain(a, torch.einsum("nik,njk->nkij", s, s).amax(1))


def gain(a: torch.Tensor, together: torch.Tensor) -> torch.Tensor:
    """Modularity [n] of graphs a [n, t, t] where two nodes are in one group by the degree `together` [n, t, t]."""
    degree = a.sum(2)
    m = degree.sum(1).clamp_min(1e-12)
    excess = a - degree[:, :, None] * degree[:, None] / m[:, None, None]
    return (excess * together).sum((1, 2)) / m


def largest_products(s: torch.Tensor) -> torch.Tensor:
    """max_k s_ik s_jk [n, t, t] of s [n, t, k] for thousands of k: not all products are held at once.

    The gradient reaches the first k of the largest product, as that of `torch.max` does.
    """
    with torch.no_grad():
        n, t, k = s.shape
        each = max(1, ROOM.get(s.device.type, ROOM["cpu"]) // max(1, n * t * t))
        best, at = s.new_full((n, t, t), -torch.inf), torch.zeros(n, t, t, dtype=torch.int64, device=s.device)
        for start in range(0, k, each):
            part = s[:, :, start : start + each]
            value, place = (part[:, :, None] * part[:, None]).max(3)
            better = value > best
            best, at = torch.where(better, value, best), torch.where(better, place + start, at)
    return s.gather(2, at) * s.gather(2, at.mT).mT


def codebook_modularity(x: torch.Tensor, codebook: torch.Tensor, temperature: float) -> torch.Tensor:
    """Modularity [n] of tokens x [n, t, d] that a codebook [k, d] groups, as CAUSE has it.

    A token is in a group by its cosine with the code, 0 where negative; two are together by the largest product of
    these, through tanh(. / temperature). No token is its own neighbour. The gradient reaches the codebook only.
    """
    x = unit(x.detach(), 2)
    shares = (x @ unit(codebook).T).relu()
    own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return gain((x @ x.mT).relu().masked_fill(own, 0.0), torch.tanh(largest_products(shares) / temperature))
