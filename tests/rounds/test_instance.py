"""The instance network in parts: targets, copy-paste, losses, suppression of doubles, decoding, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nothing_read import NothingRead

from maskmill.images.instances import VOID, Instances, matrix_nms
from maskmill.recipe.sections import ConfigError
from maskmill.rounds._descent import rate
from maskmill.rounds._detections import decode
from maskmill.rounds._instance_photos import NEITHER, to_cells
from maskmill.rounds._pyramid import Shape
from maskmill.rounds.instance import Params
from maskmill.rounds.instance.crops import Crop, assign, paste
from maskmill.rounds.instance.losses import best_overlap, focal_of, kept_by_drop_loss, mask_loss
from maskmill.rounds.instance.network import FEATURES, KERNEL, build, grid_sizes, locations, masks_of
from maskmill.rounds.instance.training import MOST, SentCrop, loss_of

CNN = Shape((0, 1, 2, 3), (8, 8, 8, 8))
VIT = Shape((0, 1), (8, 8), 14)


def squares(*boxes: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Masks bool [n, side, side] of boxes y0, x0, y1, x1."""
    masks = np.zeros((len(boxes), side, side), bool)
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_locations_stand_for_the_object_around_whose_centre_they_lie() -> None:
    """128 px, strides 8, 16, 32: 16 x 16, 8 x 8 and 4 x 4 locations."""
    masks = squares((4, 4, 24, 24), (26, 26, 31, 31), side=32)  # in mask cells of 4 px: 80 px, 20 px
    void = np.zeros((32, 32), bool)
    void[0] = True
    target, owner = assign(masks, np.array([2, 1]), void, 128, CNN)
    assert grid_sizes(128, 128, CNN.strides) == [(16, 16), (8, 8), (4, 4)]
    parts = np.split(owner, [256, 320])
    grids = [part.reshape(n, n) for part, n in zip(parts, (16, 8, 4), strict=True)]
    # The large one spans 10 cells of the first grid (too many), 5 of the second, 2.5 of the third.
    around = [[y, x] for y in (2, 3, 4) for x in (2, 3, 4)]  # its centre is that of [3, 3]; 16 px reach the next ones
    assert np.argwhere(grids[1] == 0).tolist() == around
    assert np.argwhere(grids[2] == 0).tolist() == [[1, 1]]
    assert not (grids[0] == 0).any()
    assert np.argwhere(grids[0] == 1).tolist() == [[14, 14]]  # the small one: 2.5 cells of the first
    assert not (grids[1] == 1).any()
    assert not (grids[2] == 1).any()
    assert set(np.unique(target[owner == 0])) == {2}
    assert (target.reshape(-1)[:16] == 0).all()  # centres of the first row lie in mask row 1, which is known
    assert (target == NEITHER).sum() == 0
    void[1] = True
    again, _ = assign(masks, np.array([2, 1]), void, 128, CNN)
    assert (again[:16] == NEITHER).all()
    assert (again[16:256] != NEITHER).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 6), st.sampled_from([(CNN, 96), (CNN, 160), (VIT, 112), (VIT, 140)]))
def test_every_object_has_a_location_unless_smaller_ones_took_it(seed: int, n: int, where: tuple[Shape, int]) -> None:
    shape, side = where
    rng = np.random.default_rng(seed)
    cells = side // 4
    corners = rng.integers(0, cells - 1, (n, 2))
    ends = [(y + 1 + rng.integers(0, cells - y), x + 1 + rng.integers(0, cells - x)) for y, x in corners]
    masks = squares(*[(y, x, b, r) for (y, x), (b, r) in zip(corners, ends, strict=True)], side=cells)
    labels = rng.integers(1, 4, n)
    target, owner = assign(masks, labels, np.zeros((cells, cells), bool), side, shape)
    assert len(target) == len(locations(grid_sizes(side, side, shape.strides), shape.strides))
    assert ((owner >= 0) == (target > 0)).all()
    assert (target[owner >= 0] == labels[owner[owner >= 0]]).all()
    smallest = int(np.argsort(-masks.sum(axis=(1, 2)), kind="stable")[-1])
    assert (owner == smallest).any()
    places = locations(grid_sizes(side, side, shape.strides), shape.strides).numpy()
    for i in range(n):  # a location lies in the object's box, or is the one that holds its centre
        y, x = np.nonzero(masks[i])
        for row, column, reach in places[owner == i]:
            half = reach / 16
            assert y.min() - half <= row <= y.max() + 1 + half
            assert x.min() - half <= column <= x.max() + 1 + half


