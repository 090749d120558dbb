"""MaskContrast: objects, prototypes and losses by their definitions, micro-batches, queue, teacher, redrawn views."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskmill.backbones.learning import Maps
from maskmill.errors import ConfigError
from maskmill.pretrain import maskcontrast
from maskmill.pretrain._views import Views
from maskmill.pretrain.maskcontrast import loss as losses
from maskmill.pretrain.maskcontrast.learner import MaskContrast
from maskmill.recipe.base import validate


class Patches(nn.Module):
    """A network of one layer in place of a backbone: patches of 4 pixels, without statistics of a batch."""

    depth, stride, is_vit = 6, 4, False

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, self.depth, 4, stride=4)

    def forward(self, x: torch.Tensor) -> Maps:
        tokens = self.layer(x)
        return Maps(tokens, tokens.mean((2, 3)))

    def copy(self) -> Patches:
        found = Patches()
        found.load_state_dict(self.state_dict())
        return found.requires_grad_(False)


def settings(**given: Any) -> maskcontrast.Params:
    small = {"crop": 16, "batch_size": 4, "micro_batch": 2, "decoder": "none", "dimensions": 5, "queue": 7}
    return maskcontrast.Params(**{**small, **given})


def learner(**given: Any) -> MaskContrast:
    torch.manual_seed(0)
    return MaskContrast(Patches(), settings(**given))  # type: ignore[arg-type]


def drawn(photos: int = 4, side: int = 16, seed: int = 0, ids: int = 3) -> Views:
    """Random pictures, and segments of blocks of 4 pixels."""
    draws = torch.Generator().manual_seed(seed)
    pictures = tuple(torch.randn(photos, 3, side, side, generator=draws) for _ in range(2))
    blocks = torch.randint(0, ids, (2, photos, side // 4, side // 4), generator=draws)
    segments = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return views(pictures, (segments[0], segments[1]))


def views(pictures: tuple[torch.Tensor, ...], segments: tuple[torch.Tensor, ...]) -> Views:
    n = len(pictures[0])
    zeros = torch.zeros(n, 2, dtype=torch.int64)
    return Views(pictures, torch.zeros(n, 2, 4), zeros.bool(), zeros, torch.arange(n), segments)


def part(whole: Views, start: int, stop: int) -> Views:
    assert whole.segments is not None
    return views(tuple(each[start:stop] for each in whole.pictures), tuple(each[start:stop] for each in whole.segments))


def step(model: MaskContrast, whole: Views, micro: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Loss and gradient of a step in micro-batches, as the trainer adds them, and what they share."""
    starts = range(0, len(whole), micro)
    outputs = [model.outputs(part(whole, at, at + micro), torch.Generator().manual_seed(at), 0) for at in starts]
    shared = [model.shared(each) for each in outputs]
    targets = model.targets({name: [each[name].detach() for each in shared] for name in shared[0]}, 0)
    parts = [model.loss(each, targets, place, 0) for place, each in enumerate(outputs)]
    total = sum(value * weight for value, weight, _ in parts) / sum(weight for _, weight, _ in parts)
    assert isinstance(total, torch.Tensor)
    parameters = [p for group in model.groups() for p in group.parameters]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
    return total.detach(), gradient, targets


def naive(model: MaskContrast, whole: Views) -> float:
    """The loss of a batch pixel by pixel, in float64 after the networks."""
    p = model.params
    assert whole.segments is not None
    query, key = whole.segments
    with torch.no_grad():
        q, salient = model.head(model.student(whole.pictures[0]).tokens, p.crop, torch.Generator())
        k, _ = model.teacher_head(model.teacher(whole.pictures[1]).tokens, p.crop, torch.Generator())
    q, k = q.double().numpy(), k.double().numpy()
    objects = []
    for n in range(len(query)):
        for segment in range(1, 10):
            share = [float((view[n] == segment).double().mean()) for view in (query, key)]
            if all(p.least_share < each < p.most_share for each in share):
                objects.append((n, segment))
    means = []
    for n, segment in objects:
        total = k[n][:, (key[n] == segment).numpy()].sum(1)
        means.append(total / np.linalg.norm(total))
    candidates = np.concatenate([np.array(means), model.queue.double().numpy()])
    pixels = [q[n][:, (query[n] == segment).numpy()].T for n, segment in objects]
    count = sum(map(len, pixels))
    above = below = 0.0
    for number, rows in enumerate(pixels):
        weight = 1 / math.log(1.02 + len(rows) / count)
        for row in rows:
            scores = candidates @ row / p.temperature
            above += weight * (np.log(np.exp(scores).sum()) - scores[number])
            below += weight
    used = sorted({n for n, _ in objects})
    target, logits = (query[used] > 0).double(), salient[used].double()
    negative = float(1 - target.mean())
    entropy = -(
        negative * target * logits.sigmoid().log() + (1 - negative) * (1 - target) * (1 - logits.sigmoid()).log()
    )
    return above / below + float(entropy.mean())


