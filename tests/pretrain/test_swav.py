"""SwAV: assignments against the plain iteration, swapped prediction against loops, prototypes and queue over steps."""

from __future__ import annotations

import math

import pytest
import torch
from toy_network import losses, part, toy, views

from maskmill.pretrain import swav
from maskmill.pretrain._embedder import Embedder
from maskmill.pretrain._heads import unit
from maskmill.pretrain.swav.assignment import assign, queued, swapped
from maskmill.pretrain.swav.learner import SwAV, usage
from maskmill.training.lars import LARS

SMALL = {"crop": 16, "local_crop": 16, "local_crops": 2, "dimensions": 5, "hidden": 7, "prototypes": 4, "queue": 10,
         "batch_size": 6, "micro_batch": 3, "steps": 100, "queue_start": 0.02, "freeze_prototypes": 0.03}  # fmt: skip
SIDES = (16, 16, 8, 8)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def learner(norm: bool = False, **own: object) -> SwAV:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = swav.build(toy(norm), swav.Params.model_validate(SMALL | own), 20)
    assert isinstance(found, SwAV)
    return found


def plain_sinkhorn(scores: list[list[float]], epsilon: float, iterations: int) -> list[list[float]]:
    """The iteration as the paper has it, number by number: columns to equal shares, then rows."""
    q = [[math.exp(score / epsilon) for score in row] for row in scores]
    n, k = len(q), len(q[0])
    for _ in range(iterations):
        sums = [sum(row[j] for row in q) for j in range(k)]
        q = [[value / sums[j] / k for j, value in enumerate(row)] for row in q]
        q = [[value / sum(row) / n for value in row] for row in q]
    return [[value * n for value in row] for row in q]


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_assignments_are_those_of_the_plain_iteration(iterations: int) -> None:
    vectors, prototypes, queue = rows(6, 5).float(), rows(4, 5, seed=1).float(), rows(9, 5, seed=2).float()
    alone = assign(vectors, prototypes, 0.1, iterations)
    torch.testing.assert_close(alone, torch.tensor(plain_sinkhorn((vectors @ prototypes.T).tolist(), 0.1, iterations)))
    helped = assign(vectors, prototypes, 0.1, iterations, queue)
    every = plain_sinkhorn((torch.cat([queue, vectors]) @ prototypes.T).tolist(), 0.1, iterations)
    torch.testing.assert_close(helped, torch.tensor(every[9:]))


def test_marginals_of_assignments() -> None:
    """Rows add up to one; after many iterations every prototype has its share."""
    codes = assign(rows(12, 5).float(), rows(4, 5, seed=1).float(), 0.2, 100)
    torch.testing.assert_close(codes.sum(1), torch.ones(12))
    torch.testing.assert_close(codes.sum(0), torch.full((4,), 3.0), rtol=1e-4, atol=1e-4)


def test_the_swapped_prediction_is_that_of_loops() -> None:
    draws = torch.Generator().manual_seed(0)
    scores = torch.rand(4, 3, 5, generator=draws, dtype=torch.float64) * 2 - 1
    codes = torch.rand(2, 3, 5, generator=draws, dtype=torch.float64).softmax(2)
    total = 0.0
    for i in range(2):
        for other in range(4):
            if other == i:
                continue
            for n in range(3):
                line = [float(score) / 0.1 for score in scores[other, n]]
                below = math.log(sum(math.exp(value) for value in line))
                total -= sum(float(code) * (value - below) for code, value in zip(codes[i, n], line, strict=True))
    expected = total / 3 / 3 / 2  # photos, other crops, assigned crops
    assert float(swapped(scores, codes, (0, 1), 0.1)) == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_swapped_prediction() -> None:
    scores = rows(3, 2, 4).requires_grad_()
    codes = rows(2, 2, 4, seed=1).softmax(2)
    assert torch.autograd.gradcheck(lambda x: swapped(x, codes, (0, 1), 0.3), (scores,))


def test_assignments_are_those_of_the_whole_batch_and_have_no_gradient() -> None:
    found = learner()
    whole = views(SIDES, [0, 1, 2, 3, 4, 5])
    own = torch.arange(6)[:, None].expand(-1, 4)
    shared = [found.shared(found.outputs(part(whole, own[i : i + 3]), torch.Generator(), 0)) for i in (0, 3)]
    targets = found.targets({"vectors": [each["vectors"] for each in shared]}, 0)
    assert targets.starts == (0, 3, 6)
    assert not targets.assignments.requires_grad
    for i in range(2):
        vectors = torch.cat([each["vectors"][:, i] for each in shared])
        assert not vectors.requires_grad
        torch.testing.assert_close(targets.assignments[i], assign(vectors, found.prototypes.detach(), 0.05, 3))