def test_grids_of_a_vit_follow_its_tokens() -> None:
    """140 px are 10 tokens a side; halved twice that is 5 and 3."""
    assert grid_sizes(140, 140, VIT.strides) == [(10, 10), (5, 5), (3, 3)]
    assert VIT.multiple == 28


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 5), st.integers(0, 5), st.integers(4, 16))
def test_what_is_pasted_is_carved_out_and_nothing_is_left_empty(seed: int, n: int, m: int, part: int) -> None:
    rng = np.random.default_rng(seed)

    def disjoint(count: int, side: int) -> Instances:
        ids = rng.integers(0, count + 1, (side, side))
        masks = ids[None] == np.arange(1, count + 1)[:, None, None]
        masks = masks[masks.any(axis=(1, 2))]
        return Instances(masks, rng.integers(0, 3, len(masks)), np.ones(len(masks), np.float32))

    found, objects = disjoint(n, 16), disjoint(m, part)
    pixels, source = np.zeros((16, 16, 3), np.uint8), np.full((part, part, 3), 255, np.uint8)
    after, both = paste(pixels, found, source, objects, np.random.default_rng(seed))
    assert not pixels.any()  # the arguments stay as they are
    assert both.masks.any(axis=(1, 2)).all()
    assert both.masks.sum(axis=0).max(initial=0) <= 1
    new = after[..., 0] == 255
    pasted = [i for i in range(len(both)) if (both.masks[i] & new).any()]
    assert all((both.masks[i] <= new).all() for i in pasted)
    assert (both.masks[pasted].any(axis=0) == new).all()
    real = int((objects.labels != VOID).sum())
    assert len(pasted) <= max(1, real - 1) * (real > 0)
    # What is left of the old ones is what was not covered; no real one lost half or more to a single object.
    assert (both.masks.any(axis=0) == (found.masks.any(axis=0) | new)).all()
    for i in pasted:
        lost = (found.masks[found.labels != VOID] & both.masks[i]).sum(axis=(1, 2))
        assert (lost < 0.5 * found.masks[found.labels != VOID].sum(axis=(1, 2))).all()


def test_an_object_that_hides_half_of_another_is_not_pasted() -> None:
    found = Instances(squares((0, 0, 4, 4), side=8), np.array([1]), np.ones(1, np.float32))
    cover = Instances(squares((0, 0, 8, 8), side=8), np.array([2]), np.ones(1, np.float32))
    pixels, source = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)
    after, kept = paste(pixels, found, source, cover, np.random.default_rng(0))
    assert kept.labels.tolist() == [1]
    assert not after.any()
    less = Instances(squares((0, 0, 8, 1), side=8), np.array([2]), np.ones(1, np.float32))
    after, kept = paste(pixels, found, source, less, np.random.default_rng(0))
    assert kept.labels.tolist() == [1, 2]
    assert kept.masks.sum(axis=(1, 2)).tolist() == [12, 8]
    assert (after[..., 0] == 9).sum() == 8


def test_cells_belong_to_what_covers_half_of_them() -> None:
    masks = squares((0, 0, 4, 2), (4, 4, 8, 8), (0, 4, 1, 8), side=8)
    assert to_cells(masks).tolist() == [[[True, False], [False, False]], [[False, False], [False, True]],
                                        [[False, False], [False, False]]]  # fmt: skip


