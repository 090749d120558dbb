"""DINO's losses against loops over crops and patches, its centres, temperatures and hidden patches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from maskmill.backbones.learning import Learning, Origin, build
from maskmill.errors import ConfigError
from maskmill.pretrain import dino
from maskmill.pretrain._views import Views
from maskmill.recipe.feature_set import FeatureSet

SETTINGS: dict[str, Any] = {
    "steps": 100, "batch_size": 8, "micro_batch": 4, "crop": 32, "local_crop": 16, "local_crops": 1, "prototypes": 12,
    "hidden": 16, "bottleneck": 8, "freeze_last": 0.02,
}  # fmt: skip


def network(name: str = "vit_tiny_patch16_224") -> Learning:
    torch.manual_seed(0)
    return build(Origin(FeatureSet(backbone=name), name))


def learner(**settings: Any) -> dino.Dino:
    return dino.build(network(), dino.Params(**(SETTINGS | settings)), 20)


def views(n: int = 4) -> Views:
    pictures = (torch.randn(n, 3, 32, 32), torch.randn(n, 3, 32, 32), torch.randn(n, 3, 16, 16))
    return Views(
        pictures, torch.zeros(n, 3, 4), torch.zeros(n, 3, dtype=torch.bool), torch.zeros(n, 3), torch.arange(n)
    )


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_is_the_mean_over_pairs_of_different_crops() -> None:
    student, center = torch.randn(5, 4, 7), torch.randn(1, 7)
    teacher = ((torch.randn(5, 2, 7) - center) / 0.04).softmax(-1)
    total, terms = 0.0, 0
    for t in range(2):
        for s in range(4):
            if s == t:
                continue
            rows = [
                -sum(float(teacher[n, t, k]) * math.log(float((student[n, s] / 0.1).softmax(0)[k])) for k in range(7))
                for n in range(5)
            ]
            total, terms = total + sum(rows) / 5, terms + 1
    assert float(dino.cross_view_loss(student, teacher, 0.1)) == pytest.approx(total / terms, rel=1e-5)


def test_the_gradient_of_the_loss_is_right() -> None:
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 4, dtype=torch.float64).softmax(-1)

    def loss(x: torch.Tensor) -> torch.Tensor:
        logs = (x / 0.5).log_softmax(-1)  # in double: the method computes in single precision
        pairs = -torch.einsum("ntk,nck->tc", teacher, logs) / 2
        return pairs[~torch.eye(2, 3, dtype=torch.bool)].mean()

    (wanted,) = torch.autograd.grad(loss(student), student)
    (found,) = torch.autograd.grad(dino.cross_view_loss(student, teacher.float(), 0.5), student)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert torch.autograd.gradcheck(loss, (student,))


def test_hidden_patches_count_alike_in_every_crop() -> None:
    student, teacher = torch.randn(5, 6), torch.randn(5, 6).softmax(-1)
    weights = torch.tensor([1.0, 1 / 4, 1 / 4, 1 / 4, 1 / 4])
    rows = [-float((teacher[i] * (student[i] / 0.1).log_softmax(0)).sum()) for i in range(5)]
    wanted = rows[0] + sum(rows[1:]) / 4
    assert float(dino.patch_loss(student, teacher, weights, 0.1)) == pytest.approx(wanted, rel=1e-5)


def test_targets_are_centred_and_sharpened_and_the_centre_follows_the_mean() -> None:
    made = learner()
    made.center.copy_(torch.randn(1, 12))
    before, scores = made.center.clone(), [torch.randn(4, 2, 12), torch.randn(4, 2, 12)]
    targets = made.targets({"teacher": scores}, 50)
    assert torch.allclose(targets["teacher"][1], ((scores[1] - before) / 0.04).softmax(-1))
    assert torch.equal(made.center, before)  # targets change nothing
    made.after(targets, 50)
    assert torch.allclose(made.center, 0.9 * before + 0.1 * torch.cat(scores).flatten(0, 1).mean(0))


def test_sinkhorn_balances_each_large_crop_over_the_whole_batch() -> None:
    made = learner(centering="sinkhorn", teacher_temperature=0.5, warmup_temperature=0.5)
    scores = [torch.randn(6, 2, 12), torch.randn(2, 2, 12)]
    found = torch.cat(made.targets({"teacher": scores}, 50)["teacher"])
    rows = (torch.cat(scores).transpose(0, 1).flatten(0, 1) / 0.5).double().exp().T
    rows = rows / rows.sum()
    for _ in range(3):
        rows = rows / rows.sum(1, keepdim=True) / 12
        rows = rows / rows.sum(0, keepdim=True) / 16
    wanted = (rows * 16).T.view(2, 8, 12).transpose(0, 1)
    assert torch.allclose(found.double(), wanted, atol=1e-5)


def test_the_temperature_warms_up_linearly() -> None:
    made = learner(warmup_temperature=0.02, teacher_temperature=0.06, temperature_warmup=0.4)
    assert [made.temperature(step) for step in (0, 20, 40, 99)] == pytest.approx([0.02, 0.04, 0.06, 0.06])


def test_the_teacher_moves_towards_the_student_and_stands_still_at_the_end() -> None:
    made = learner(teacher_momentum=0.5)
    with torch.no_grad():
        made.student.model.norm.bias.fill_(1.0)
        made.teacher.model.norm.bias.fill_(0.0)
    targets = made.targets({"teacher": [torch.randn(2, 2, 12)]}, 0)
    made.after(targets, 0)
    assert torch.allclose(made.teacher.model.norm.bias, torch.tensor(0.5))
    made.after(targets, 100)
    assert torch.allclose(made.teacher.model.norm.bias, torch.tensor(0.5))


def test_the_last_layer_stays_as_it_is_in_the_first_steps() -> None:
    made = learner()
    for step, stays in ((0, True), (2, False)):
        outputs = made.outputs(views(), draws(), step)
        targets = made.targets({name: [value] for name, value in made.shared(outputs).items()}, step)
        loss, weight, told = made.loss(outputs, targets, 0, step)
        (found,) = torch.autograd.grad(loss, [made.head.last.weight], allow_unused=True)
        assert (found is None) == stays
        assert weight == 4
        assert set(told) == {"entropy", "mean_entropy"}


def test_no_step_is_counted_for_a_last_layer_that_stays() -> None:
    made = learner(patch_weight=1.0)
    assert [id(p) for p in made.idle(0)] == [id(made.head.last.weight), id(made.patch_head.last.weight)]
    assert made.idle(2) == []


def test_confident_outputs_of_many_kinds_have_a_mean_of_high_entropy() -> None:
    teacher = torch.eye(12)[torch.arange(8) % 4].view(4, 2, 12)
    outputs = {"student": torch.zeros(4, 3, 12)}
    _, _, told = learner().loss(outputs, {"teacher": [teacher]}, 0, 5)
    assert float(told["entropy"]) == pytest.approx(0, abs=1e-6)
    assert float(told["mean_entropy"]) == pytest.approx(math.log(4), rel=1e-5)


def test_positions_are_decayed_as_published() -> None:
    decayed, flat = learner().groups()
    assert {p.ndim for p in flat.parameters} == {1}
    assert any(p.ndim == 3 for p in decayed.parameters)


def test_patches_are_hidden_from_the_student_only() -> None:
    made = learner(patch_weight=1.0, hide=(0.5, 0.5), hide_chance=1.0)
    outputs = made.outputs(views(), draws(), 5)
    assert outputs["patches"].shape == outputs["teacher_patches"].shape == (4 * 2 * 2, 12)  # half of 2 x 2 patches
    assert outputs["patch_weights"].tolist() == [0.5] * 16
    assert (outputs["hidden"] == 0.5).all()
    assert not outputs["teacher_patches"].requires_grad
    again = made.outputs(views(), draws(), 5)
    assert again["hidden"].shape == (4, 2)
    none = learner(patch_weight=1.0, hide_chance=0.0).outputs(views(), draws(), 5)
    assert len(none["patches"]) == 0


def test_what_is_hidden_depends_on_the_generator_alone() -> None:
    made, picture = learner(patch_weight=1.0, hide_chance=0.7), torch.randn(64, 3, 64, 64)
    a, b, c = (made._hidden(picture, draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    shares = a.flatten(1).float().mean(1)
    assert 0.4 < float((shares > 0).float().mean()) < 0.95
    assert float(shares.max()) <= 0.5 + 1 / 16


def test_hidden_patches_need_a_vit() -> None:
    with pytest.raises(ConfigError, match="ViT"):
        dino.build(network("resnet18"), dino.Params(**(SETTINGS | {"patch_weight": 1.0})), 20)


def test_the_settings_are_the_published_ones() -> None:
    params = dino.Params()
    specs = dino.views(params)
    assert [spec.side for spec in specs] == [224] * 2 + [96] * 8
    assert [spec.light.blur for spec in specs[:3]] == [1.0, 0.1, 0.5]
    assert [spec.light.solarise for spec in specs[:3]] == [0.0, 0.2, 0.0]
    assert (params.prototypes, params.student_temperature, params.teacher_momentum) == (65536, 0.1, 0.996)
