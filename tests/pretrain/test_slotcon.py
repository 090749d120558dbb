"""SlotCon: slots, grouping and contrast against loops over places, its learner, and its crops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from maskmill.backbones.learning import Origin, build
from maskmill.pretrain import slotcon
from maskmill.pretrain._learner import Outputs
from maskmill.pretrain._views import Views
from maskmill.pretrain.slotcon import _grouping
from maskmill.pretrain.slotcon._learner import SlotCon, Whole, _aligned
from maskmill.recipe.feature_set import FeatureSet


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_slots_are_weighted_means_of_places() -> None:
    maps, prototypes, temperature = noise(2, 5, 3, 4), noise(6, 5, seed=1), 0.07
    scored = _grouping.scores(maps, prototypes)
    found = _grouping.slots(maps, scored, temperature)
    for photo in range(2):
        places = maps[photo].flatten(1).T.double().numpy()
        rows = prototypes.double().numpy()
        cosines = places @ rows.T / np.linalg.norm(places, axis=1)[:, None] / np.linalg.norm(rows, axis=1)
        assert np.allclose(scored[photo].flatten(1).T.numpy(), cosines, atol=1e-5)
        shares = np.exp(cosines / temperature)
        shares = shares / shares.sum(1, keepdims=True) + 1e-6
        for k in range(6):
            mean = sum(shares[i, k] * places[i] for i in range(12)) / shares[:, k].sum()
            assert np.allclose(found[photo, k].numpy(), mean, atol=1e-4)


def test_shown_prototypes_win_a_place() -> None:
    scored = torch.zeros(1, 3, 1, 2)
    scored[0, 2, 0, 0] = scored[0, 0, 0, 1] = 1.0
    assert _grouping.shown(scored).tolist() == [[True, False, True]]


def test_grouping_is_the_cross_entropy_with_centred_shares() -> None:
    student, teacher, centre = noise(7, 4), noise(7, 4, seed=1), noise(4, seed=2)
    found = float(_grouping.grouping(student, teacher, centre, 0.5, 0.25))
    total = 0.0
    for i in range(7):
        wanted = [math.exp(float(t - c) / 0.25) for t, c in zip(teacher[i], centre, strict=True)]
        had = [math.exp(float(s) / 0.5) for s in student[i]]
        total -= sum(w / sum(wanted) * math.log(h / sum(had)) for w, h in zip(wanted, had, strict=True))
    assert found == pytest.approx(total / 7, rel=1e-4)


def test_contrast_is_info_nce_times_twice_its_temperature() -> None:
    queries, keys = noise(3, 4), torch.nn.functional.normalize(noise(5, 4, seed=1), dim=1)
    labels, total = [4, 0, 2], 0.0
    for row, label in zip(queries, labels, strict=True):
        cosines = [float(row @ key / row.norm()) / 0.2 for key in keys]
        total += math.log(sum(map(math.exp, cosines))) - cosines[label]
    found = float(_grouping.contrast(queries, keys, torch.tensor(labels), 0.2))
    assert found == pytest.approx(total * 0.4, rel=1e-5)


def test_scores_of_mirrored_crops_lie_on_each_other() -> None:
    """A ramp over the photo is the same in both crops' overlaps, whichever of them is mirrored."""
    boxes = torch.tensor([[[0.0, 0.5, 0.0, 0.5], [0.25, 0.75, 0.25, 0.75]]]).repeat(4, 1, 1)
    flips = torch.tensor([[False, False], [True, False], [False, True], [True, True]])
    views = Views((), boxes, flips, torch.zeros(4, 2), torch.arange(4))
    ramps = []
    for crop in (0, 1):
        x = boxes[:, crop, 2:3] + 0.5 * (torch.arange(8) + 0.5) / 8
        y = boxes[:, crop, 0:1] + 0.5 * (torch.arange(8) + 0.5) / 8
        ramp = 10 * x[:, None, :] + y[:, :, None]
        ramp = torch.where(flips[:, crop, None, None], ramp.flip(2), ramp)
        ramps.append(_aligned(ramp[:, None], views, crop)[:, 0, 1:-1, 1:-1])  # borders have no neighbours to blend with
    assert torch.allclose(ramps[0], ramps[1], atol=1e-4)
    assert float((ramps[0][0, :, 1:] - ramps[0][0, :, :-1]).min()) > 0