def test_focal_loss_by_its_formula() -> None:
    logits = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, 1, 2, NEITHER, 0]])
    p = logits.double().softmax(2)[0]
    expected = [-a * (1 - p[i, t]) ** 1.5 * p[i, t].log() for i, (a, t) in enumerate([(0.7, 0), (0.3, 1), (0.3, 2)])]
    found = focal_of(logits, target, 0.3, 1.5)[0]
    torch.testing.assert_close(found[:3].double(), torch.stack(expected), rtol=1e-5, atol=1e-7)
    assert found[3] == 0


def crop_of(masks: np.ndarray, target: list[int], owner: list[int]) -> Crop:
    side = masks.shape[1]
    void = np.zeros((side, side), bool)
    void[-1] = True
    pixels = np.zeros((4 * side, 4 * side, 3), np.uint8)
    return Crop(pixels, masks, void, np.array(target), np.array(owner))


def sent(crop: Crop) -> SentCrop:
    return SentCrop.of(crop, torch.device("cpu"))


@pytest.mark.parametrize("count", [0, 1, MOST - 1, MOST, MOST + 1, 3 * MOST + 7])
def test_the_locations_whose_masks_are_learnt_are_spread_evenly(count: int) -> None:
    """Chosen on the host; by the rule that stood in the loss before, on the device."""
    owner = np.full(600, -1)
    owner[np.random.default_rng(count).permutation(600)[:count]] = np.arange(count) % 5
    ready = sent(crop_of(squares((1, 1, 5, 5), side=8), [0] * 600, owner.tolist()))
    positive = torch.nonzero(torch.from_numpy(owner) >= 0)[:, 0]
    some = positive[torch.linspace(0, max(0, count - 1), min(count, MOST)).round().long()]
    assert ready.count == count
    np.testing.assert_array_equal(ready.some, some)
    np.testing.assert_array_equal(ready.owner, owner[some.numpy()])


def by_hand(parts: tuple[Any, ...], crop: Crop, params: Params) -> float:
    """The loss of a crop from the definitions, location by location."""
    features, logits, kernels, places = (part.double() for part in parts)
    total, p = 0.0, logits.softmax(1)
    for i, t in enumerate(crop.target):
        maps = masks_of(features, kernels[i : i + 1], places[i : i + 1])[0]
        found = (maps[1::2, 1::2] > 0).numpy()
        overlaps = [(found & m[1::2, 1::2]).sum() / max(1, (found | m[1::2, 1::2]).sum()) for m in crop.masks]
        counts = t > 0 or not params.drop_loss or max(overlaps, default=0) > params.drop_loss
        if counts and t != NEITHER:
            weight = params.alpha if t else 1 - params.alpha
            total -= float(weight * (1 - p[i, t]) ** params.gamma * p[i, t].log())
        if crop.owner[i] >= 0:
            known, g = ~crop.void, torch.from_numpy(crop.masks[crop.owner[i]])[~crop.void].double()
            s = torch.sigmoid(maps)[known]
            dice = 1 - (2 * (s * g).sum() + 1) / ((s * s).sum() + (g * g).sum() + 1)
            cross = -(g * s.log() + (1 - g) * (1 - s).log()).mean()
            total += params.mask_weight * float(dice + cross)
    return total


