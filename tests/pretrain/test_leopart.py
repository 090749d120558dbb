"""Leopart: its step against naive loops, its geometry against the photo, its foreground, queue and teacher."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photo_rows
import pytest
import torch
from torch import Tensor

from maskmill.backbones.learning import Learning
from maskmill.backbones.network import import_timm
from maskmill.errors import ConfigError
from maskmill.pretrain import leopart
from maskmill.pretrain._align import overlap, roi_align, within
from maskmill.pretrain._learner import Learner
from maskmill.pretrain._schedules import cosine
from maskmill.pretrain._trainer import Training, train
from maskmill.pretrain._views import Normalisation, Photos, Views
from maskmill.pretrain.leopart import Params
from maskmill.pretrain.leopart.learner import Leopart, Targets, counted_cells, foreground
from maskmill.training.checkpoint import Keeper

SMALL: dict[str, Any] = {
    "steps": 20, "batch_size": 6, "micro_batch": 3, "prototypes": 7, "dimensions": 5, "hidden": 11, "queue": 40,
    "queued": 4, "align": 3, "crop": 48, "local_crop": 24, "local_crops": 2, "drop_path": 0.0, "mass": 0.9,
    "least": 2,
}  # fmt: skip


def learner(network: str = "vit", **changed: Any) -> Leopart:
    """A learner around a tiny network with random weights."""
    timm = import_timm()
    torch.manual_seed(0)
    if network == "vit":
        model = timm.models.vision_transformer.VisionTransformer(
            img_size=48, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=0, dynamic_img_size=True
        )
    else:
        model = timm.create_model("test_resnet", num_classes=0)
    params = Params(**(SMALL | changed))
    found = leopart.build(Learning(model), params, 10)
    with torch.no_grad():  # a teacher of its own: were it the student's copy, exchanging them would not show
        for parameter in found.teacher_projection.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.05)
        for parameter in found.projection.mlp.parameters():
            parameter.mul_(8)  # scores that differ from one another
        for parameter in found.teacher_projection.mlp.parameters():
            parameter.mul_(8)
        found.teacher_projection.normalise()
    return found


def some_views(params: Params, n: int, seed: int) -> Views:
    """Views of noise."""
    generator = torch.Generator().manual_seed(seed)
    specs = leopart.views(params)
    draws = np.random.default_rng(seed)
    boxes = torch.from_numpy(np.stack([leopart.draw(params, 50, 60, draws) for _ in range(n)])).float()
    pictures = tuple(torch.randn(n, 3, spec.side, spec.side, generator=generator) for spec in specs)
    places = torch.arange(n)[:, None].expand(n, len(specs))
    return Views(pictures, boxes, torch.zeros(n, len(specs), dtype=torch.bool), places, torch.arange(n))


def step(model: Leopart, views: list[Views], number: int = 0) -> tuple[list[Any], Targets, Tensor]:
    """Outputs, targets and loss of a step whose micro-batches have these views."""
    passed = [model.outputs(each, torch.Generator().manual_seed(9), number) for each in views]
    shared = [model.shared(each) for each in passed]
    targets = model.targets({name: [each[name] for each in shared] for name in shared[0]}, number)
    losses = [model.loss(each, targets, place, number) for place, each in enumerate(passed)]
    weights = sum(weight for _, weight, _ in losses)
    total = sum((loss * weight for loss, weight, _ in losses), torch.tensor(0.0)) / weights
    return passed, targets, total


# the published step, in loops


def naive_align(grid: np.ndarray, box: tuple[float, ...], size: int) -> np.ndarray:
    """RoIAlign of a map [h, w, c] over a box in cells (y0, y1, x0, x1), sample by sample."""
    h, w, c = grid.shape
    y0, y1, x0, x1 = (edge - 0.5 for edge in box)
    tall, wide = (y1 - y0) / size, (x1 - x0) / size
    rows, columns = max(1, math.ceil(tall)), max(1, math.ceil(wide))
    found = np.zeros((size, size, c))
    for a, b in itertools.product(range(size), repeat=2):
        for i, j in itertools.product(range(rows), range(columns)):
            y = min(max(y0 + tall * (a + (i + 0.5) / rows), 0), h - 1)
            x = min(max(x0 + wide * (b + (j + 0.5) / columns), 0), w - 1)
            low, left = int(y), int(x)
            high, right = min(low + 1, h - 1), min(left + 1, w - 1)
            dy, dx = y - low, x - left
            found[a, b] += (1 - dy) * ((1 - dx) * grid[low, left] + dx * grid[low, right])
            found[a, b] += dy * ((1 - dx) * grid[high, left] + dx * grid[high, right])
    return found / (rows * columns)


def naive_assign(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Sinkhorn's iterations on probabilities [rows, k]."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * len(q)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q / q.sum(0, keepdims=True)).T


def naive_loss(model: Leopart, views: list[Views], queue: np.ndarray | None) -> float:
    """The loss of a step: every pair of crops, every photo, every cell, one by one."""
    p = model.params
    with torch.no_grad():
        crops = [torch.cat([each.pictures[v] for each in views]) for v in range(model.crops)]
        said = [model.projection.scores(model.projection(model.student(x).tokens)).double().numpy() for x in crops]
        seen = [model.teacher(x, attention=p.foreground == "attention") for x in crops[:2]]
        taught = [model.teacher_projection(each.tokens) for each in seen]
    own = model.projection.prototypes.detach().double().numpy()
    others = model.teacher_projection.prototypes.double().numpy()
    boxes = torch.cat([each.boxes for each in views]).double().numpy()
    total = 0.0
    for i in range(2):
        rows = taught[i].double().flatten(0, 2).numpy() @ others.T
        together = rows if queue is None else np.concatenate([queue[i] @ own.T, rows])
        q = naive_assign(together, p.epsilon, p.iterations)[-len(rows) :].reshape(*taught[i].shape[:3], -1)
        masks = np.ones(q.shape[:3])
        if p.foreground == "attention":
            masks = np.stack([naive_foreground(each.mean(0).double().numpy(), p) for each in seen[i].attention])
        for v in range(model.crops):
            if v == i:
                continue
            crossed, cells = 0.0, 0
            for n in range(len(boxes)):
                both = (
                    max(boxes[n, i, 0], boxes[n, v, 0]), min(boxes[n, i, 1], boxes[n, v, 1]),
                    max(boxes[n, i, 2], boxes[n, v, 2]), min(boxes[n, i, 3], boxes[n, v, 3]),
                )  # fmt: skip
                wanted = naive_align(q[n], in_cells(both, boxes[n, i], q.shape[1]), p.align)
                inside = naive_align(masks[n, ..., None], in_cells(both, boxes[n, i], q.shape[1]), p.align)[..., 0]
                logits = naive_align(said[v][n], in_cells(both, boxes[n, v], said[v].shape[1]), p.align)
                for a, b in itertools.product(range(p.align), repeat=2):
                    if inside[a, b] >= 1 - 1e-6:
                        x = logits[a, b] / p.temperature
                        crossed -= float(wanted[a, b] @ (x - np.log(np.exp(x).sum())))
                        cells += 1
            total += crossed / max(cells, 1)
    return total / (2 * (model.crops - 1))


def in_cells(box: tuple[float, ...], crop: np.ndarray, cells: int) -> tuple[float, ...]:
    """A box of the photo in the cells of a crop."""
    tall, wide = crop[1] - crop[0], crop[3] - crop[2]
    y0, y1, x0, x1 = box
    return tuple(
        float(each) * cells
        for each in ((y0 - crop[0]) / tall, (y1 - crop[0]) / tall, (x0 - crop[2]) / wide, (x1 - crop[2]) / wide)
    )


def naive_foreground(attention: np.ndarray, p: Params) -> np.ndarray:
    """Blur with written out taps, tokens one by one from the largest, parts by flooding."""
    h, w = attention.shape
    taps = np.exp(-0.5 * (np.arange(-3, 4) / p.sigma) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    padded = np.pad(attention, 3, mode="reflect")
    blurred = np.array([[(padded[i : i + 7, j : j + 7] * kernel).sum() for j in range(w)] for i in range(h)])
    chosen, held = set(), 0.0
    for place in sorted(np.ndindex(h, w), key=lambda place: -blurred[place]):
        if held >= p.mass * blurred.sum():
            break
        chosen.add(place)
        held += float(blurred[place])
    found = np.zeros((h, w))
    while chosen:
        part, front = set(), [chosen.pop()]
        while front:
            y, x = front.pop()
            part.add((y, x))
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & chosen
            chosen -= near
            front.extend(near)
        if len(part) >= p.least:
            for place in part:
                found[place] = 1
    return found


@pytest.mark.parametrize(("kind", "queue"), [("attention", 40), ("attention", 0), ("all", 40)])
def test_a_step_is_that_of_naive_loops(kind: str, queue: int) -> None:
    model = learner(foreground=kind, queue=queue)
    views = [some_views(model.params, 3, seed) for seed in (1, 2)]
    if queue:
        with torch.no_grad():
            model.queue.copy_(torch.nn.functional.normalize(torch.randn(2, queue, 5), dim=-1))
            model.held.fill_(queue)
    outputs, _, loss = step(model, views)
    counted = torch.cat([each["counted"] for each in outputs], 2)
    assert bool(counted[0, 1:].any())
    assert kind == "all" or not bool(counted[0, 1:].all())
    loss = loss.detach()
    expected = naive_loss(model, views, model.queue.double().numpy() if queue else None)
    assert float(loss) == pytest.approx(expected, rel=2e-5)
    if queue:
        assert float(loss) != pytest.approx(naive_loss(model, views, None), rel=2e-5)


def test_micro_batches_do_not_matter() -> None:
    model = learner()
    views = [some_views(model.params, 3, seed) for seed in (1, 2)]
    parts = [torch.cat([a, b]) for a, b in zip(views[0].pictures, views[1].pictures, strict=True)]
    boxes, flips, places, items = (
        torch.cat([getattr(each, name) for each in views]) for name in ("boxes", "flips", "places", "items")
    )
    together = step(model, [Views(tuple(parts), boxes, flips, places, items)])[2]
    apart = step(model, views)[2]
    assert together.item() == pytest.approx(apart.item(), rel=1e-5)
    learning = [p for group in model.groups() for p in group.parameters]
    for one, other in zip(torch.autograd.grad(together, learning), torch.autograd.grad(apart, learning), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_a_batch_without_foreground_teaches_nothing() -> None:
    model = learner(least=37)  # more than the 36 tokens of a crop
    _, targets, loss = step(model, [some_views(model.params, 3, 1)])
    assert loss.item() == 0
    assert float(targets.cells.sum()) == 0
    assert [len(each) for each in targets.queued] == [0, 0]
    gradients = torch.autograd.grad(loss, list(model.projection.parameters()), allow_unused=True)
    assert all(each is None or not each.any() for each in gradients)


# geometry


def test_cells_of_two_crops_show_the_same_place() -> None:
    """Maps whose values are the place in the photo agree cell by cell where two crops overlap."""
    params = Params(**SMALL)
    boxes = torch.from_numpy(np.stack([leopart.draw(params, 80, 60, np.random.default_rng(s)) for s in range(40)]))
    shown = []
    for v in range(boxes.shape[1]):
        side = 60 if v < 2 else 24
        centres = (torch.arange(side) + 0.5) / side
        y0, y1, x0, x1 = boxes[:, v].T[..., None]
        rows, columns = y0 + (y1 - y0) * centres, x0 + (x1 - x0) * centres
        shown.append(torch.stack([rows[:, :, None].expand(-1, -1, side), columns[:, None].expand(-1, side, -1)], 1))
    for i, v in itertools.product(range(2), range(boxes.shape[1])):
        both = overlap(boxes[:, i], boxes[:, v])
        one, other = (roi_align(shown[c], within(both, boxes[:, c]), 4) for c in (i, v))
        torch.testing.assert_close(one, other, atol=0.02, rtol=0)  # half a pixel at the edge of a crop is flat
        y0, y1, x0, x1 = both.T[..., None]
        place = (torch.arange(4) + 0.5) / 4
        torch.testing.assert_close(other[:, 0].mean(2), y0 + (y1 - y0) * place, atol=0.02, rtol=0)
        torch.testing.assert_close(other[:, 1].mean(1), x0 + (x1 - x0) * place, atol=0.02, rtol=0)


def test_views_are_the_published_ones_and_never_mirrored() -> None:
    specs = leopart.views(Params())
    assert [spec.side for spec in specs] == [224, 224, 96, 96, 96, 96]
    assert [spec.scale for spec in specs] == [(0.25, 1.0)] * 2 + [(0.05, 0.25)] * 4
    assert {spec.flip for spec in specs} == {0.0}
    assert {spec.light.jitter for spec in specs} == {(0.8, 0.8, 0.8, 0.2)}


def test_a_cell_counts_if_all_of_it_is_foreground() -> None:
    inside = torch.zeros(2, 1, 6, 6, dtype=torch.bool)
    inside[:, :, :, :3] = True  # the left half
    boxes = torch.tensor([[[0.0, 1, 0, 1], [0.0, 1, 0, 1], [0.0, 0.5, 0, 1], [0.5, 1.0, 0.5, 1]]])
    found = counted_cells(inside, boxes, 6)
    assert not found[0, 0].any()
    assert not found[1, 1].any()
    # Cells are the tokens, so each is inside or not; in the upper half two cells make a token, and a sample lies
    # a quarter of a token from its centre.
    assert found[0, 1, 0].float().mean(0).tolist() == [1, 1, 1, 0, 0, 0]
    assert found[0, 2, 0].float().mean(0).tolist() == [1, 1, 1, 0, 0, 0]
    assert not found[0, 3].any()


@pytest.mark.parametrize("seed", range(5))
def test_the_foreground_is_that_of_a_plain_implementation(seed: int) -> None:
    params = Params(least=3)
    attention = torch.rand(6, 3, 9, 11, generator=torch.Generator().manual_seed(seed)) ** 6
    found = foreground(attention, params)
    expected = [naive_foreground(each.mean(0).double().numpy(), params) for each in attention]
    np.testing.assert_array_equal(found.numpy(), np.stack(expected) > 0)
    assert 0.05 < float(found.float().mean()) < 0.95
    assert not foreground(torch.full((1, 2, 4, 4), 1 / 17), params).any()


# what is kept between steps


def test_the_queue_holds_the_newest_foreground_and_counts_once_it_is_full() -> None:
    model = learner(queue=20, queued=2)  # six photos: twelve a step
    expected = [torch.zeros(0, 5), torch.zeros(0, 5)]
    for number in range(3):
        views = [some_views(model.params, 3, 10 * number + seed) for seed in (1, 2)]
        outputs, targets, _ = step(model, views, number)
        alone = [model.teacher_projection.scores(torch.cat([o["taught"][i].flatten(0, 2) for o in outputs])).double()
                 for i in range(2)]  # fmt: skip
        for i in range(2):
            inside = torch.cat([o["taught"][i][o["inside"][i]] for o in outputs])
            assert len(targets.queued[i]) == 12
            assert all(bool((row == inside).all(1).any()) for row in targets.queued[i])
            q = torch.cat(targets.assigned[i]).double().numpy()
            assert np.allclose(q.sum(1), 1, atol=1e-5)
            same = np.allclose(q, naive_assign(alone[i].numpy(), 0.05, 3), atol=1e-5)
            assert same == (number < 2)  # 0 and 12 of 20, then 20
            expected[i] = torch.cat([targets.queued[i], expected[i]])[:20]
        before = model.queue.clone()
        model.after(targets, number)
        assert not torch.equal(before, model.queue)
        assert model.held.tolist() == [len(each) for each in expected]
        for i in range(2):
            torch.testing.assert_close(model.queue[i, : len(expected[i])], expected[i])
    assert {"queue", "held"} <= set(model.state_dict())


def test_embeddings_that_are_queued_are_drawn_by_the_generator_of_the_call() -> None:
    model, views = learner(), some_views(Params(**SMALL), 3, 1)
    one, same, other = (model.outputs(views, torch.Generator().manual_seed(s), 0)["queued0"] for s in (1, 1, 2))
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert one.shape != other.shape or not torch.equal(one, other)


def test_teacher_and_prototypes_after_a_step() -> None:
    model = learner(teacher_momentum=0.9, final_teacher_momentum=1.0)
    teacher = {name: value.clone() for name, value in model.teacher.named_parameters()}
    mlp = {name: value.clone() for name, value in model.teacher_projection.mlp.named_parameters()}
    outputs, targets, loss = step(model, [some_views(model.params, 3, seed) for seed in (1, 2)], 5)
    learning = [p for group in model.groups() for p in group.parameters]
    ids = {id(p) for p in learning}
    for module in (model.teacher, model.teacher_projection):
        assert not any(p.requires_grad or id(p) in ids for p in module.parameters())
    assert not any(outputs[0][name].requires_grad for name in ("taught", "inside", "counted", "queued0"))
    assert ids == {id(p) for m in (model.student, model.projection) for p in m.parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(learning, lr=0.05)
    for p, gradient in zip(learning, torch.autograd.grad(loss, learning), strict=True):
        assert bool(gradient.isfinite().all())
        p.grad = gradient
    optimiser.step()
    assert (model.projection.prototypes.norm(dim=1) - 1).abs().max() > 1e-3
    model.after(targets, 5)
    for projection in (model.projection, model.teacher_projection):
        torch.testing.assert_close(projection.prototypes.norm(dim=1), torch.ones(7))
    momentum = cosine(5, 20, 0.9, 1.0)
    assert 0.9 < momentum < 1
    learnt: list[tuple[Any, Any, dict[str, Tensor]]] = [
        (model.teacher, model.student, teacher), (model.teacher_projection.mlp, model.projection.mlp, mlp)
    ]  # fmt: skip
    for average, source, before in learnt:
        online = dict(source.named_parameters())
        for name, value in average.named_parameters():
            torch.testing.assert_close(value, momentum * before[name] + (1 - momentum) * online[name].detach())


def test_heads_learn_at_their_own_rate() -> None:
    model = learner(learning_rate=1e-5, head_rate=1e-4)
    rates = {id(p): group.rate for group in model.groups() for p in group.parameters}
    decays = {id(p): group.decay for group in model.groups() for p in group.parameters}
    assert all(rates[id(p)] == 1 for p in model.student.parameters() if p.requires_grad)
    assert all(rates[id(p)] == pytest.approx(10) for p in model.projection.parameters())
    assert decays[id(model.projection.prototypes)]
    assert not decays[id(model.projection.mlp[0].bias)]


def test_a_training_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    rows = photo_rows.rows_of(tmp_path, 8)
    keeper = Keeper.beside(tmp_path / "w.safetensors", "key", 2, "pretrain")

    def kill(step: int, _learner: Learner) -> None:
        if step == 4:
            raise KeyboardInterrupt

    def trained(
        keeper: Keeper, settled: Callable[[int, Learner], None] | None = None, threads: int = 1
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        model = learner(steps=6, queue=30, learning_rate=1e-3, drop_path=0.1)
        photos = Photos(rows, leopart, model.params, Normalisation((0.5,) * 3, (0.25,) * 3), seed=1)
        return train(model, photos, Training(1, torch.device("cpu"), threads, keeper, settled=settled))

    whole, told = trained(Keeper(stage="pretrain"), threads=2)
    with pytest.raises(KeyboardInterrupt):
        trained(keeper, kill)
    again, told_again = trained(keeper)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert np.array_equal(told["loss"], told_again["loss"])
    assert np.isfinite(told["monitors"]["used"]).all()
    assert 1 <= told["monitors"]["used"].min() <= told["monitors"]["used"].max() <= 7
    assert not torch.equal(whole["blocks.0.attn.qkv.weight"], learner().student.state()["blocks.0.attn.qkv.weight"])


def test_networks_without_a_cls_token_learn_from_all_places() -> None:
    with pytest.raises(ConfigError, match="foreground: all"):
        learner("cnn")
    model = learner("cnn", foreground="all", crop=64, local_crop=32)
    outputs, targets, loss = step(model, [some_views(model.params, 3, seed) for seed in (1, 2)])
    assert bool(outputs[0]["inside"].all())
    assert float(targets.cells[0, 1]) == 6 * 9
    assert math.isfinite(loss.item())


def test_crops_that_the_patches_do_not_fill_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"local_crop: 20 is no multiple of the patch size 8.*set local_crop: 16"):
        learner(local_crop=20)


@pytest.mark.parametrize("scale", [(0.0, 0.5), (0.5, 0.2), (0.5, 1.5)])
def test_scales_that_are_no_shares_of_a_photo_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"local_scale\n.*give two shares from and to"):
        Params(local_scale=scale)


def test_crops_that_can_not_meet_are_refused() -> None:
    with pytest.raises(ValueError, match=r"overlap: 0.2 asks crops to share 0.4 of the photo, but the largest has 0.1"):
        Params(overlap=0.2, scale=(0.05, 0.1))
