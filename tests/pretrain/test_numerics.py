"""Sinkhorn, schedules, moving averages and heads against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from maskmill.pretrain._ema import ema
from maskmill.pretrain._heads import ProjectionHead, UnitRows, mlp
from maskmill.pretrain._schedules import cosine
from maskmill.pretrain._sinkhorn import sinkhorn
from maskmill.pretrain._watch import effective_rank


def plain_sinkhorn(scores: torch.Tensor, iterations: int) -> torch.Tensor:
    """SwAV's, without logarithms: prototypes are rows."""
    q = scores.double().exp().T
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_sinkhorn_is_that_of_swav(iterations: int) -> None:
    scores = torch.randn(40, 7) / 0.05
    assert torch.allclose(sinkhorn(scores, iterations).double(), plain_sinkhorn(scores, iterations), atol=1e-5)


def test_sinkhorn_uses_all_columns_alike_and_survives_large_scores() -> None:
    scores = 1000 * torch.randn(64, 8)
    found = sinkhorn(scores, 500)
    assert torch.isfinite(found).all()
    assert torch.allclose(found.sum(1), torch.ones(64), atol=1e-4)
    assert torch.allclose(sinkhorn(torch.randn(64, 8), 200).sum(0), torch.full((8,), 8.0), atol=1e-3)


def test_weighted_rows_count_as_repeated_ones() -> None:
    scores = torch.randn(5, 3)
    weights = torch.tensor([1, 2, 1, 3, 1])
    found = sinkhorn(scores, 3, weights)
    repeated = sinkhorn(scores.repeat_interleave(weights, 0), 3)
    first = torch.tensor([0, 1, 3, 4, 7])
    assert torch.allclose(found, repeated[first], atol=1e-6)


def test_cosine_begins_at_nothing_peaks_and_ends() -> None:
    assert cosine(0, 100, 2.0, 0.5, warmup=10) == 0
    assert cosine(5, 100, 2.0, 0.5, warmup=10) == pytest.approx(1.0)
    assert cosine(10, 100, 2.0, 0.5, warmup=10) == pytest.approx(2.0)
    assert cosine(55, 100, 2.0, 0.5, warmup=10) == pytest.approx(1.25)
    assert cosine(100, 100, 2.0, 0.5, warmup=10) == pytest.approx(0.5)
    assert cosine(0, 100, 2.0, 0.5) == pytest.approx(2.0)


def test_ema_moves_a_teacher_by_the_momentum_and_leaves_what_only_a_student_has() -> None:
    teacher, online = nn.Linear(2, 2), nn.Linear(2, 2)
    before = teacher.weight.detach().clone()
    online.extra = nn.Parameter(torch.ones(1))
    ema(teacher, online, 0.9)
    assert torch.allclose(teacher.weight, 0.9 * before + 0.1 * online.weight)


def test_scores_of_a_projection_head_are_cosines() -> None:
    head = ProjectionHead(6, 11, hidden=8, bottleneck=4)
    scores = head(torch.randn(9, 6))
    assert scores.shape == (9, 11)
    assert scores.abs().max() <= 1 + 1e-5
    rows = UnitRows(4, 3)
    x = nn.functional.normalize(torch.randn(2, 4), dim=1)
    assert torch.allclose(rows(x), nn.functional.cosine_similarity(x[:, None], rows.weight[None], dim=2), atol=1e-6)


def test_no_gradient_reaches_a_frozen_last_layer() -> None:
    head = ProjectionHead(6, 11, hidden=8, bottleneck=4)
    head(torch.randn(3, 6), frozen=True).sum().backward()
    assert head.last.weight.grad is None
    assert head.mlp[0].weight.grad is not None


def test_mlp_has_no_activation_behind_its_last_layer() -> None:
    found = mlp([3, 5, 2], nn.ReLU, norm=True)
    assert [type(module).__name__ for module in found] == ["Linear", "BatchStatistics", "ReLU", "Linear"]


def test_effective_rank_counts_equal_directions() -> None:
    cross = torch.cat([torch.eye(3), -torch.eye(3)])
    assert effective_rank(cross) == pytest.approx(3.0)
    assert effective_rank(torch.ones(5, 4)) == 0
    two = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])  # singular values 3 and 1, times sqrt 2
    assert effective_rank(two) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
