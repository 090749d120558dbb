"""SegSort: the likelihood by its definition, gradients through prototypes of other micro-batches, segments of crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskmill.backbones.learning import Maps
from maskmill.pretrain import segsort
from maskmill.pretrain._views import Views
from maskmill.pretrain.segsort import loss as losses
from maskmill.pretrain.segsort.learner import SegSort


class Patches(nn.Module):
    """A network of one layer in place of a backbone: patches of 4 pixels, without statistics of a batch."""

    depth, stride, is_vit = 6, 4, False

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, self.depth, 4, stride=4)

    def forward(self, x: torch.Tensor) -> Maps:
        tokens = self.layer(x)
        return Maps(tokens, tokens.mean((2, 3)))


def learner(**given: Any) -> SegSort:
    torch.manual_seed(0)
    small = {"crop": 32, "batch_size": 4, "micro_batch": 2, "decoder": "none", "dimensions": 5}
    return SegSort(Patches(), segsort.Params(**{**small, **given}))  # type: ignore[arg-type]


def views(pictures: torch.Tensor, segments: torch.Tensor) -> Views:
    n = len(pictures)
    zeros = torch.zeros(n, 1, dtype=torch.int64)
    return Views((pictures,), torch.zeros(n, 1, 4), zeros.bool(), zeros, torch.arange(n), (segments,))


def drawn(photos: int = 4, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 4, (photos, side // 8, side // 8), generator=draws)
    return torch.randn(photos, 3, side, side, generator=draws), blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)


def step(model: SegSort, pictures: torch.Tensor, segments: torch.Tensor, micro: int) -> tuple[Any, torch.Tensor]:
    """Loss and gradient of a step in micro-batches, as the trainer adds them."""
    starts = range(0, len(pictures), micro)
    outputs = [
        model.outputs(views(pictures[at : at + micro], segments[at : at + micro]), torch.Generator(), 0)
        for at in starts
    ]
    shared = [model.shared(each) for each in outputs]
    targets = model.targets({name: [each[name].detach() for each in shared] for name in shared[0]}, 0)
    parts = [model.loss(each, targets, place, 0) for place, each in enumerate(outputs)]
    total: Any = sum(value * weight for value, weight, _ in parts) / sum(weight for _, weight, _ in parts)
    parameters = [p for group in model.groups() for p in group.parameters]
    return total.detach(), torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])


def naive(pixels: torch.Tensor, places: list[int], kappa: float) -> torch.Tensor:
    """The mean negative log-likelihood with prototypes that carry gradient, pixel by pixel."""
    prototypes = []
    for number in sorted(set(places)):
        total = torch.stack([row for row, place in zip(pixels, places, strict=True) if place == number]).sum(0)
        prototypes.append(total / total.norm())
    terms = []
    for row, place in zip(pixels, places, strict=True):
        scores = torch.stack([(kappa * (row * prototype).sum()).exp() for prototype in prototypes])
        terms.append(-(scores[place] / scores.sum()).log())
    return torch.stack(terms).mean()


def test_the_likelihood_and_its_gradient_are_those_of_the_definition() -> None:
    draws = torch.Generator().manual_seed(0)
    raw = torch.randn(30, 4, generator=draws, dtype=torch.float64, requires_grad=True)
    places = torch.randint(0, 5, (30,), generator=draws)
    pixels = nn.functional.normalize(raw, dim=1)
    ours = losses.likelihood(pixels, places, losses.mean_directions(pixels, places, 5), 10.0) / 30
    (gradient,) = torch.autograd.grad(ours, raw)
    plain = naive(nn.functional.normalize(raw, dim=1), places.tolist(), 10.0)
    (expected,) = torch.autograd.grad(plain, raw)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("parts", [0, 3])
@pytest.mark.parametrize("micro", [1, 2])
def test_micro_batches_give_the_gradient_of_the_batch(micro: int, parts: int) -> None:
    """Also through the prototypes of segments that another micro-batch has."""
    one, two = (step(learner(parts=parts), *drawn(), size) for size in (4, micro))
    torch.testing.assert_close(one[0], two[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(one[1], two[1], rtol=1e-4, atol=1e-7)
    pictures, segments = drawn()
    model = learner(parts=parts)
    outputs = model.outputs(views(pictures, segments), torch.Generator(), 0)
    joint = losses.likelihood(outputs["pixels"], outputs["places"], outputs["prototypes"], 10.0)
    parameters = [p for group in model.groups() for p in group.parameters]
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(joint / len(outputs["pixels"]), parameters)])
    torch.testing.assert_close(two[1], whole, rtol=1e-4, atol=1e-7)


def test_segments_of_two_photos_are_never_one() -> None:
    segments = torch.tensor([[[0, 0], [7, 7]], [[0, 7], [0, 7]]])
    assert losses.numbered(segments).tolist() == [0, 0, 1, 1, 2, 3, 2, 3]


def test_parts_divide_segments_and_join_none() -> None:
    pictures, segments = drawn()
    whole, divided = (
        learner(parts=parts).outputs(views(pictures, segments), torch.Generator(), 0)["places"] for parts in (0, 4)
    )
    pairs = torch.unique(torch.stack([whole, divided]), dim=1)
    assert pairs.shape[1] == len(divided.unique()) > len(whole.unique())


def test_what_is_new_learns_faster() -> None:
    model = learner(decoder="psp", width=8, head_rate=10.0)
    rates = {id(p): group.rate for group in model.groups() for p in group.parameters}
    assert {rates[id(p)] for p in model.student.parameters()} == {1.0}
    assert {rates[id(p)] for each in (model.decoder, model.embed) for p in each.parameters()} == {10.0}
    assert len(rates) == len(list(model.parameters()))


def test_the_loss_falls_where_segments_can_be_told_apart() -> None:
    """Pictures of flat colours: a hundred steps sort the pixels into their segments."""
    pictures, segments = drawn(2)
    colours = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    kinds = segments + 4 * torch.arange(2)[:, None, None]
    pictures = colours[kinds].permute(0, 3, 1, 2) + 0.1 * pictures
    model = learner()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    course = []
    for _ in range(100):
        value, gradient = step(model, pictures, segments, 2)
        at = 0
        for parameter in (p for group in model.groups() for p in group.parameters):
            parameter.grad = gradient[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()
        optimiser.step()
        course.append(float(value))
    assert course[-1] < 0.5 * course[0]
    assert np.isfinite(course).all()
