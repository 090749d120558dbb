"""TransFGU: windows by brute force, class activation by autograd, crops and losses by loops, a training that stops."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbone_photos import CNN, SETS, VIT, write_photos, write_weights
from torch import nn
from torch.nn.functional import cross_entropy

from maskmill.adapt import run
from maskmill.adapt._photos import FrozenPhotos
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.infer import Head
from maskmill.adapt.transfgu import Params, activation, build, losses, params, training, views, windows
from maskmill.adapt.transfgu.decoder import Decoder
from maskmill.backbones.cls_block import ClsBlock
from maskmill.backbones.network import Backbone, load
from maskmill.cli.adapt import adapt_fit
from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.resolve import load as resolve
from maskmill.store.artefact import read_json, read_tensors
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training import loop
from maskmill.training.resources import Resources

CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[2] / "recipes"
SET = SETS[VIT].model_copy(update={"layer": 2, "size": Size(square=128)})
OWN = {
    "method": "transfgu", "steps": 8, "epoch_steps": 2, "batch_size": 6, "width": 16, "heads": 2, "blocks": 1,
    "bootstrap": 1, "intervals": [1], "scales": [0.6, 0.4],
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def backbone(weights: dict[str, Path]) -> Backbone:
    """Random weights; larger queries and keys, so that the attention is not even."""
    found = load(weights[VIT], SET, CPU)
    assert isinstance(found, Backbone)
    for block in found.model.blocks:
        block.attn.qkv.weight.mul_(8)
    return found


def pictures(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return 255 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def fit(weights: Path, manifest: Path, out: Path, threads: int = 1, cache_mib: int = 100, **own: Any) -> Path:
    out.mkdir(exist_ok=True)
    source, clusters = run.PhotoSource(manifest, weights, SET), own.pop("clusters", 4)
    files = run.HeadFiles(out / "head.safetensors", out / "monitor.json")
    resources = Resources(threads, "cpu", 1, cache_mib)
    run.fit(source, OWN | own, files, seed=0, clusters=clusters, resources=resources)
    return out / "head.safetensors"


# windows


def windows_by_rule(h: int, w: int, side: int) -> list[tuple[int, int, int, int]]:
    """Every centre in turn: on multiples of half a side, with the borders' own centres, as the published code asks."""
    found, half = [], side / 2
    for y in range(h):
        for x in range(w):
            if not (y - half >= 0 and x - half >= 0 and y + half < h and x + half < w):
                continue
            on_y, on_x = y % half == 0, x % half == 0
            ends_y, ends_x = y - half == 0 or y + half == h - 1, x - half == 0 or x + half == w - 1
            corner = y + half == h - 1 and x + half == w - 1
            if (on_x and on_y) or (on_y and ends_x) or (on_x and ends_y) or corner:
                cells = [i for i in range(h) if abs(i - y) <= half], [i for i in range(w) if abs(i - x) <= half]
                found.append((cells[0][0], cells[0][-1] + 1, cells[1][0], cells[1][-1] + 1))
    return found


@pytest.mark.parametrize(("grid", "side"), [((80, 80), 48), ((80, 80), 24), ((20, 33), 8), ((33, 20), 12), ((9, 9), 8)])
def test_windows_are_those_of_the_rule(grid: tuple[int, int], side: int) -> None:
    scale = (side + 0.01) / min(grid)
    expected = [(8 * t, 8 * b - 1, 8 * left, 8 * r - 1) for t, b, left, r in windows_by_rule(*grid, side)]
    assert [tuple(box) for box in windows.boxes(grid, [scale], 8).tolist()] == expected
    assert expected


def test_windows_have_an_even_side_and_fit() -> None:
    found = windows.boxes((32, 46), (0.6, 0.5, 0.01), 14)
    np.testing.assert_array_equal(found[:1], [[0, 19 * 14 - 1, 0, 19 * 14 - 1]])  # 19 cells would be 18 and the centre
    assert found[:, 1].max() <= 32 * 14
    assert found[:, 3].max() <= 46 * 14
    assert windows.boxes((4, 4), (0.2,), 8).shape == (0, 4)


