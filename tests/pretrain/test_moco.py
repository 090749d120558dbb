"""MoCo: the contrast against loops, the ring of keys, whose keys are whose, what the slow copies do."""

from __future__ import annotations

import math

import pytest
import torch
from toy_network import losses, part, toy, views

from maskmill.errors import ConfigError
from maskmill.pretrain import moco
from maskmill.pretrain._heads import unit
from maskmill.pretrain.moco.contrast import NOBODY, info_nce, push, tallies
from maskmill.pretrain.moco.learner import MoCo

SMALL = {"crop": 16, "dimensions": 5, "queue": 12, "batch_size": 6, "micro_batch": 3, "teacher_momentum": 0.75}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def learner(norm: bool = False, **own: object) -> MoCo:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = moco.build(toy(norm), moco.Params.model_validate(SMALL | own), 20)
    assert isinstance(found, MoCo)
    return found


def naive(
    queries: torch.Tensor, keys: torch.Tensor, queue: torch.Tensor, temperature: float, own: torch.Tensor
) -> list[float]:
    found = []
    for i, (query, key) in enumerate(zip(queries.tolist(), keys.tolist(), strict=True)):

        def similar(other: list[float], query: list[float] = query) -> float:
            return math.exp(sum(a * b for a, b in zip(query, other, strict=True)) / temperature)

        below = similar(key) + sum(similar(row) for j, row in enumerate(queue.tolist()) if not own[i, j])
        found.append(-math.log(similar(key) / below))
    return found


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_the_contrast_is_that_of_a_loop(temperature: float) -> None:
    queries, keys, queue = rows(4, 5), rows(4, 5, seed=1), rows(9, 5, seed=2)
    own = torch.rand(4, 9, generator=torch.Generator().manual_seed(3)) < 0.3
    found, cosines = info_nce(queries, keys, queue, temperature, own)
    assert found.tolist() == pytest.approx(naive(queries, keys, queue, temperature, own), rel=1e-12)
    nothing = torch.zeros_like(own)
    assert info_nce(queries, keys, queue, temperature)[0].tolist() == pytest.approx(
        naive(queries, keys, queue, temperature, nothing), rel=1e-12
    )
    assert cosines[:, 1:].isneginf().equal(own)


def test_without_negatives_there_is_nothing_to_learn() -> None:
    found, _ = info_nce(rows(2, 5), rows(2, 5, seed=1), rows(3, 5), 0.2, torch.ones(2, 3, dtype=torch.bool))
    assert found.tolist() == [0.0, 0.0]


def test_queries_alone_get_a_gradient_and_it_is_right() -> None:
    queries, keys, queue = (rows(3, 4, seed=i).requires_grad_() for i in range(3))
    own = torch.tensor([[True, False, False]] * 3)
    assert torch.autograd.gradcheck(lambda q: info_nce(q, keys.detach(), queue.detach(), 0.2, own)[0], (queries,))
    info_nce(queries, keys, queue, 0.2)[0].sum().backward()
    assert queries.grad is not None
    assert keys.grad is None
    assert queue.grad is None


@pytest.mark.parametrize("length", [7, 12, 4])
def test_the_ring_holds_the_last_keys_in_their_order(length: int) -> None:
    """Batches that do not divide it, and one that is longer than it."""
    queue, owners, pointer = torch.zeros(length, 2), torch.full((length,), NOBODY), torch.zeros((), dtype=torch.int64)
    expected: list[int | None] = [None] * length
    count = 0
    for size in (3, 3, 5, 1, 9, 2, 4):
        items = torch.arange(count, count + size)
        push(queue, owners, pointer, torch.stack([items, -items], 1).float(), items)
        for item in items.tolist():
            expected[item % length] = item
        count += size
        assert int(pointer) == count % length
        assert owners.tolist() == [NOBODY if each is None else each for each in expected]
        assert queue[:, 0].tolist() == [0 if each is None else each for each in expected]
        assert queue[:, 1].tolist() == [0 if each is None else -each for each in expected]


def test_the_queue_starts_with_unit_keys_of_nobody() -> None:
    found = learner()
    torch.testing.assert_close(found.queue.norm(dim=1), torch.ones(12))
    assert found.owners.unique().tolist() == [NOBODY]