@pytest.mark.parametrize("drop_loss", [None, 0, 0.01, 0.3, 0.9])
def test_the_loss_of_a_crop_by_its_formula(drop_loss: float | None) -> None:
    """Dropped locations count nothing; what the sum is divided by stays the same."""
    generator = torch.Generator().manual_seed(1)
    masks = squares((1, 1, 5, 5), (2, 6, 8, 8), side=8)
    crop = crop_of(masks, [0, 1, 2, 0, NEITHER, 0, 0, 0], [-1, 0, 1, -1, -1, -1, -1, -1])
    features = torch.randn(FEATURES, 8, 8, generator=generator)
    logits, kernels = torch.randn(8, 3, generator=generator), torch.randn(8, KERNEL, generator=generator) / 3
    kernels[5, -1], kernels[6, -1] = -99.0, 99.0  # no mask at all, and one of everything
    places = torch.rand(8, 3, generator=generator) * 8 + 1
    params = Params(drop_loss=drop_loss, alpha=0.4, gamma=1.3, mask_weight=0.7)
    total, count = loss_of(features, logits, kernels, places, sent(crop), params)
    assert count == 2
    assert float(total) == pytest.approx(by_hand((features, logits, kernels, places), crop, params), rel=1e-5)
    bare = crop_of(masks[:0], [0, 0, 0, NEITHER, 0, 0, 0, 0], [-1] * 8)  # no object: nothing is known to be background
    alone, none = loss_of(features, logits, kernels, places, sent(bare), params)
    assert none == 0
    assert float(alone) == pytest.approx(by_hand((features, logits, kernels, places), bare, params), rel=1e-5)
    assert (float(alone) == 0) == bool(drop_loss)
    if drop_loss:
        whole, same = loss_of(
            features, logits, kernels, places, sent(crop), params.model_copy(update={"drop_loss": None})
        )
        assert same == count
        assert float(whole) > float(total)


@pytest.mark.parametrize("owner", [[-1, 0, 1, -1], [-1, -1, -1, -1]])
def test_the_loss_of_a_crop_reads_nothing_back(owner: list[int]) -> None:
    """On a device every number that is read, and every size that depends on one, makes the host wait."""
    masks = squares((1, 1, 5, 5), (2, 6, 8, 8), side=8)
    ready = sent(crop_of(masks, [0, 1, 2, 0] if max(owner) >= 0 else [0] * 4, owner))
    logits, kernels = torch.randn(4, 3, requires_grad=True), torch.randn(4, KERNEL, requires_grad=True)
    with NothingRead():
        total, _ = loss_of(torch.randn(FEATURES, 8, 8), logits, kernels, torch.rand(4, 3) + 1, ready, Params())
        torch.autograd.grad(total, [logits, kernels])


def test_drop_loss_keeps_objects_and_overlaps_above_the_threshold() -> None:
    overlap, target = torch.tensor([0.0, 0.0, 0.01, 0.011, 0.5]), torch.tensor([0, 3, 0, 0, NEITHER])
    assert kept_by_drop_loss(overlap, target, 0.01).tolist() == [False, True, False, True, True]
    assert kept_by_drop_loss(overlap, target, None).all()
    logits = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    objects = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]]])
    assert best_overlap(logits, objects).tolist() == pytest.approx([2 / 3, 0])


def test_masks_do_not_learn_from_void() -> None:
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    known = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    mask_loss(logits, torch.ones(1, 2, 2), known).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[0] != 0).tolist() == [[True, False], [True, True]]


def test_a_location_s_network_by_hand() -> None:
    """masks_of against three explicit layers, cell by cell, also at every second cell."""
    generator = torch.Generator().manual_seed(3)
    features, kernels = torch.randn(FEATURES, 6, 4, generator=generator), torch.randn(2, KERNEL, generator=generator)
    places = torch.tensor([[1.0, 2.0, 4.0], [5.5, 0.5, 8.0]])
    found = masks_of(features, kernels, places)
    assert found.shape == (2, 6, 4)
    for i in range(2):
        w1, b1, w2, b2, w3, b3 = torch.split(kernels[i], [8 * (FEATURES + 2), 8, 64, 8, 8, 1])
        for y in range(6):
            for x in range(4):
                where = torch.tensor([y + 0.5, x + 0.5]) - places[i, :2]
                value = torch.relu(w1.view(8, -1) @ torch.cat([features[:, y, x], where / places[i, 2]]) + b1)
                value = w3 @ torch.relu(w2.view(8, 8) @ value + b2) + b3
                assert float(found[i, y, x]) == pytest.approx(float(value), rel=1e-4, abs=1e-4)
    torch.testing.assert_close(masks_of(features, kernels, places, 2), found[:, 1::2, 1::2], rtol=1e-4, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 8))