# A learner on a small network.


def params(**changes: object) -> slotcon.Params:
    small = {
        "side": 64, "prototypes": 5, "hidden": 16, "dimensions": 8, "steps": 4, "batch_size": 6, "micro_batch": 3,
    }  # fmt: skip
    return slotcon.Params.model_validate(small | changes)


def learner(settings: slotcon.Params) -> SlotCon:
    torch.manual_seed(0)
    found = slotcon.build(build(Origin(FeatureSet(backbone="test_vit"), "test_vit")), settings, 8)
    assert isinstance(found, SlotCon)
    found.teacher_prototypes.data += 0.3 * noise(*found.teacher_prototypes.shape, seed=5)  # as after some steps
    return found.train()


def drawn(settings: slotcon.Params, seed: int, n: int = 3) -> Views:
    """Views of n photos that are noise; some are mirrored."""
    pictures = tuple(noise(n, 3, settings.side, settings.side, seed=10 * seed + i) for i in range(2))
    boxes = np.stack([slotcon.draw(settings, 60, 80, np.random.default_rng(seed * 10 + i)) for i in range(n)])
    flips = torch.arange(2 * n).view(n, 2) % 3 == 0
    return Views(pictures, torch.from_numpy(boxes).float(), flips, torch.zeros(n, 2).long(), torch.arange(n))


def step_of(one: SlotCon, micro: list[Views]) -> tuple[list[Outputs], Whole, list[tuple[torch.Tensor, float]]]:
    outputs = [one.outputs(views, torch.Generator(), 0) for views in micro]
    shared = [one.shared(each) for each in outputs]
    targets = one.targets({name: [each[name] for each in shared] for name in shared[0]}, 0)
    losses = [one.loss(each, targets, i, 0)[:2] for i, each in enumerate(outputs)]
    return outputs, targets, losses


def test_contrast_of_the_whole_batch_by_loops() -> None:
    """Two micro-batches: keys are those of both, and the weighted losses are the mean over all slots."""
    settings = params(grouping_weight=0.0)
    one = learner(settings)
    outputs, _, losses = step_of(one, [drawn(settings, 0), drawn(settings, 1)])
    total = torch.tensor(0.0)
    for crop in (0, 1):
        other, keys, names = 1 - crop, [], []
        for i, each in enumerate(outputs):
            for photo in range(3):
                for k in range(5):
                    if each["teacher_shown"][other, photo, k]:
                        keys.append(torch.nn.functional.normalize(each["teacher_slots"][other, photo, k], dim=0))
                        names.append((i, photo, k))
        terms = []
        for i, each in enumerate(outputs):
            asked = [
                (photo, k) for photo in range(3) for k in range(5)
                if each["student_shown"][crop, photo, k] and (i, photo, k) in names
            ]  # fmt: skip
            rows = one.predictor(torch.stack([each["student_slots"][crop][key] for key in asked]))
            for row, key in zip(rows, asked, strict=True):
                logits = torch.stack(keys) @ torch.nn.functional.normalize(row, dim=0) / 0.2
                terms.append(0.4 * (logits.logsumexp(0) - logits[names.index((i, *key))]))
        total = total + torch.stack(terms).mean()
    found = sum(float(loss.detach()) * weight for loss, weight in losses) / sum(weight for _, weight in losses)
    assert found == pytest.approx(float(total.detach()), rel=1e-4)


