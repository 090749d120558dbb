"""NeCo: the sorting network against closed forms, the loss against brute force, and a small training."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from maskmill.backbones.learning import Origin, build
from maskmill.pretrain import neco
from maskmill.pretrain._learner import Outputs
from maskmill.pretrain._views import Views
from maskmill.pretrain.neco import _sorting
from maskmill.pretrain.neco._learner import NeCo, References, closeness, cross_entropy
from maskmill.recipe.feature_set import FeatureSet

KINDS = ("bitonic", "odd_even")
SQUARES = (4, 9, 16, 25, 36, 49, 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 8, 9, 12])
def test_every_input_of_zeros_and_ones_is_sorted(kind: _sorting.Kind, size: int) -> None:
    """The zero-one principle: a network that sorts all of them sorts everything."""
    rows = torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)), dtype=torch.float64)
    shares = _sorting.order(rows, _sorting.network(kind, size), 1e9)
    assert torch.allclose(torch.einsum("jri,ri->rj", shares, rows), rows.sort(1).values, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SQUARES)
def test_steep_shares_are_the_permutation_of_argsort(kind: _sorting.Kind, size: int) -> None:
    rows = torch.stack([torch.randperm(size, generator=torch.Generator().manual_seed(s)) for s in range(40)]).double()
    shares = _sorting.order(rows, _sorting.network(kind, size), 1e9)
    assert torch.equal(shares.argmax(2).T, rows.argsort(1))
    assert float(shares.max(2).values.min()) > 1 - 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relaxation", ["cauchy", "logistic"])
def test_shares_are_doubly_stochastic(kind: _sorting.Kind, relaxation: _sorting.Relaxation) -> None:
    rows = torch.randn(20, 49, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = _sorting.order(rows, _sorting.network(kind, 49), 3.0, relaxation)
    assert float(shares.min()) >= 0
    ones = torch.ones(49, 20, dtype=torch.float64)
    assert torch.allclose(shares.sum(2), ones)
    assert torch.allclose(shares.sum(0), ones.T)


def test_two_numbers_have_the_closed_form() -> None:
    a, b = 0.3, 0.1
    stay = 0.5 + math.atan(5 * (b - a)) / math.pi  # of the first number on the place of the smaller one
    for kind in KINDS:
        shares = _sorting.order(torch.tensor([[a, b]], dtype=torch.float64), _sorting.network(kind, 2), 5.0)
        wanted = torch.tensor([[stay, 1 - stay], [1 - stay, stay]], dtype=torch.float64)
        assert torch.allclose(shares[:, 0], wanted)


def test_three_numbers_have_the_product_of_their_comparators() -> None:
    """Odd-even sorting of three: the comparators (0, 1), (1, 2), (0, 1) one after the other."""
    x, product = np.array([0.2, -0.1, 0.05]), np.eye(3)
    for low in (0, 1, 0):
        stay = 1 / (1 + math.exp(-4.0 * (x[low + 1] - x[low])))
        swap = np.eye(3)
        swap[low : low + 2, low : low + 2] = [[stay, 1 - stay], [1 - stay, stay]]
        x, product = swap @ x, swap @ product
    found = _sorting.order(torch.tensor([[0.2, -0.1, 0.05]]).double(), _sorting.network("odd_even", 3), 4.0, "logistic")
    assert np.allclose(found[:, 0].numpy(), product)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("relaxation", ["cauchy", "logistic"])
def test_gradients_of_the_order(kind: _sorting.Kind, relaxation: _sorting.Relaxation) -> None:
    rows = torch.randn(3, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    network = _sorting.network(kind, 9)
    assert torch.autograd.gradcheck(lambda x: _sorting.order(x, network, 2.0, relaxation), (rows,))


def test_a_bitonic_network_that_does_not_sort_is_refused() -> None:
    for size in (22, 38, 65):
        with pytest.raises(ValueError, match=f"{size} numbers"):
            _sorting.network("bitonic", size)


def test_equal_numbers_are_ordered_by_nothing() -> None:
    shares = _sorting.order(torch.zeros(1, 16), _sorting.network("odd_even", 16), 100.0)
    assert float(shares.max()) < 0.5


def test_closeness_is_of_the_references_of_the_own_photo() -> None:
    draws = torch.Generator().manual_seed(2)
    patches, references = torch.randn(6, 5, generator=draws), torch.randn(2, 3, 5, generator=draws)
    found = closeness(patches, references)
    far = closeness(patches, references, "euclidean")
    for photo, cell, reference in itertools.product(range(2), range(3), range(3)):
        mine, other = patches[3 * photo + cell], references[photo, reference]
        wanted = float(torch.nn.functional.cosine_similarity(mine, other, dim=0))
        assert float(found[3 * photo + cell, reference]) == pytest.approx(wanted, abs=1e-6)
        assert float(far[3 * photo + cell, reference]) == pytest.approx(float((mine - other).norm()), abs=1e-5)


def test_cross_entropy_is_least_for_the_teachers_order_and_finite_where_shares_vanish() -> None:
    rows = torch.randn(8, 9, generator=torch.Generator().manual_seed(3))
    network = _sorting.network("bitonic", 9)
    teacher = _sorting.order(rows, network, 20.0)
    same = float(cross_entropy(teacher, teacher))
    assert same < float(cross_entropy(_sorting.order(rows.flip(1), network, 20.0), teacher))
    hard = torch.eye(4)[:, None, :]
    assert math.isfinite(float(cross_entropy(hard.flip(0), hard)))
    assert float(cross_entropy(hard, hard)) == 0


# A learner on a small network.


def params(**changes: object) -> neco.Params:
    small = {
        "global_side": 32, "local_side": 16, "local_crops": 1, "align": 3, "hidden": 16, "dimensions": 8, "queue": 40,
        "queued": 4, "steps": 4, "batch_size": 4, "micro_batch": 2, "learning_rate": 1e-3,
    }  # fmt: skip
    return neco.Params.model_validate(small | changes)


def learner(settings: neco.Params) -> NeCo:
    torch.manual_seed(0)
    network = build(Origin(FeatureSet(backbone="test_vit"), "test_vit"))
    found = neco.build(network, settings, 8)
    assert isinstance(found, NeCo)
    return found.train()


def drawn(settings: neco.Params, seed: int, n: int = 2) -> Views:
    """Views of n photos that are noise."""
    draws = torch.Generator().manual_seed(seed)
    specs = neco.views(settings)
    pictures = tuple(torch.randn(n, 3, spec.side, spec.side, generator=draws) for spec in specs)
    boxes = np.stack([neco.draw(settings, 60, 80, np.random.default_rng(seed * 10 + i)) for i in range(n)])
    every = torch.zeros(n, len(specs))
    return Views(pictures, torch.from_numpy(boxes).float(), every.bool(), every.long(), torch.arange(n))


def step_of(one: NeCo, micro: list[Views]) -> tuple[list[Outputs], References, list[tuple[torch.Tensor, float]]]:
    outputs = [one.outputs(views, torch.Generator().manual_seed(i), 0) for i, views in enumerate(micro)]
    shared = [one.shared(each) for each in outputs]
    targets = one.targets({name: [each[name] for each in shared] for name in shared[0]}, 0)
    losses = [one.loss(each, targets, i, 0)[:2] for i, each in enumerate(outputs)]
    return outputs, targets, losses


@pytest.mark.parametrize("queue", [0, 40])
def test_loss_by_brute_force(queue: int) -> None:
    """Cell by cell and reference by reference, for one pair of crops after the other."""
    settings = params(queue=queue)
    one = learner(settings)
    outputs, targets, losses = step_of(one, [drawn(settings, 0), drawn(settings, 1)])
    network = _sorting.network("bitonic", 9)
    for place, (found, weight) in enumerate(losses):
        total = []
        for pair in range(len(one.pairs)):
            for photo in range(2):
                rows = [targets.patches[pair, 18 * place + 9 * photo + r] for r in range(9)]
                for y, x in itertools.product(range(3), range(3)):
                    shares = []
                    for name in ("student", "teacher"):
                        cell = outputs[place][name][pair, photo, :, y, x]
                        near = [torch.nn.functional.cosine_similarity(cell, row, dim=0) for row in rows]
                        shares.append(_sorting.order(torch.stack(near)[None], network, 100.0)[:, 0])
                    total += [-(shares[1][:, i] * shares[0][:, i].log()).sum() for i in range(9)]
        assert weight == 2
        assert float(found.detach()) == pytest.approx(float(torch.stack(total).detach().mean()), rel=1e-4)


def test_references_come_from_the_batch_or_the_queue_once_each() -> None:
    settings = params(queue=0)
    one = learner(settings)
    outputs, targets, _ = step_of(one, [drawn(settings, 0), drawn(settings, 1)])
    for pair in range(len(one.pairs)):
        own = torch.cat([each["teacher"][pair].permute(0, 2, 3, 1).reshape(-1, 8) for each in outputs])
        assert sorted(own.tolist()) == sorted(targets.patches[pair].tolist())


def test_queue_keeps_the_latest_patches() -> None:
    settings = params()
    one = learner(settings)
    fresh = []
    for seed in range(4):  # 16 patches of each global crop a step, room for 40
        outputs, targets, _ = step_of(one, [drawn(settings, 2 * seed), drawn(settings, 2 * seed + 1)])
        fresh.insert(0, torch.cat([each["fresh"] for each in outputs], 1))
        one.after(targets, seed)
        assert int(one.filled) == min(40, 16 * (seed + 1))
        wanted = torch.cat(fresh, 1)[:, :40]
        assert torch.equal(one.queue[:, : wanted.shape[1]], wanted)
        assert not one.queue[:, wanted.shape[1] :].any()


def test_only_the_student_has_gradients_and_the_teacher_moves_by_its_momentum() -> None:
    settings = params(teacher_momentum=0.9)
    one = learner(settings)
    learning = [p for group in one.groups() for p in group.parameters]
    assert not {id(p) for p in learning} & {id(p) for m in (one.teacher, one.teacher_head) for p in m.parameters()}
    _, targets, losses = step_of(one, [drawn(settings, 0), drawn(settings, 1)])
    sum(loss for loss, _ in losses).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in one.head.parameters())
    assert any(float(p.grad.abs().sum()) > 0 for p in one.student.parameters() if p.grad is not None)
    assert all(p.grad is None for m in (one.teacher, one.teacher_head) for p in m.parameters())
    before = one.teacher_head.layers[0].weight.clone()
    one.after(targets, 0)
    assert torch.allclose(one.teacher_head.layers[0].weight, 0.9 * before + 0.1 * one.head.layers[0].weight)


def test_crops_that_do_not_meet_are_not_learnt_from() -> None:
    settings = params()
    one = learner(settings)
    views = drawn(settings, 0)
    apart = views.boxes.clone()
    apart[0, :, :] = torch.tensor([[0.0, 0.3, 0.0, 0.3], [0.5, 0.9, 0.5, 0.9], [0.35, 0.45, 0.0, 1.0]])
    apart[1] = apart[0]
    both = Views(views.pictures, apart, views.flips, views.places, views.items)
    _, _, losses = step_of(one, [both, both])
    assert [float(loss.detach()) for loss, _ in losses] == [0.0, 0.0]
    half = Views(views.pictures, torch.stack([views.boxes[0], apart[0]]), views.flips, views.places, views.items)
    assert float(step_of(one, [half, half])[2][0][0].detach()) > 0


def test_a_copied_projector_starts_with_the_students_weights() -> None:
    for choice, equal in (("copied", True), ("own", False)):
        one = learner(params(teacher_head=choice))
        assert torch.equal(one.head.layers[0].weight, one.teacher_head.layers[0].weight) is equal


def test_crops_meet_both_global_ones() -> None:
    settings = neco.Params()
    for seed in range(200):
        boxes = neco.draw(settings, 300, 400, np.random.default_rng(seed))
        for crop, whole in itertools.product(range(6), range(2)):
            if crop == whole:
                continue
            tall = min(boxes[crop][1], boxes[whole][1]) - max(boxes[crop][0], boxes[whole][0])
            wide = min(boxes[crop][3], boxes[whole][3]) - max(boxes[crop][2], boxes[whole][2])
            assert min(tall, wide) > 0
            assert tall * wide > (0.02 if crop < 2 else 0.01)


def test_the_settings_are_the_published_ones() -> None:
    """experiments/configs/models/small/neco_dinov2.yml of the published code, on the 118 287 photos of COCO."""
    p = neco.Params()
    assert p.steps == 25 * (118_287 // p.batch_size)
    assert (p.batch_size, p.learning_rate, p.head_rate, p.final_rate, p.warmup) == (64, 1e-5, 1e-4, 0.0, 0.0)
    assert (p.weight_decay, p.final_weight_decay, p.optimiser, p.drop_path) == (0.04, 0.5, "adamw", 0.1)
    assert (p.network, p.relaxation, p.steepness, p.teacher_steepness, p.distance) == (
        "bitonic", "cauchy", 100, 100, "cosine",
    )  # fmt: skip
    assert (p.align, p.queue, p.queued, p.hidden, p.dimensions) == (7, 8192, 10, 2048, 256)
    assert (p.teacher_momentum, p.final_teacher_momentum) == (0.9995, 1.0)
    sides = [(spec.side, spec.scale, spec.flip) for spec in neco.views(p)]
    assert sides == [(518, (0.25, 1.0), 0.0)] * 2 + [(98, (0.05, 0.25), 0.0)] * 4