def test_matrix_nms_by_brute_force(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 5, 5)) < 0.5
    labels, scores = rng.integers(1, 3, count), np.sort(rng.random(count))[::-1]
    found = matrix_nms(masks, labels, scores)

    def iou(i: int, j: int) -> float:
        union = (masks[i] | masks[j]).sum()
        return (masks[i] & masks[j]).sum() / union if labels[i] == labels[j] and union else 0.0

    for j in range(count):
        decay = 1.0
        for i in range(j):
            own = max((iou(h, i) for h in range(i)), default=0.0)
            decay = min(decay, np.exp(-2 * (iou(i, j) ** 2 - own**2)))
        assert found[j] == pytest.approx(scores[j] * decay)


def test_decoding_keeps_the_best_of_doubles_and_orders_by_score() -> None:
    maps = np.zeros((5, 6, 6), np.float32)
    maps[0, :3, :3], maps[1, :3, :3], maps[2, 4:, 4:], maps[3, :, 0] = 0.9, 0.8, 0.6, 0.55
    maps[4] = 0.4  # no cell above one half: no mask
    classes = np.array([0.5, 0.9, 0.9, 0.04, 1.0])
    found = decode(maps, classes, np.array([1, 1, 2, 1, 1]), Params(upsample=2, least_score=0.05))
    assert found.size == (12, 12)
    assert found.labels.tolist() == [1, 2, 1]
    double = 0.5 * 0.9 * np.exp(-2)  # covers the better one exactly
    np.testing.assert_allclose(found.scores, [0.72, 0.54, double], rtol=1e-5)
    assert len(decode(maps, classes, np.array([1, 1, 2, 1, 1]), Params(detections=2))) == 2
    assert len(decode(maps[4:], classes[4:], np.array([1]), Params())) == 0
    assert len(decode(maps[:0], classes[:0], np.zeros(0, int), Params())) == 0


def test_rates_rise_and_then_follow_the_schedule() -> None:
    for schedule, late in (("constant", 1.0), ("step", 0.02), ("cosine", 0.5 * (1 + np.cos(np.pi * 85 / 95)))):
        params = Params(steps=100, schedule=schedule)
        assert [rate(step, params) for step in (0, 4)] == [0.2, 1.0]
        assert rate(90, params) == pytest.approx(late)


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet"])
def test_an_image_gives_the_same_in_any_batch_and_at_any_size(architecture: str) -> None:
    torch.manual_seed(0)
    network = build(architecture, 3, Params(width=32)).eval()
    multiple = network.shape.multiple
    x = torch.randn(2, 3, 2 * multiple, 3 * multiple)
    with torch.inference_mode():
        both, alone = network(x), network(x[1:])
    count = sum(a * b for a, b in grid_sizes(x.shape[2], x.shape[3], network.shape.strides))
    assert both.logits.shape == (2, count, 3)
    assert both.kernels.shape == (2, count, KERNEL)
    assert both.places.shape == (count, 3)
    assert both.features.shape == (2, FEATURES, x.shape[2] // 4, x.shape[3] // 4)
    torch.testing.assert_close(both.kernels[1:], alone.kernels, rtol=1e-4, atol=1e-5)
    assert both.logits.softmax(2)[..., 1:].sum(2).mean() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("architecture", ["test_maxvit", "test_vit_relpos"])
def test_encoders_that_do_not_fit_say_so(architecture: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"rounds\.encoder: 'grouping' is {architecture}, which gives no feature levels"
    ):
        build(architecture, 2, Params())