def test_the_share_of_foreground_is_that_of_the_pixels() -> None:
    seen = np.random.default_rng(0).random((9, 12)) > 0.6
    found = windows.boxes(seen.shape, (0.5, 0.3), 4)
    pixels = seen.repeat(4, 0).repeat(4, 1)
    expected = [pixels[t:b, left:r].mean() for t, b, left, r in found.tolist()]
    np.testing.assert_allclose(windows.shares(seen, found, 4), expected)


def test_classes_are_the_means_of_like_windows(weights: dict[str, Path], manifest: Path) -> None:
    """The centroids of one class of things and one of stuff are means; as they are of one class each."""
    images = FrozenPhotos(manifest, weights[VIT], SET, 100, CPU)
    own = Params(scales=(0.5,), stuff=1, foreground=0.3, background=0.3)
    centroids, counts = windows.classes(images, own, 1, HeadTraining(0, CPU, 2))
    fore, back = (np.concatenate(part) for part in zip(*map(windows.Windows(images, own).of, range(10)), strict=True))
    assert (len(fore), len(back)) == (counts["foreground"], counts["background"])
    np.testing.assert_allclose(centroids, [fore.mean(0), back.mean(0)], atol=1e-5)
    few = Params(scales=(0.5,), foreground=0.99)
    with pytest.raises(
        NumericsError, match=r"0 windows show foreground, fewer than 3 classes; .*lower adapt\.foregrou"
    ):
        windows.classes(images, few, 3, HeadTraining(0, CPU, 4))
    one = windows.classes(images, own.model_copy(update={"window_images": 1}), 1, HeadTraining(0, CPU, 2))[1]
    assert 0 < one["foreground"] + one["background"] < len(fore) + len(back)


# class activation