def test_everything_learns_but_prototypes_in_the_first_steps() -> None:
    found = learner()
    parameters = [p for group in found.groups() for p in group.parameters]
    assert {id(p) for p in parameters} == {id(p) for p in found.parameters()}
    for step, moves in ((0, False), (2, False), (3, True), (50, True)):
        loss, _ = losses(found, [views(SIDES, [0, 1, 2, 3, 4, 5])], step)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        missing = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is None or not bool(g.any())}
        assert (id(found.prototypes) in missing) is not moves
        assert id(found.student.conv.weight) not in missing


@pytest.mark.parametrize("name", ["larc", "adamw", "sgd"])
def test_prototypes_keep_unit_length_and_stay_while_they_are_frozen(name: str) -> None:
    found = learner(queue=0)
    torch.testing.assert_close(found.prototypes.detach().norm(dim=1), torch.ones(4))
    parameters = [p for group in found.groups() for p in group.parameters]
    start = found.prototypes.detach().clone()
    optimiser: torch.optim.Optimizer = {
        "larc": lambda: LARS(parameters, lr=4.0, weight_decay=0.1, form="larc"),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
        "sgd": lambda: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    }[name]()
    for step in range(5):
        loss, targets = losses(found, [views(SIDES, [0, 1, 2, 3, 4, 5], seed=step)], step)
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            p.grad = torch.zeros_like(p) if g is None else g  # as the trainer sets it
        optimiser.step()
        found.after(targets, step)
        torch.testing.assert_close(found.prototypes.detach().norm(dim=1), torch.ones(4))
        moved = float((found.prototypes.detach() - start).abs().max())
        assert moved < 1e-6 if step < 3 else moved > 1e-5


@pytest.mark.parametrize("length", [10, 6, 4])
def test_the_queue_holds_the_last_vectors_newest_batch_first(length: int) -> None:
    queue, seen = torch.zeros(2, length, 1), []
    for batch in range(4):
        new = torch.arange(6.0)[None, :, None] + 10 * batch + torch.tensor([0.0, 100.0])[:, None, None]
        queue = queued(queue, new)
        seen = [*(10 * batch + i for i in range(6)), *seen]
        expected = (seen + [0] * length)[:length]
        assert queue[0, :, 0].tolist() == expected
        assert queue[1, : min(length, len(seen)), 0].tolist() == [100 + each for each in expected[: len(seen)]]


def test_the_queue_is_filled_from_its_start_and_used_when_full() -> None:
    """Steps 0 and 1 do not fill it; 2 and 3 do, of ten places; from step 4 on assignments know it."""
    found = learner()
    for step in range(6):
        batch = [views(SIDES, [0, 1, 2, 3, 4, 5], seed=step)]
        _, targets = losses(found, batch, step)
        for i in range(2):
            alone = assign(targets.vectors[i], found.prototypes.detach(), 0.05, 3)
            helped = assign(targets.vectors[i], found.prototypes.detach(), 0.05, 3, found.queue[i])
            torch.testing.assert_close(targets.assignments[i], helped if step >= 4 else alone)
        found.after(targets, step)
        assert int(found.filled) == 6 * max(0, step - 1)
        if step >= 2:
            torch.testing.assert_close(found.queue[:, :6], targets.vectors)


def test_crops_of_one_side_share_a_batch_norm_and_come_back_in_order() -> None:
    network = toy(norm=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = Embedder(6, 7, 5)
    pictures = views((16, 16, 8), [0, 1, 2]).pictures
    found = head(network, pictures)
    cls = torch.cat([network(torch.cat(pictures[:2])).cls, network(pictures[2]).cls])
    expected = unit(head.layers(cls))
    torch.testing.assert_close(found.flatten(0, 1), expected)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(3, 3))


def test_usage_of_sharp_and_even_assignments() -> None:
    sharp = torch.eye(3)[[0, 1, 1, 0]]
    even = torch.full((4, 3), 1 / 3)
    scores = torch.stack([sharp, sharp])
    found = usage(scores, torch.stack([sharp, sharp]), torch.stack([sharp, sharp]))
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {"entropy": 0, "used": 2 / 3, "agreed": 1}, abs=1e-6
    )
    assert float(usage(scores, sharp[None], even[None].expand(2, -1, -1))["entropy"]) == pytest.approx(math.log(3))


def test_published_settings_are_the_defaults() -> None:
    own = swav.Params()
    assert (own.prototypes, own.temperature, own.epsilon, own.iterations, own.dimensions) == (3000, 0.1, 0.05, 3, 128)
    assert (own.queue, round(own.queue_start * own.steps), round(own.freeze_prototypes * own.steps)) == (
        3840,
        75060,
        5004,
    )
    assert (own.optimiser, own.learning_rate, own.final_rate, own.weight_decay) == ("larc", 0.6, 0.0006, 1e-6)
    sides = [(spec.side, spec.scale) for spec in swav.views(own)]
    assert sides == [(224, (0.14, 1.0))] * 2 + [(96, (0.05, 0.14))] * 6
    assert {spec.light.jitter for spec in swav.views(own)} == {(0.8, 0.8, 0.8, 0.2)}