@pytest.mark.parametrize("ids", [2, 3, 5])
def test_the_loss_is_that_of_its_definition(ids: int) -> None:
    model, whole = learner(), drawn(ids=ids)
    assert float(step(model, whole, 4)[0]) == pytest.approx(naive(model, whole), rel=1e-5)


@pytest.mark.parametrize("upsample", [True, False])
def test_micro_batches_give_the_gradient_of_the_batch(upsample: bool) -> None:
    one, two = (step(learner(upsample=upsample), drawn(), micro) for micro in (4, 1))
    torch.testing.assert_close(one[0], two[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(one[1], two[1], rtol=1e-5, atol=1e-7)


def test_photos_without_an_object_do_not_count() -> None:
    """Their pixels are in neither loss: the gradient is that of the others, at their share of the batch."""
    whole = drawn()
    assert whole.segments is not None
    whole.segments[1][2] = 0  # the key of one photo does not show its objects
    rest = views(tuple(each[[0, 1, 3]] for each in whole.pictures), tuple(each[[0, 1, 3]] for each in whole.segments))
    torch.testing.assert_close(step(learner(), whole, 1)[1], step(learner(), rest, 3)[1], rtol=1e-5, atol=1e-7)


def test_a_batch_without_objects_teaches_nothing() -> None:
    whole = drawn()
    assert whole.segments is not None
    for each in whole.segments:
        each.zero_()
    value, gradient, targets = step(learner(), whole, 2)
    assert value == 0
    assert not gradient.any()
    assert len(targets.prototypes) == 0


def test_shares_are_limits_on_both_sides() -> None:
    query, key = torch.zeros(1, 10, 10, dtype=torch.int64), torch.zeros(1, 10, 10, dtype=torch.int64)
    query[0, 0, :2], key[0, 0, :2] = 1, 1  # 2 %
    query[0, 5:], key[0, 5, 0] = 2, 2  # 50 % and 1 %
    found = losses.objects(query, key, 0.01, 0.99)
    assert found.present.tolist() == [[True]]
    assert set(found.places.unique().tolist()) == {-1, 0}
    assert torch.equal(found.places[0] == 0, query[0] == 1)
    everywhere = torch.ones(1, 10, 10, dtype=torch.int64)
    assert not losses.objects(everywhere, everywhere, 0.01, 0.99).usable.any()


def test_views_without_a_common_object_are_not_accepted() -> None:
    one, two = np.zeros((10, 10), np.int64), np.zeros((10, 10), np.int64)
    one[:5], two[5:] = 3, 4
    assert not maskcontrast.accepts(settings(), [one, two])
    assert not maskcontrast.accepts(settings(), [np.zeros_like(one), one])
    assert maskcontrast.accepts(settings(), [one, one])
    two[:2] = 3
    assert maskcontrast.accepts(settings(), [one, two])
    assert not maskcontrast.accepts(settings(least_share=0.25), [one, two])


def test_the_balance_gives_both_classes_half_of_the_weight() -> None:
    """With the same loss at every pixel, foreground and background weigh alike, however few pixels one has."""
    foreground = torch.zeros(100)
    foreground[:10] = 1
    total = losses.balanced_entropy(torch.zeros(100), foreground, torch.tensor(0.9))
    assert float(total) == pytest.approx((0.9 * 10 + 0.1 * 90) * math.log(2))


def test_the_oldest_rows_leave_the_queue() -> None:
    queue, pointer, rows = torch.zeros(5, 1), 0, torch.arange(1.0, 14.0)[:, None]
    for start, stop in ((0, 2), (2, 6), (6, 13)):
        queue, pointer = losses.pushed(queue, pointer, rows[start:stop])
    assert sorted(queue.flatten().tolist()) == [9, 10, 11, 12, 13]
    assert losses.pushed(queue, pointer, rows[:0])[1] == pointer


def test_only_after_moves_teacher_and_queue() -> None:
    model = learner(teacher_momentum=0.75, queue=32)
    before, queue = model.teacher.layer.weight.clone(), model.queue.clone()
    _, _, targets = step(model, drawn(), 2)
    assert torch.equal(model.queue, queue)
    assert torch.equal(model.teacher.layer.weight, before)
    with torch.no_grad():
        model.student.layer.weight += 1
    model.after(targets, 0)
    torch.testing.assert_close(model.teacher.layer.weight, before + 0.25)
    assert int(model.pointer) == len(targets.prototypes) > 0
    torch.testing.assert_close(model.queue[: len(targets.prototypes)], targets.prototypes)
    assert not any(p.requires_grad for each in (model.teacher, model.teacher_head) for p in each.parameters())


def test_dropout_draws_from_the_given_generator_only() -> None:
    model, whole = learner(decoder="aspp", width=8, dropout=0.5), drawn()
    first, again = (model.outputs(whole, torch.Generator().manual_seed(1), 0)["pixels"] for _ in range(2))
    other = model.outputs(whole, torch.Generator().manual_seed(2), 0)["pixels"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_impossible_shares_are_said() -> None:
    with pytest.raises(ConfigError, match=r"least_share: 0\.5 is not below most_share: 0\.5"):
        validate(maskcontrast.Params, {"least_share": 0.5, "most_share": 0.5}, "recipe.yaml", "pretrain")
