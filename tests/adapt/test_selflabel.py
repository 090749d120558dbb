"""IIC, MDC and PiCIE: views, streaming clusters, losses against references, what an epoch keeps."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from token_scenes import DEPTH, FAST, scenes, write

from maskmill.adapt import _data, _selflabel, _trainer, _views, _warp, iic, mdc, picie, run
from maskmill.adapt._data import TokenImages
from maskmill.adapt._streaming import StreamingKMeans, moved, nearest
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.iic import information as _information
from maskmill.errors import NumericsError
from maskmill.images.interpolate import resize_maps
from maskmill.numerics import kmeans
from maskmill.store.artefact import read_json, read_tensors
from maskmill.store.codebook import Codebook, assign
from maskmill.training import loop
from maskmill.training.resources import Resources

CPU = torch.device("cpu")
OWN = dict(FAST["picie"])


def maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def boxes(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    return torch.tensor(rows)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> TokenImages:
    return TokenImages(write(tmp_path_factory.mktemp("tokens"), scenes()), 100)


def settings(clusters: int, iterations: int, spherical: bool = False) -> kmeans.Settings:
    return kmeans.Settings(clusters=clusters, spherical=spherical, restarts=1, iterations=iterations, tolerance=0.0)


def labeller(images: TokenImages, own: picie.Params, clusters: int = 3) -> _selflabel.SelfLabeller:
    head = _trainer.seeded(HeadTraining(0, CPU), lambda: picie.build(images.depth, own, clusters))
    return _selflabel.SelfLabeller(head, [k for k, _ in picie.levels(clusters, own)], 2, own.scale)


# views


def test_the_whole_box_is_the_identity_and_its_mirror() -> None:
    x = maps(2, 3, 5, 6)
    out = _warp.crop(x, boxes((0, 0, 1, 0), (0, 0, 1, 1)), (5, 6))
    torch.testing.assert_close(out, torch.stack([x[0], x[1].flip(2)]))
    np.testing.assert_allclose(_warp.resize(x, (3, 4))[0].numpy(), resize_maps(x[0].numpy(), (3, 4)), atol=1e-6)


def test_a_crop_is_laid_back_where_it_came_from() -> None:
    """A plane is exact under bilinear interpolation wherever no cell beyond the edge is asked for."""
    h, w = 16, 20
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    plane = torch.stack([y, x])[None].expand(2, 2, h, w)
    where = boxes((0.25, 0.1, 0.5, 0), (0.3, 0.4, 0.55, 1))
    part = _warp.crop(plane, where, (12, 10))
    own = torch.stack(torch.meshgrid((torch.arange(12) + 0.5) / 12, (torch.arange(10) + 0.5) / 10, indexing="ij"))
    torch.testing.assert_close(part[0], where[0, :2, None, None] + 0.5 * own, atol=1e-5, rtol=0)
    torch.testing.assert_close(part[1, 1], 0.4 + 0.55 * (1 - own[1]), atol=1e-5, rtol=0)
    back, inside = _warp.lay_back(part, where, (h, w))
    for i in range(2):
        top, left, side, _ = where[i].tolist()
        expected = (y >= top) & (y <= top + side) & (x >= left) & (x <= left + side)
        assert torch.equal(inside[i, 0] > 0, expected)
        edge = side / 2 / 10
        deep = (y - top > edge) & (top + side - y > edge) & (x - left > edge) & (left + side - x > edge)
        assert deep.sum() > 20
        torch.testing.assert_close(back[i][:, deep], plane[i][:, deep], atol=1e-5, rtol=0)


def test_views_follow_the_pass_and_the_image_only() -> None:
    own = picie.Params(hide=0.5, jitter=0.2)
    one, gains = _views.draw([4, 7, 9], [2, 2, 2], 400, own, 1)
    other, again = _views.draw([9, 4], [2, 2], 400, own, 1)
    np.testing.assert_array_equal(other, one[[2, 0]])
    np.testing.assert_array_equal(again, gains[[2, 0]])
    later, _ = _views.draw([4, 7, 9], [2, 3, 3], 400, own, 1)
    assert (later == one).all(1).tolist() == [True, False, False]
    assert not np.array_equal(gains[:, 0], gains[:, 1])
    many, kept = _views.draw(range(300), [0] * 300, 4, own, 0)
    assert (many[:, :2] >= 0).all()
    assert (many[:, :2].max(1) + many[:, 2] <= 1 + 1e-6).all()
    assert many[:, 2].min() >= 0.5
    assert 0.4 < many[:, 3].mean() < 0.6
    assert 0.4 < (kept[:, :, 0] == 0).mean() < 0.6
    assert ((kept[:, :, 0] == 0) <= (kept[:, :, 1] == 0)).all()


def test_recoloured_channels_are_scaled_and_shifted_in_their_deviations(images: TokenImages) -> None:
    own = picie.Params(**OWN)
    x, where, gains = _views.batch(images, own, HeadTraining(0, CPU), 5)
    assert x.dtype == np.float16  # as stored: it is made float32 where it is used
    x = x.astype("f4")
    _, drawn = _views.draw(_data.order(5, 8, 16, 0), [2] * 8, DEPTH, own, 0)
    out = _warp.recolour(torch.from_numpy(x), torch.from_numpy(gains[:, 1]))
    for n, c in np.ndindex(8, DEPTH):
        expected = x[n, c] * drawn[n, 1, 0, c] + drawn[n, 1, 1, c] * x[n, c].std()
        np.testing.assert_allclose(out[n, c], expected, rtol=1e-4, atol=1e-5)
    size, box = (4, 5), torch.from_numpy(where)  # what the methods rely on: recolouring commutes with the geometry
    late = _warp.recolour(_warp.crop(torch.from_numpy(x), box, size), torch.from_numpy(gains[:, 1]))
    torch.testing.assert_close(late, _warp.crop(out, box, size), atol=1e-5, rtol=1e-4)


# clusters of a stream


def test_one_cluster_is_the_mean_of_all_batches() -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((m, 4)).astype("f4") for m in (50, 30, 70, 10)]
    stream = StreamingKMeans(settings(1, 20), 2, 1000, 0)
    for block in blocks:
        stream.add(torch.from_numpy(block))
    centroids, counts = stream.result()
    np.testing.assert_allclose(centroids[0], np.concatenate(blocks).mean(0), atol=1e-6)
    assert counts.tolist() == [160]


@pytest.mark.parametrize("spherical", [False, True])
def test_later_batches_move_centroids_by_their_share(spherical: bool) -> None:
    rng = np.random.default_rng(1)
    corners = 3 * np.eye(3, 5)
    blocks = [(corners[rng.integers(3, size=60)] + rng.standard_normal((60, 5))).astype("f4") for _ in range(4)]
    blocks = [block / np.linalg.norm(block, axis=1, keepdims=True) for block in blocks]
    stream = StreamingKMeans(settings(3, 100, spherical), 2, 1000, 0)
    for block in blocks[:2]:
        stream.add(torch.from_numpy(block))
    means, counts = stream.means.copy(), stream.counts.copy()
    start = np.concatenate(blocks[:2])
    for k in range(3):  # the start is a fixed point of Lloyd's iteration
        mean = start[nearest(start, means) == k].mean(0)
        np.testing.assert_allclose(means[k], mean / (np.linalg.norm(mean) if spherical else 1), atol=1e-5)
    for block in blocks[2:]:
        stream.add(torch.from_numpy(block))
        at = means / np.linalg.norm(means, axis=1, keepdims=True) if spherical else means.copy()
        for k in range(3):
            own = [x for x in block if min(range(3), key=lambda j: ((x - at[j]) ** 2).sum()) == k]
            counts[k] += len(own)
            means[k] += len(own) / counts[k] * (np.mean(own, axis=0, dtype="f8") - means[k])
    found, sizes = stream.result()
    norms = np.linalg.norm(means, axis=1, keepdims=True) if spherical else 1
    np.testing.assert_allclose(found, means / norms, atol=1e-6)
    np.testing.assert_array_equal(sizes, counts)


def test_a_start_of_few_points_counts_all() -> None:
    x = np.repeat(np.eye(2, 3, dtype="f4"), [300, 100], axis=0) + np.random.default_rng(0).random((400, 3)) * 0.1
    stream = StreamingKMeans(settings(2, 20), 1, 40, 0)
    stream.add(torch.from_numpy(x.astype("f4")))
    assert stream.result()[1].sum() == pytest.approx(400)


def test_features_that_are_not_finite_or_all_alike_are_said(images: TokenImages) -> None:
    own = picie.Params(**OWN)
    model = labeller(images, own)
    for value, what in ((math.nan, "NaN"), (0.0, "distinct")):
        with torch.no_grad():
            for parameter in model.head.projector.parameters():
                parameter.fill_(value)
        before = _selflabel.epoch_clustering(model, images, own, HeadTraining(0, CPU), 2)
        with pytest.raises(NumericsError, match=rf"adapt: .*{what}.*collapsed: lower adapt\.learning_rate"):
            before(0)


@pytest.mark.parametrize("spherical", [False, True])
def test_centroids_that_move_on_a_device_are_the_same(spherical: bool) -> None:
    """The arithmetic of CUDA, computed here on the CPU."""
    rng = np.random.default_rng(3)
    blocks = [rng.standard_normal((60, 5)).astype("f4") for _ in range(4)]
    blocks = [block / np.linalg.norm(block, axis=1, keepdims=True) for block in blocks]
    stream = StreamingKMeans(settings(4, 50, spherical), 2, 1000, 0)
    for block in blocks[:2]:
        stream.add(torch.from_numpy(block))
    there = torch.from_numpy(stream.means.copy()), torch.from_numpy(stream.counts.copy())
    for block in blocks[2:]:
        stream.add(torch.from_numpy(block))
        there = moved(torch.from_numpy(block), *there, spherical)
    np.testing.assert_allclose(there[0].numpy(), stream.means, atol=1e-6)
    np.testing.assert_array_equal(there[1].numpy(), stream.counts)


# PiCIE and MDC


def test_an_epoch_moves_the_weights_as_far_as_the_published_one() -> None:
    """388 steps at 1e-4: a set of a few photos is not relabelled every few steps, before anything is learnt."""
    for method in (mdc, picie):
        own = method.Params(batch_size=32, steps=390, learning_rate=1e-3)
        assert _selflabel.epoch(100, own) == _selflabel.epoch(468, own) == 39
        assert _selflabel.epoch(49629, method.Params()) == 388
        assert _selflabel.epoch(100, method.Params()) == 388
        assert _selflabel.epoch(32 * 50, own) == 50  # one pass over more images is longer
        assert _selflabel.epoch(100, own.model_copy(update={"epoch_steps": 7})) == 7
        assert _selflabel.epoch(100, own.model_copy(update={"steps": 20})) == 20
        assert _selflabel.epoch(100, own.model_copy(update={"learning_rate": 1e-12})) == 390


def test_mdc_learns_the_labels_of_a_small_set(images: TokenImages) -> None:
    """By default: with an epoch of one pass, two steps here, the classifier forgot all that it had learnt."""
    loss = {}
    for steps in (0, 2):
        own = mdc.Params(**{**OWN, "epoch_steps": steps, "steps": 39, "dimensions": 64})
        loss[steps] = mdc.fit(images, own, HeadTraining(0, CPU, 3))[1]["loss"]
        assert loss[steps][0] == pytest.approx(math.log(3), abs=0.1)
    assert loss[2][-4:].mean() > 0.95 * math.log(3)
    assert loss[0][-4:].mean() < 0.85 * math.log(3)


def test_views_are_new_whenever_an_image_comes_again(images: TokenImages) -> None:
    """Sixteen images in batches of eight: steps 0 and 1, 2 and 3 show all of them, within one epoch."""
    own = picie.Params(**OWN)
    drawn: dict[int, list[np.ndarray]] = {}
    for step in range(4):
        _, where, _ = _views.batch(images, own, HeadTraining(0, CPU), step)
        for item, box in zip(_data.order(step, 8, 16, 0), where, strict=True):
            drawn.setdefault(item, []).append(box)
    assert sorted(drawn) == list(range(16))
    assert all(len(pair) == 2 and not np.array_equal(*pair) for pair in drawn.values())


def test_classes_may_count_alike(images: TokenImages) -> None:
    own = picie.Params(**OWN, balance=False)
    model = labeller(images, own)
    _selflabel.epoch_clustering(model, images, own, HeadTraining(0, CPU), 2)(0)
    assert bool((model.weights(0, 0) == 1).all())
    assert bool((model.centroids(0, 0) != 0).any())


def test_the_weighted_loss_is_that_of_torch() -> None:
    scores, weights = maps(2, 5, 3, 4).requires_grad_(), torch.rand(5, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(5, (2, 3, 4), generator=torch.Generator().manual_seed(2))
    ours = _selflabel.cross_entropy(scores, labels, weights)
    theirs = torch.nn.functional.cross_entropy(scores, labels, weights)
    torch.testing.assert_close(ours, theirs)
    one, two = (torch.autograd.grad(value, scores)[0] for value in (ours, theirs))
    torch.testing.assert_close(one, two)


def test_losses_within_and_across_views_are_those_of_four_classifiers(images: TokenImages) -> None:
    model = labeller(images, picie.Params(**OWN))
    model.centroids0.copy_(maps(2, 3, 8, seed=3))
    model.weights0.copy_(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]))
    phi = [torch.nn.functional.normalize(maps(2, 8, 3, 4, seed=s)) for s in (4, 5)]
    frozen = [torch.nn.functional.normalize(maps(2, 8, 3, 4, seed=s)) for s in (6, 7)]

    def term(view: int, target: int) -> float:
        """Features of `view` against labels and centroids of `target`, place by place."""
        mu, total, mass = model.centroids0[target], 0.0, 0.0
        for n, i, j in np.ndindex(2, 3, 4):
            y = int(((frozen[target][n, :, i, j] - mu) ** 2).sum(1).argmin())
            weight = float(model.weights0[target, y])
            total -= weight * float((mu @ phi[view][n, :, i, j]).log_softmax(0)[y])
            mass += weight
        return total / mass

    within, across = picie.view_losses(model, phi, frozen, 0)
    assert float(within) == pytest.approx((term(0, 0) + term(1, 1)) / 2, rel=1e-5)
    assert float(across) == pytest.approx((term(0, 1) + term(1, 0)) / 2, rel=1e-5)


def test_an_epoch_keeps_its_labels_while_the_head_learns(images: TokenImages) -> None:
    own = picie.Params(**OWN, over_clusters=6)
    job, model = HeadTraining(0, CPU), labeller(images, own)
    before = _selflabel.epoch_clustering(model, images, own, job, 4)
    before(0)

    def labels(level: int, view: int) -> torch.Tensor:
        found = []
        for step in range(4):
            batch = [_data.on_device(array, CPU) for array in _views.batch(images, own, job, step)]
            found.append(model.labels(model.frozen_features(model.inputs(batch))[view], level, view))
        return torch.cat(found)

    first = {(level, view): labels(level, view) for level in range(2) for view in range(2)}
    for (level, view), found in first.items():
        k = (3, 6)[level]
        share = torch.bincount(found.flatten(), minlength=k) / found.numel()
        torch.testing.assert_close(model.weights(level, view), share)
    with torch.no_grad():
        model.head.projector.linear.weight.add_(maps(*model.head.projector.linear.weight.shape))
    before(3)
    assert all(torch.equal(labels(*key), found) for key, found in first.items())
    before(4)
    assert not all(torch.equal(labels(*key), found) for key, found in first.items())


def test_the_second_view_is_cropped_after_the_head(images: TokenImages) -> None:
    own = picie.Params(**OWN, hide=0, jitter=0)
    model = labeller(images, own)
    batch = [_data.on_device(array, CPU) for array in _views.batch(images, own, HeadTraining(0, CPU), 0)]
    one, two = model.features(model.inputs(batch))
    x, where, _ = batch
    projector = model.head.projector
    expected = _warp.crop(projector(_warp.resize(x, (4, 5))), where, (4, 5))
    torch.testing.assert_close(two, torch.nn.functional.normalize(expected))
    torch.testing.assert_close(one, torch.nn.functional.normalize(projector(_warp.crop(x, where, (4, 5)))))


def test_weights_of_the_finer_clustering() -> None:
    assert picie.levels(27, picie.Params()) == [(27, 1.0)]
    (k1, one), (k2, two) = picie.levels(27, picie.Params(over_clusters=100))
    assert (k1, k2) == (27, 100)
    assert one == pytest.approx(math.log(100) / (math.log(27) + math.log(100)))
    assert one + two == pytest.approx(1)


def test_a_stopped_training_with_finer_clusters_goes_on(
    images: TokenImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write(tmp_path, scenes())
    body = {"method": "picie", **OWN, "steps": 12, "epoch_steps": 5, "over_clusters": 6}
    move = loop._move
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()

    def fit(name: str) -> None:
        target = tmp_path / name
        run.fit(
            paths,
            body,
            run.HeadFiles(target / "head.safetensors", target / "monitor.json"),
            seed=0,
            clusters=3,
            resources=Resources(device="cpu"),
        )

    def then_signal(average: dict, task: loop.Task, at: int) -> None:
        move(average, task, at)
        if at + 1 == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    fit("whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_move", then_signal)
        with pytest.raises(loop.StoppedError):
            fit("stopped")
    fit("stopped")
    assert (tmp_path / "stopped/head.safetensors").read_bytes() == (tmp_path / "whole/head.safetensors").read_bytes()
    assert len(read_json(tmp_path / "whole/monitor.json")["monitors"]["over"]) == 12
    names = set(read_tensors(tmp_path / "whole/head.safetensors")[0])
    assert names == {f"head.{name}" for name in labeller(images, picie.Params(**OWN)).head.state_dict()}


@pytest.mark.parametrize("method", [picie, mdc])
def test_prototypes_are_the_clusters_of_all_codes(method: object, images: TokenImages) -> None:
    own = method.Params(**OWN)  # type: ignore[attr-defined]
    tensors, _ = method.fit(images, own, HeadTraining(0, CPU, 3))  # type: ignore[attr-defined]
    head = method.build(DEPTH, own, 3)  # type: ignore[attr-defined]
    head.load_state_dict({name.removeprefix("head."): torch.from_numpy(value) for name, value in tensors.items()})
    x = torch.from_numpy(np.stack([images[i] for i in range(len(images))]).astype("f4")).permute(0, 3, 1, 2)
    codes = head.codes(x).permute(0, 2, 3, 1).reshape(-1, own.dimensions).detach().numpy()
    prototypes = tensors["head.prototypes.weight"]
    labels, _ = assign(codes, Codebook(prototypes, np.ones(3, np.int64), 0.0, True))
    np.testing.assert_array_equal(labels, nearest(codes, prototypes))
    for k in range(3):
        mean = codes[labels == k].mean(0)
        np.testing.assert_allclose(prototypes[k], mean / np.linalg.norm(mean), atol=1e-3)


def test_a_new_classifier_has_a_new_optimiser() -> None:
    """Adam with one parameter that starts anew at step 3 is Adam twice."""
    net = torch.nn.Linear(3, 2, bias=False)
    torch.nn.init.constant_(net.weight, 0.5)
    data = [np.random.default_rng(step).standard_normal((4, 3)).astype("f4") for step in range(6)]

    def before(step: int) -> list[torch.nn.Parameter]:
        return [net.weight] if step == 3 else []

    plan = _trainer.HeadTask(
        net, [([net.weight], 0.1)], lambda step: [(data[step],)],
        lambda batch, draws, step: (net(batch[0]).square().mean(), 1.0, {}), 6, 4, before=before,
    )  # fmt: skip
    tensors, _ = _trainer.train(plan, HeadTraining(0, CPU))
    other = torch.nn.Linear(3, 2, bias=False)
    torch.nn.init.constant_(other.weight, 0.5)
    for step in range(6):
        if step in (0, 3):
            optimiser = torch.optim.Adam(other.parameters(), lr=0.1)
        optimiser.zero_grad()
        other(torch.from_numpy(data[step])).square().mean().backward()
        optimiser.step()
    np.testing.assert_allclose(tensors["head.weight"], other.weight.detach().numpy(), atol=1e-6)


def test_mdc_starts_an_epoch_with_a_new_classifier() -> None:
    layer = torch.nn.Conv2d(8, 4, 1)
    assert mdc.reset_classifier(layer, torch.Generator().manual_seed(0)) == [layer.weight, layer.bias]
    first = layer.weight.detach().clone()
    assert layer.bias.abs().max() == 0
    assert 0.005 < float(first.std()) < 0.02
    mdc.reset_classifier(layer, torch.Generator().manual_seed(0))
    assert torch.equal(layer.weight, first)


# IIC


def looped(one: torch.Tensor, two: torch.Tensor, shift: int, lam: float) -> float:
    """The loss by loops over shifts, images, places and classes, float64."""
    n, k, h, w = one.shape
    a, b = one.double().numpy(), two.double().numpy()
    losses = []
    for dy in range(-shift, shift + 1):
        for dx in range(-shift, shift + 1):
            p = np.zeros((k, k))
            for i, y, x in np.ndindex(n, h, w):
                if 0 <= y + dy < h and 0 <= x + dx < w:
                    p += np.outer(a[i, :, y, x], b[i, :, y + dy, x + dx])
            p /= p.sum()
            p = (p + p.T) / 2
            rows, columns = p.sum(1), p.sum(0)
            total = 0.0
            for c, d in np.ndindex(k, k):
                total -= p[c, d] * (np.log(p[c, d]) - lam * np.log(rows[c]) - lam * np.log(columns[d]))
            losses.append(total)
    return float(np.mean(losses))


@pytest.mark.parametrize(("shift", "lam"), [(0, 1.0), (1, 1.0), (2, 1.5)])
def test_all_shifts_in_one_convolution_are_the_double_loop(shift: int, lam: float) -> None:
    one, two = maps(2, 3, 5, 4).softmax(1), maps(2, 3, 5, 4, seed=1).softmax(1)
    inside = (maps(2, 1, 5, 4, seed=2) > -0.5).float()
    found = _information.loss(one * inside, two * inside, shift, lam)
    assert float(found) == pytest.approx(looped(one * inside, two * inside, shift, lam), rel=1e-4)


def test_information_of_equal_views_is_their_entropy_and_of_constant_ones_nothing() -> None:
    labels = torch.arange(16).reshape(1, 4, 4) % 4
    hard = torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert float(_information.loss(hard, hard, 0, 1.0)) == pytest.approx(-math.log(4), abs=1e-5)
    flat = torch.full((1, 4, 4, 4), 0.25)
    assert float(_information.loss(flat, flat, 1, 1.0)) == pytest.approx(0, abs=1e-5)


def test_empty_classes_and_views_without_a_common_place_stay_finite() -> None:
    hard = torch.zeros(1, 3, 4, 4)
    hard[:, 0] = 1
    for inside in (1.0, 0.0):
        one = (hard * inside).requires_grad_()
        value = _information.loss(one, hard * inside, 1, 1.0)
        (gradient,) = torch.autograd.grad(value, one)
        assert bool(torch.isfinite(value))
        assert bool(torch.isfinite(gradient).all())


def test_heads_learn_by_turns_and_classes_are_the_nearest_prototypes(images: TokenImages) -> None:
    own = iic.Params(**FAST["iic"])
    job = HeadTraining(0, CPU, 3)
    start = _trainer.seeded(job, lambda: iic.build(images.depth, own, 3))
    one, _ = iic.fit(images, own.model_copy(update={"steps": 1}), job)
    np.testing.assert_array_equal(one["head.main.weight"], start.main.weight.detach().numpy())
    assert not np.array_equal(one["head.over.weight"], start.over.weight.detach().numpy())
    two, _ = iic.fit(images, own.model_copy(update={"steps": 2}), job)
    assert not np.array_equal(two["head.main.weight"], start.main.weight.detach().numpy())
    codes = start.codes(maps(2, DEPTH, 4, 5))
    torch.testing.assert_close(codes.sum(1), torch.ones(2, 4, 5))
    rows = codes.permute(0, 2, 3, 1).reshape(-1, 3).detach().numpy()
    labels, _ = assign(rows, Codebook(start.prototypes.weight.numpy(), np.ones(3, np.int64), 0.0, True))
    np.testing.assert_array_equal(labels, rows.argmax(1))


def test_places_outside_the_crop_are_not_counted(images: TokenImages) -> None:
    own = iic.Params(**FAST["iic"])
    head = _trainer.seeded(HeadTraining(0, CPU), lambda: iic.build(images.depth, own, 3))
    batch = tuple(_data.on_device(array, CPU) for array in _views.batch(images, own, HeadTraining(0, CPU), 0))
    one, two, whole = iic.views(head, batch, own.scale, False)
    outside = one.sum(1) == 0
    assert bool(outside.any())
    assert torch.equal(outside, two.sum(1) == 0)
    torch.testing.assert_close(two.sum(1)[~outside], torch.ones(int((~outside).sum())))
    torch.testing.assert_close(whole.sum(1), torch.ones_like(outside, dtype=torch.float32))