class SlowAttention(nn.Module):
    """timm's attention in plain operations, whose weights keep their gradient."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: torch.Tensor, **_: Any) -> torch.Tensor:
        n, t, d = x.shape
        q, k, v = self.own.qkv(x).reshape(n, t, 3, self.own.num_heads, -1).permute(2, 0, 3, 1, 4)
        self.weights = ((q @ k.transpose(2, 3)) * self.own.scale).softmax(3)
        if torch.is_grad_enabled():
            self.weights.requires_grad_().retain_grad()
        return self.own.proj((self.weights @ v).transpose(1, 2).reshape(n, t, d))  # type: ignore[no-any-return]


def test_the_gradient_is_that_of_autograd(backbone: Backbone) -> None:
    side, k = 80, 3
    block, x = ClsBlock(backbone, (side, side), "who"), pictures(2, side)
    centroids = torch.randn(k, backbone.depth, generator=torch.Generator().manual_seed(1))
    start = block.start(x)
    attention, found = block.gradients(start, centroids)
    layer = copy.deepcopy(block.block)
    layer.attn = SlowAttention(layer.attn)
    scale = float(found.abs().max())
    for c in range(k):
        with torch.enable_grad():
            cls = block.model.norm(layer(start))[:, 0]
            loss = (1 - cls @ centroids[c] / (cls.norm(dim=1) * centroids[c].norm())).sum()
            loss.backward()
        weights = layer.attn.weights
        torch.testing.assert_close(attention, weights.detach()[:, :, 0, 1:], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[:, c] / scale, weights.grad.mean(1)[:, 0, 1:] / scale, rtol=0, atol=1e-4)
    assert 0.1 < float((found > 0).float().mean()) < 0.9


def test_tokens_and_cls_are_those_of_the_feature_set(backbone: Backbone) -> None:
    x = pictures(2, 96)
    block = ClsBlock(backbone, (96, 96), "who")
    tokens, cls = backbone.forward(x.to(torch.uint8).permute(0, 2, 3, 1))
    x = x.to(torch.uint8).float()
    torch.testing.assert_close(block.tokens(x), tokens.permute(0, 3, 1, 2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(block.cls(block.start(x)), cls, rtol=1e-4, atol=1e-4)


def test_other_networks_are_refused(weights: dict[str, Path], backbone: Backbone) -> None:
    cnn = load(weights[CNN], SETS[CNN], CPU)
    with pytest.raises(ConfigError, match=r"^adapt: resnet10t is no ViT; name a feature set of a ViT with a cls token"):
        ClsBlock(cnn, (64, 64), "adapt")  # type: ignore[arg-type]
    first = load(weights[VIT], SET.model_copy(update={"layer": 0}), CPU)
    with pytest.raises(ConfigError, match="layer 0, is the first block; name another layer"):
        ClsBlock(first, (64, 64), "adapt")  # type: ignore[arg-type]
    none = copy.deepcopy(backbone)
    none.model.cls_token = None
    with pytest.raises(ConfigError, match="has no cls token with plain attention"):
        ClsBlock(none, (64, 64), "adapt")
    other = copy.deepcopy(backbone)
    other.model.blocks[2].mlp.register_forward_hook(lambda _m, _i, out: 2 * out if out.ndim == 3 else out)
    with pytest.raises(ConfigError, match="has another block than a plain ViT's"):
        ClsBlock(other, (64, 64), "adapt")


def test_the_mass_is_kept_by_the_largest() -> None:
    gain = torch.rand(3, 2, 50, generator=torch.Generator().manual_seed(0)).sub(0.4).clamp_min(0)
    gain[0, 0] = 0
    kept = activation.largest(gain, 0.8)
    for row, mask in zip(gain.flatten(0, 1), kept.flatten(0, 1), strict=True):
        order, total, expected = sorted(range(50), key=lambda i: float(row[i])), 0.0, set()
        for i in order:
            total += float(row[i])
            if float(row.sum()) > 0 and total / float(row.sum()) > 0.2:
                expected.add(i)
        assert set(mask.nonzero()[:, 0].tolist()) == expected


def test_activation_is_attention_and_gain() -> None:
    attention = torch.tensor([[[0.1, 0.2, 0.4, 0.3], [0.3, 0.2, 0.4, 0.1]]])  # heads 2
    gradients = torch.tensor([[[-0.5, 0.1, -0.01, -0.5], [0.2, 0.2, 0.2, 0.2]]])
    found = activation.activation(attention, gradients, 0.9)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.5 + 0.5, 0.0, 1.0, 0.5 + 0.5]))
    assert not found[0, 1].any()


def test_masks_are_the_same_held_or_computed_again(weights: dict[str, Path], manifest: Path) -> None:
    images = FrozenPhotos(manifest, weights[VIT], SET, 100, CPU)
    centroids = np.random.default_rng(0).standard_normal((3, images.depth)).astype("f4")
    held = activation.PseudoMasks(images, centroids, 0.8, 3 * 3 * 64 * 4)
    held.fill(2)
    assert held.room == 0
    none = activation.PseudoMasks(images, centroids, 0.8, 0)
    none.fill(1)
    for i in (0, 2, 5):
        np.testing.assert_array_equal(held[i], none[i])
    assert held[1] is held[1]
    assert held[5] is not held[5]
    assert held[0].shape == (3, 8, 8)


# crops


def aligned_by_loops(mask: np.ndarray, box: tuple[float, float, float, float], cells: tuple[int, int]) -> np.ndarray:
    """RoIAlign as it is defined: the mean of bilinear samples, as many a bin as it has cells, rounded up."""
    top, left, height, width = box  # in cells
    out = np.zeros(cells)

    def value(y: float, x: float) -> float:
        y, x = min(max(y, 0), mask.shape[0] - 1), min(max(x, 0), mask.shape[1] - 1)
        a, b = min(int(y), mask.shape[0] - 2), min(int(x), mask.shape[1] - 2)
        v, u = y - a, x - b
        return float((1 - v) * ((1 - u) * mask[a, b] + u * mask[a, b + 1])
                     + v * ((1 - u) * mask[a + 1, b] + u * mask[a + 1, b + 1]))  # fmt: skip

    tall, wide = height / cells[0], width / cells[1]
    rows, columns = math.ceil(tall), math.ceil(wide)
    for i in range(cells[0]):
        for j in range(cells[1]):
            out[i, j] = np.mean([
                value(top - 0.5 + (i + (r + 0.5) / rows) * tall, left - 0.5 + (j + (c + 0.5) / columns) * wide)
                for r in range(rows) for c in range(columns)
            ])  # fmt: skip
    return out


def test_masks_of_crops_are_means_of_samples() -> None:
    rng = np.random.default_rng(0)
    masks, size = rng.random((2, 10, 14)).astype("f4"), (80, 112)
    for crop in views.draw(size, 5, rng):
        box = tuple(float(value) / 8 for value in crop[:4])
        found = views.aligned(masks, crop, size, (5, 7))
        for mask, own in zip(masks, found, strict=True):
            expected = aligned_by_loops(mask, box, (5, 7))  # type: ignore[arg-type]
            np.testing.assert_allclose(own, expected[:, ::-1] if crop[4] else expected, atol=1e-5)


def test_crops_are_shares_of_the_photo_and_cut_where_they_say() -> None:
    crops = views.draw((320, 480), 2000, np.random.default_rng(0))
    np.testing.assert_array_equal(np.unique(crops[:, 2]), [128, 160, 192, 224, 256, 288])
    np.testing.assert_array_equal(crops[:, 3], crops[:, 2] * 3 // 2)
    assert crops.min() == 0
    assert (crops[:, 0] + crops[:, 2]).max() <= 320
    assert (crops[:, 1] + crops[:, 3]).max() <= 480
    assert crops[:, 4].mean() == pytest.approx(0.5, abs=0.05)
    x = pictures(2, 40)
    box = torch.tensor([[4, 8, 20, 16, 0], [4, 8, 20, 16, 1]])
    found = views.photos(x, box, (20, 16), None)
    torch.testing.assert_close(found[0], x[0, :, 4:24, 8:24])
    torch.testing.assert_close(found[1], x[1, :, 4:24, 8:24].flip(2))


def test_light_changes_as_often_as_published() -> None:
    drawn = [views.light(np.random.default_rng(i)) for i in range(4000)]
    assert np.mean([one is None for one in drawn]) == pytest.approx(0.7 * 0.8 * 0.8, abs=0.03)
    some = np.stack([one for one in drawn if one is not None])
    assert np.mean(some[:, 0] != 1) * len(some) / 4000 == pytest.approx(0.3, abs=0.03)
    assert np.mean(some[:, 2] == 0) * len(some) / 4000 == pytest.approx(0.2, abs=0.03)
    blurred = some[some[:, 4] > 0, 4]
    assert len(blurred) / 4000 == pytest.approx(0.2, abs=0.03)
    taps = np.exp(-0.5 * (np.arange(-1, 2) / 1.0) ** 2)  # the three taps of the least blur
    assert blurred.min() == pytest.approx(math.sqrt(2 * taps[0] / taps.sum()), abs=5e-3)
    assert some[:, 0].min() >= 0.2
    assert some[:, 0].max() <= 1.8
    assert np.abs(some[:, 3]).max() <= 0.2


def test_targets_reach_from_zero_to_one_with_a_background_below() -> None:
    masks = np.array([[[1.0, 3.0]], [[1.1, 2.0]]], np.float32)
    found = views.targets(masks, 0.1)
    np.testing.assert_allclose(found[:, 0], [[0.05, 0.0], [0.0, 1.0], [0.05, 0.5]], atol=1e-6)
    assert views.targets(masks, None).shape == (2, 1, 2)
    np.testing.assert_array_equal(views.targets(np.ones((2, 1, 2), "f4"), 0.1)[1:], 0)
    assert views.foreground(torch.from_numpy(found)[None], 0.1).tolist() == [[[False, True]]]


# losses, decoder, schedule


def test_losses_are_those_of_loops() -> None:
    g = torch.Generator().manual_seed(0)
    n, k, h, w = 3, 4, 2, 5
    logits, teacher = (torch.randn(n, k, h, w, generator=g) for _ in range(2))
    targets, permutation, share = torch.rand(n, k, h, w, generator=g), torch.tensor([2, 0, 3, 1]), 0.07
    soft = 0.5 * teacher.softmax(1) + 0.5 * targets
    total, wrong, gaps = 0.0, 0.0, []
    for i in range(n):
        for y in range(h):
            for x in range(w):
                chances = logits[i, :, y, x].softmax(0)
                total -= math.log(chances[int(soft[i, :, y, x].argmax())])
                wrong -= math.log(chances[int(soft[i, permutation, y, x].argmax())])
                best = sorted(logits[i, 1:, y, x].softmax(0).tolist())
                gaps.append(best[-1] - best[-2])
    found = losses.categories(logits, targets, teacher, (permutation, share))
    assert float(found) == pytest.approx((total - share * wrong) / (n * h * w), rel=1e-5)
    plain = losses.categories(logits, targets, None, None)
    torch.testing.assert_close(plain, cross_entropy(logits, targets.argmax(1)))
    np.testing.assert_allclose(losses.margins(logits, True).flatten(), gaps, rtol=1e-4)
    assert losses.margins(logits, False).shape == (n, h, w)
    embeddings = nn.functional.normalize(torch.randn(2, 3, 6, generator=g), dim=2)
    pairs = [1 + float(e[a] @ e[b]) for e in embeddings for a in range(3) for b in range(a + 1, 3)]
    assert float(losses.likeness(embeddings)) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_uncertainty_of_micro_batches_is_that_of_the_batch() -> None:
    """A mean over all foreground cells of the batch, however it is split."""
    g = torch.Generator().manual_seed(0)
    targets = torch.rand(6, 3, 4, 4, generator=g) * torch.tensor([0.05, 1, 0.3, 0, 1, 0.2])[:, None, None, None]
    logits = torch.randn(6, 3, 4, 4, generator=g)
    counted = views.foreground(targets, 0.1)
    margin = losses.margins(logits, True)
    share = torch.full((6,), 6 / int(counted.sum()))
    parts = [
        len(share[part]) * (1 - (margin[part] * counted[part] * share[part, None, None]).sum() / len(share[part]))
        for part in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    assert float(sum(parts) / 6) == pytest.approx(1 - float(margin[counted].mean()), rel=1e-5)
    assert 0 < int(counted.sum()) < counted.numel()


def test_the_decoder_starts_as_published_and_its_prototypes_name_the_classes() -> None:
    torch.manual_seed(0)
    head = build(48, Params(width=24, heads=3), 5)
    assert isinstance(head, Decoder)
    expected = nn.init.orthogonal_(torch.empty(1, 5, 24))  # one row, as torch sees it
    assert float(expected.norm()) == pytest.approx(float(head.embeddings.detach().norm()), rel=1e-5)
    assert float(head.blocks[0].fc1.weight.abs().max()) <= 2.0  # type: ignore[union-attr,operator]
    assert float(head.blocks[0].fc1.weight.std()) == pytest.approx(0.02, rel=0.1)  # type: ignore[union-attr,operator]
    x = torch.randn(2, 48, 4, 6)
    codes = head.codes(x)
    assert codes.shape == (2, 5, 4, 6)
    torch.testing.assert_close(codes.mean(1), torch.zeros(2, 4, 6), rtol=0, atol=1e-5)  # normed over the classes
    nearest = torch.einsum("nchw,kc->nkhw", codes, head.prototypes.weight).argmax(1)
    assert torch.equal(nearest, codes.argmax(1))
    dropped = head(x, torch.Generator().manual_seed(3))[0]
    assert not torch.allclose(dropped, codes)
    torch.testing.assert_close(dropped, head(x, torch.Generator().manual_seed(3))[0])
    with pytest.raises(ConfigError, match=r"adapt\.heads: 5 does not divide adapt\.width: 24"):
        build(48, Params(width=24, heads=5), 5)


def test_teachers_come_when_published_and_none_at_the_very_end() -> None:
    found = params.renewals(Params())
    assert found == [*range(5, 40, 5), *range(40, 90, 4), 90, 93, 96]  # 99: a student of one epoch would be the result
    assert params.renewals(Params(steps=57 * 5)) == []
    assert params.renewals(Params(bootstrap=3, intervals=(2,), steps=57 * 8)) == [3, 4, 6]
    assert params.renewals(Params(bootstrap=1, intervals=(1,), steps=57 * 2 + 1)) == [1]


def test_the_student_becomes_the_teacher_and_starts_again() -> None:
    head = build(12, Params(width=8, heads=2), 3)
    assert isinstance(head, Decoder)
    model = training.Student(head, Params(bootstrap=1, intervals=(2,), epoch_steps=2, steps=12))
    first = copy.deepcopy(head.state_dict())
    with torch.no_grad():
        head.enter.weight.add_(1)
    learnt = copy.deepcopy(head.state_dict())
    assert [model.since(step) for step in (0, 1, 2, 3, 4, 7, 8)] == [None, None, 0, 0, 0, 1, 0]
    for step in (0, 1, 3):
        model.renew(step)
    assert torch.equal(head.enter.weight, learnt["enter.weight"])
    model.renew(2)
    for name, value in first.items():
        assert torch.equal(model.head.state_dict()[name], value), name
        assert torch.equal(model.teacher.state_dict()[name], learnt[name]), name
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_too_few_classes_are_refused() -> None:
    assert params.things(Params(), 3) == 2
    assert params.things(Params(stuff=2), 3) == 1
    for own, clusters in ((Params(), 2), (Params(stuff=3), 3)):
        with pytest.raises(ConfigError, match=rf"cluster\.clusters: {clusters}, .* included: .*two classes of windows"):
            params.things(own, clusters)


# the stage


def test_threads_memory_and_a_stop_change_nothing(
    weights: dict[str, Path], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(weights[VIT], manifest, tmp_path / "whole").read_bytes()
    assert fit(weights[VIT], manifest, tmp_path / "two", threads=2, cache_mib=0).read_bytes() == whole
    move, clusters = loop._move, windows.classes
    calls = []

    def then_signal(average: dict, task: loop.Task, at: int) -> None:
        move(average, task, at)
        if at + 1 == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    def counted(*args: Any) -> Any:
        calls.append(args)
        return clusters(*args)

    monkeypatch.setattr(windows, "classes", counted)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_move", then_signal)
        with pytest.raises(loop.StoppedError, match="adapt: stopped by SIGTERM after step 5"):
            fit(weights[VIT], manifest, tmp_path / "stopped")
    assert fit(weights[VIT], manifest, tmp_path / "stopped").read_bytes() == whole
    assert len(calls) == 1  # the windows were not looked at again
    assert [path.name for path in (tmp_path / "stopped").iterdir() if path.name.startswith(".")] == []


def test_a_head_learnt_on_photos_makes_codes_of_stored_tokens(
    weights: dict[str, Path], manifest: Path, tmp_path: Path
) -> None:
    target = fit(weights[VIT], manifest, tmp_path, stuff=2, clusters=5, background=0.3)
    found = read_json(tmp_path / "monitor.json")
    assert len(found["loss"]) == 8
    assert found["windows"]["background"] >= 2
    assert set(found["monitors"]) == set(training.MONITORS)
    images = FrozenPhotos(manifest, weights[VIT], SET, 100, CPU)
    made = Provenance.of("features", SET.model_dump(mode="json"), ["x"])
    with RaggedWriter(tmp_path / "f.zarr", "features", depth=images.depth, provenance=made) as out:
        out.append("im0", images.view(0))
    run.apply(target, tmp_path / "f.zarr", tmp_path / "codes.zarr")
    codes = Ragged(tmp_path / "codes.zarr")["im0"]
    assert codes.shape == (8, 8, 5)
    head = Head.load(target, "cpu")
    assert not head.sees_photos
    np.testing.assert_allclose(codes, head.codes(images.view(0)), atol=1e-2)
    np.testing.assert_array_equal(head.prototypes, np.eye(5))
    assert not any(name.startswith("head.teacher") for name in read_tensors(target)[0])


def test_the_training_says_what_it_cannot_use(weights: dict[str, Path], manifest: Path, tmp_path: Path) -> None:
    source = run.PhotoSource(manifest, weights[CNN], SETS[CNN])
    files = run.HeadFiles(tmp_path / "head.safetensors")
    with pytest.raises(ConfigError, match=r"^adapt\.method: resnet10t is no ViT"):
        run.fit(source, OWN, files, seed=0, clusters=4, resources=Resources(1, "cpu"))
    keys = FeatureSet.model_validate(SET.model_dump() | {"facet": "key"})
    with pytest.raises(ConfigError, match=r"^adapt\.method: .*facet key: a head can see photos through facet: token"):
        FrozenPhotos(manifest, weights[VIT], keys, 10, CPU)


def test_the_verb_and_the_recipe_say_what_is_missing(weights: dict[str, Path], manifest: Path, tmp_path: Path) -> None:
    out, body = tmp_path / "head.safetensors", json.dumps(OWN)
    with pytest.raises(ConfigError, match="method transfgu needs --weights, a head that learns from stored tokens"):
        adapt_fit(manifest, body, out, features=tmp_path)
    with pytest.raises(ConfigError, match="a head that learns from stored tokens --features"):
        adapt_fit(manifest, json.dumps({"method": "stego"}), out, weights=weights[VIT])
    key, flip = {"facet": "key"}, {"flip": "average"}
    with pytest.raises(ConfigError, match=r"adapt\.method: transfgu sees photos through facet: token, found key of"):
        resolve({"recipes": ["transfgu"], "features": {"semantic": key}}, RECIPES)
    with pytest.raises(ConfigError, match=r"flip: average, but adapt\.method: transfgu learns from photos"):
        resolve({"recipes": ["transfgu"], "features": {"semantic": flip}}, RECIPES)


def test_the_gradient_is_cut_and_biases_do_not_decay() -> None:
    from maskmill.adapt import _trainer

    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))

    seen: list[tuple[float, float]] = []
    head = Line()
    task = _trainer.HeadTask(
        head, [(list(head.parameters()), 0.1)], lambda step: [(np.zeros((1, 1), "f4"),)],
        lambda batch, draws, step: (5 * head.weight.sum() + 0.25 * head.bias.sum(), 1, {}), 1, 1,
        largest=1.0, decay_vectors=False, weight_decay=0.5, optimiser="adamw",
        after=lambda step: seen.append((float(head.weight.grad), float(head.bias.grad))),  # type: ignore[arg-type]
    )  # fmt: skip
    _trainer.train(task, HeadTraining(0, CPU))
    assert seen == [(1.0, 0.25)]
    assert float(head.weight.detach()) == pytest.approx(1 - 0.1 * 0.5 - 0.1, abs=1e-5)
    assert float(head.bias.detach()) == pytest.approx(1 - 0.1, abs=1e-5)