def test_micro_batches_do_not_change_grouping_and_centre() -> None:
    """One micro-batch of six photos or two of three: without batch norms of different rows nothing differs."""
    settings = params(grouping_weight=1.0)
    one = learner(settings)
    one.head.layers = one.teacher_head.layers = torch.nn.Sequential(torch.nn.Linear(one.student.depth, 8))
    parts = [drawn(settings, 0), drawn(settings, 1)]
    joined = Views(
        tuple(map(torch.cat, zip(*(part.pictures for part in parts), strict=True))),
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "flips", "places", "items")),
    )
    found = []
    for micro in (parts, [joined]):
        _, targets, losses = step_of(one, micro)
        mean = sum(float(loss.detach()) * weight for loss, weight in losses) / 6
        found.append((mean, targets.centre))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_only_the_student_has_gradients_and_what_follows_a_step() -> None:
    settings = params(teacher_momentum=0.9)
    one = learner(settings)
    _, targets, losses = step_of(one, [drawn(settings, 0), drawn(settings, 1)])
    sum(loss for loss, _ in losses).backward()  # type: ignore[union-attr]
    for module in (one.head, one.predictor):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    assert one.prototypes.grad is not None
    assert float(one.prototypes.grad.abs().sum()) > 0
    assert all(p.grad is None for p in (*one.teacher.parameters(), *one.teacher_head.parameters()))
    assert one.teacher_prototypes.grad is None
    before = one.teacher_prototypes.clone()
    one.after(targets, 0)
    momentum = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2  # as of the next step
    assert torch.allclose(one.teacher_prototypes, momentum * before + (1 - momentum) * one.prototypes, atol=1e-6)
    assert torch.allclose(one.centre, 0.1 * targets.centre)
    assert one.exported() is one.teacher


def test_crops_that_do_not_meet_are_contrasted_only() -> None:
    settings = params()
    one = learner(settings)
    views = drawn(settings, 0)
    apart = torch.tensor([[0.0, 0.4, 0.0, 0.4], [0.5, 1.0, 0.5, 1.0]]).repeat(3, 1, 1)
    moved = Views(views.pictures, apart, views.flips, views.places, views.items)
    _, _, losses = step_of(one, [moved, views])
    (both,) = torch.autograd.grad(losses[0][0], one.predictor.layers[0].weight, retain_graph=True)
    assert torch.isfinite(losses[0][0])
    assert float(both.abs().sum()) > 0
    outputs = one.outputs(moved, torch.Generator(), 0)
    assert float(one._grouping(outputs)[0].detach()) == 0


def test_second_crops_mostly_meet_the_first() -> None:
    settings, met = params(scale=(0.08, 1.0)), 0
    for seed in range(300):
        first, second = slotcon.draw(settings, 300, 400, np.random.default_rng(seed))
        tall = min(first[1], second[1]) - max(first[0], second[0])
        wide = min(first[3], second[3]) - max(first[2], second[2])
        met += min(tall, wide) > 0
    assert met == 300


def test_the_settings_are_the_published_ones() -> None:
    """scripts/slotcon_coco_r50_800ep.sh of the published code, on the 118 287 photos of COCO."""
    p = slotcon.Params()
    assert p.steps == 800 * (118_287 // 512)
    assert p.warmup == 5 / 800
    assert (p.batch_size, p.learning_rate, p.final_rate, p.weight_decay) == (512, 2.0, 1e-6, 1e-5)
    assert (p.optimiser, p.momentum, p.network_rate) == ("lars", 0.9, 1.0)
    assert (p.prototypes, p.hidden, p.dimensions, p.grouping_weight) == (256, 4096, 256, 0.5)
    assert (p.student_temperature, p.teacher_temperature, p.contrast_temperature) == (0.1, 0.07, 0.2)
    assert (p.centre_momentum, p.teacher_momentum) == (0.9, 0.99)
    first, second = slotcon.views(p)
    assert first.side == second.side == 224
    assert first.scale == second.scale == (0.08, 1.0)
    assert first.light.jitter == (0.4, 0.4, 0.2, 0.1)
    assert (first.light.blur, second.light.blur, first.light.solarise, second.light.solarise) == (1.0, 0.1, 0.0, 0.2)