def test_keys_find_their_queries_from_other_micro_batches() -> None:
    """Without batch norms a step is the same however crops are grouped; with keys mixed up it is another one."""
    found = learner()
    whole = views((16, 16), [4, 2, 9, 0, 7, 5])
    own = torch.arange(6)[:, None].expand(-1, 2)
    mixed = torch.stack([torch.arange(6), torch.tensor([5, 3, 4, 0, 2, 1])], 1)
    expected, targets = losses(found, [part(whole, own)])
    split, same = losses(found, [part(whole, mixed[:3]), part(whole, mixed[3:])])
    torch.testing.assert_close(split, expected)
    torch.testing.assert_close(same.vectors, targets.vectors)
    assert same.items.tolist() == [4, 2, 9, 0, 7, 5]
    wrong = views((16, 16), [4, 2, 9, 0, 7, 5])
    moved = part(wrong, mixed)
    shuffled, _ = losses(found, [part(moved, own)])
    assert abs(float((shuffled - expected).detach())) > 1e-4


def test_batch_norms_see_queries_and_keys_of_different_photos() -> None:
    """The vectors of a key depend on the photos that it is computed with, which are not those of its query."""
    found = learner(norm=True)
    whole = views((16, 16), [0, 1, 2, 3, 4, 5])
    own = torch.arange(6)[:, None].expand(-1, 2)
    mixed = torch.stack([torch.arange(6), torch.tensor([5, 3, 0, 1, 2, 4])], 1)
    _, together = losses(found, [part(whole, own[:3]), part(whole, own[3:])])
    _, apart = losses(found, [part(whole, mixed[:3]), part(whole, mixed[3:])])
    assert float((together.vectors - apart.vectors).abs().max()) > 1e-3


def test_a_single_micro_batch_of_batch_norms_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.micro_batch: 8 is the whole batch"):
        learner(norm=True, micro_batch=8, batch_size=8)
    assert isinstance(learner(norm=False, micro_batch=8, batch_size=8), MoCo)


def test_earlier_keys_of_the_same_photo_are_left_out() -> None:
    without, published = learner(), learner(own_keys=True)
    batch = views((16, 16), [3, 8, 5, 1, 0, 2])
    first = [losses(each, [batch])[0] for each in (without, published)]
    torch.testing.assert_close(*first)  # keys of nobody are negatives of all
    for each in (without, published):
        each.owners[:6] = torch.tensor([3, 3, 8, 8, 5, 5])
    left_out, kept = (losses(each, [batch])[0] for each in (without, published))
    torch.testing.assert_close(kept, first[0])
    assert float(left_out.detach()) < float(kept.detach())


def test_the_slow_copies_follow_and_get_no_gradient() -> None:
    found = learner()
    batch = views((16, 16), [0, 1, 2, 3, 4, 5])
    loss, targets = losses(found, [batch])
    loss.backward()
    learning = [p for group in found.groups() for p in group.parameters]
    assert {id(p) for p in learning} == {id(p) for p in [*found.student.parameters(), *found.head.parameters()]}
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in learning)
    slow = [*found.teacher.parameters(), *found.teacher_head.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in slow)
    before = [p.clone() for p in slow]
    with torch.no_grad():
        for p in learning:
            p.add_(1.0)
    found.after(targets, 0)
    for was, now in zip(before, slow, strict=True):  # the copies began as what learns
        torch.testing.assert_close(now, was + 0.25)
    torch.testing.assert_close(found.queue[:6], targets.vectors)
    assert found.owners[:7].tolist() == [0, 1, 2, 3, 4, 5, NOBODY]


def test_tallies_know_what_was_found() -> None:
    cosines = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.5, -torch.inf]])
    found = {name: float(value) for name, value in tallies(cosines).items()}
    assert found == pytest.approx({"found": 0.5, "positive": 0.55, "negative": 0.3})


def test_published_settings_are_the_defaults() -> None:
    own = moco.Params()
    assert (own.queue, own.temperature, own.teacher_momentum, own.dimensions) == (65536, 0.2, 0.999, 128)
    assert (own.optimiser, own.learning_rate, own.weight_decay, own.momentum) == ("sgd", 0.03, 1e-4, 0.9)
    assert (own.batch_size, own.micro_batch, own.warmup, own.final_rate) == (256, 32, 0.0, 0.0)
    first, second = moco.views(own)
    assert first == second
    assert (first.side, first.scale, first.light.jitter, first.light.blur) == (
        224,
        (0.2, 1.0),
        (0.4, 0.4, 0.4, 0.1),
        0.5,
    )
