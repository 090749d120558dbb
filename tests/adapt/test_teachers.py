"""Heads with a teacher that follows them: SmooSeg, Hidden Positives, PriMaPs-EM against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskmill.adapt import _correspondence, _teachers, hp, infer, primaps_em, run, smooseg
from maskmill.adapt._data import TokenImages
from maskmill.adapt._modules import Prototypes
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.hp import positives as _positives
from maskmill.cluster import prototypes
from maskmill.cut import primaps
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.resources import Resources

JOB = HeadTraining(seed=0, device=torch.device("cpu"), clusters=3)


def tokens(tmp_path: Path, sizes: list[tuple[int, int]], depth: int = 5) -> TokenImages:
    """Images of random tokens."""
    rng = np.random.default_rng(0)
    with RaggedWriter(tmp_path / "s.zarr", "features", depth=depth) as out:
        for i, size in enumerate(sizes):
            out.append(f"im{i:02d}", rng.standard_normal((*size, depth)).astype("f4"))
    return TokenImages([tmp_path / "s.zarr"], 100)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def maps(generator: np.random.Generator, n: int, c: int, h: int, w: int) -> np.ndarray:
    return generator.standard_normal((n, c, h, w))


def test_a_teacher_is_the_moving_average() -> None:
    student, teacher = Prototypes(2, 3), _teachers.AveragedPrototypes(2, 3)
    first = student.weight.detach().clone()
    _teachers.ema_update(teacher, student, 0.0)
    torch.testing.assert_close(teacher.weight, first)
    with torch.no_grad():
        student.weight.add_(1)
    _teachers.ema_update(teacher, student, 0.75)
    torch.testing.assert_close(teacher.weight, 0.75 * first + 0.25 * (first + 1))
    assert not list(teacher.parameters())
    assert "weight" in teacher.state_dict()


def test_smoothness_is_the_sum_over_pairs() -> None:
    draws = np.random.default_rng(0)
    f, g = maps(draws, 2, 5, 2, 3), maps(draws, 2, 5, 2, 3)
    p, q = np.abs(maps(draws, 2, 4, 2, 3)), np.abs(maps(draws, 2, 4, 2, 3))
    flat = [unit(x.reshape(2, x.shape[1], 6).transpose(0, 2, 1)) for x in (f, g, p, q)]
    raw = np.array([[[flat[0][n, a] @ flat[1][n, b] for b in range(6)] for a in range(6)] for n in range(2)])
    inner = raw - raw.mean(2, keepdims=True)
    weight = inner - inner.mean() + raw.mean()
    total = sum(
        (weight[n, a, b] - 0.3) * (1 - flat[2][n, a] @ flat[3][n, b])
        for n in range(2)
        for a in range(6)
        for b in range(6)
    )
    found = smooseg.smoothness(*(torch.from_numpy(x) for x in (f, g, p, q)), 0.3)
    assert float(found) == pytest.approx(total / 72)


def test_smooseg_moves_codes_by_the_energy_and_prototypes_by_the_data(tmp_path: Path, monkeypatch) -> None:
    """The teacher gets no gradient; cross-entropy sees detached codes; the classes are the teacher's."""
    images = tokens(tmp_path, [(4, 4)] * 4)
    params = smooseg.Params(dimensions=4, dropout=0, crops="none", steps=1, batch_size=4)
    plans = []
    monkeypatch.setattr("maskmill.adapt._correspondence.PAIRS", 4)
    monkeypatch.setattr("maskmill.adapt._trainer.train", lambda plan, job: (plans.append(plan), ({}, {}))[1])
    smooseg.fit(images, params, JOB)
    (plan,) = plans
    x = plan.batch(0)[0][0].astype("f4")
    _, weight, parts = plan.loss((torch.from_numpy(x),), torch.Generator().manual_seed(0), 0)
    assert weight == 4
    head, energy = plan.head, parts["within"] + parts["across"]
    learning = list(head.projector.parameters())
    assert not any(p is head.prototypes.weight for group, _ in plan.rates for p in group)
    through = torch.autograd.grad(energy, [*learning, head.student.weight], retain_graph=True, allow_unused=True)
    assert through[-1] is None
    assert all(g.abs().sum() > 0 for g in through[:-1])
    through = torch.autograd.grad(parts["data"], [*learning, head.student.weight], allow_unused=True)
    assert all(g is None for g in through[:-1])
    assert through[-1].abs().sum() > 0
    scores = (
        unit(head.codes(torch.from_numpy(x)).detach().numpy().transpose(0, 2, 3, 1))
        @ unit(head.prototypes.weight.numpy()).T
    )  # student and teacher are the same at the first step
    expected = -np.log(np.exp(scores.max(-1)) / np.exp(scores).sum(-1)).mean()
    assert float(parts["data"].detach()) == pytest.approx(expected, rel=1e-5)


def test_smooseg_draws_tokens_of_every_item(tmp_path: Path) -> None:
    images = tokens(tmp_path, [(3, 5), (4, 4), (2, 2)] * 3)
    params = smooseg.Params(crops="none", tokens=6, batch_size=9)
    (x,) = smooseg.batch(images, params, JOB, 0)
    assert x.shape == (9, 5, 6, 1)
    np.testing.assert_array_equal(x, smooseg.batch(images, params, JOB, 0)[0])
    assert not np.array_equal(x, smooseg.batch(images, params, JOB, 1)[0])
    stored = {tuple(row) for i in range(9) for row in images[i].reshape(-1, 5).astype("f4").tolist()}
    assert all(tuple(row) in stored for row in x.transpose(0, 2, 3, 1).reshape(-1, 5).astype("f4").tolist())
    grid = np.arange(12).reshape(3, 4, 1)
    some = smooseg.drawn(grid, 5, np.random.default_rng(0)).ravel()
    assert len(set(some.tolist())) == 5
    assert smooseg.drawn(grid[:1, :2], 5, np.random.default_rng(0)).shape == (5, 1, 1)
    assert len(smooseg.batch(images, params.model_copy(update={"tokens": 0}), JOB, 0)[0]) == 9


def test_smooseg_centres_over_the_whole_batch(tmp_path: Path, monkeypatch) -> None:
    """As published: the mean that is put back is that of all images of a step, and the other image is any of them."""
    images = tokens(tmp_path, [(4, 4)] * 12)
    params = smooseg.Params(dimensions=4, dropout=0, crops="none", steps=1, batch_size=12)
    plans = []
    monkeypatch.setattr("maskmill.adapt._correspondence.PAIRS", 4)
    monkeypatch.setattr("maskmill.adapt._trainer.train", lambda plan, job: (plans.append(plan), ({}, {}))[1])
    smooseg.fit(images, params, JOB)
    (micro,) = plans[0].batch(0)
    assert len(micro[0]) == 12
    f, p = torch.randn(12, 5, 3, 3), torch.randn(12, 4, 3, 3)
    raw = _correspondence.correlate(f, f)
    centred = raw - raw.mean((3, 4), keepdim=True) + raw.mean()
    expected = ((centred - 0.1) * (1 - _correspondence.correlate(p, p))).mean()
    torch.testing.assert_close(smooseg.smoothness(f, f, p, p, 0.1), expected)


def test_smoothness_in_pieces_is_the_same(monkeypatch) -> None:
    """Whatever is held at once, and whether pairs are kept for the gradient or computed again."""
    draws = torch.Generator().manual_seed(0)
    f, g, p, q = (torch.randn(5, c, 3, 4, generator=draws) for c in (6, 6, 3, 3))
    found = []
    for room, kept in ((1 << 24, 1 << 26), (300, 1 << 26), (1, 0)):
        monkeypatch.setattr(smooseg, "ROOM", {"cpu": room})
        monkeypatch.setattr(smooseg, "KEPT", kept)
        leaf = p.clone().requires_grad_()
        value = smooseg.smoothness(f, g, leaf, q, 0.2)
        found.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    assert found[0][1].abs().sum() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_smooseg_reads_shifts_off_the_features(tmp_path: Path) -> None:
    values = torch.linspace(-1, 1, 201)
    measured = {"within": (values, values), "across": (values / 2, values)}
    auto = smooseg._shifts(measured, smooseg.Params(quantile_within=0.25, quantile_across=0.75))
    assert auto == pytest.approx({"within": -0.5, "across": 0.25})
    assert smooseg._shifts(measured, smooseg.Params(shift="fixed")) == {"within": -0.02, "across": 0.48}


def contrast_by_loops(z, f, own, pools, others, each: int, share: float, tau: float) -> float:
    """Published loss of one view, image by image, anchor by anchor: mean log p weighted by positives."""
    n = len(z)
    reach = [[max(a[i] @ k for k in pool) for i in range(n)] for a, pool in ((f, pools[0]), (own, pools[1]))]

    def positive(kind: int, a, i: int, j: int) -> bool:
        return i != j and bool(a[i] @ a[j] > reach[kind][i] or a[i] @ a[j] > reach[kind][j])

    images = []
    for start in range(0, n, each):
        means, sizes = [], []
        for i in range(start, start + each):
            general = [positive(0, f, i, j) for j in range(n)]
            if not any(general):
                continue
            weight = [general[j] + share * positive(1, own, i, j) for j in range(n)]
            beside = [j for j in range(n) if j != i and (general[j] or others[i - start, j])]
            log_sum = np.log(sum(np.exp(z[i] @ z[j] / tau) for j in beside))
            logs = [weight[j] * (z[i] @ z[j] / tau - log_sum) for j in range(n)]
            means.append(sum(logs) / sum(weight))
            sizes.append(sum(weight))
        scaled = np.array(sizes) / np.mean(sizes) if sizes else np.zeros(0)
        images.append(float(np.mean(scaled * means)) if sizes else 0.0)
    return -tau / 0.07 * float(np.mean(images))


@pytest.mark.parametrize(("references", "having"), [(1, [4, 4, 4]), (60, [1, 2, 2]), (100, [0, 2, 0])])
def test_the_contrast_of_hidden_positives_is_the_published_one(references: int, having: list[int]) -> None:
    """Also where anchors, or all anchors of an image, have no positive."""
    draws = np.random.default_rng(references)
    z, mix, f, own = (unit(draws.standard_normal((12, c))) for c in (3, 3, 5, 4))
    pools = unit(draws.standard_normal((references, 5))), unit(draws.standard_normal((3, 4)))
    others = draws.random((4, 12)) < 0.3
    expected = [contrast_by_loops(view, f, own, pools, others, 4, 0.4, 0.6) for view in (z, mix)]
    x = [torch.from_numpy(part) for part in (z, mix, f, own, *pools, others)]
    settings = _positives.ContrastSettings(4, 0.4, 0.6)
    found, shares = _positives.loss((x[0], x[1]), (x[2], x[3]), (x[4], x[5]), x[6], settings)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-9)
    general = _positives.positives(x[2], (x[2] @ x[4].T).amax(1), slice(0, 12))
    assert float(shares["general"]) == pytest.approx(float(general.sum()) / 132)
    assert bool((general == general.T).all())
    assert general.any(1).reshape(3, 4).sum(1).tolist() == having


def test_large_batches_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.Generator().manual_seed(0)
    z, mix, f, own, pool = (torch.nn.functional.normalize(torch.randn(12, 4, generator=draws)) for _ in range(5))
    others = torch.rand(6, 12, generator=draws) < 0.5
    gradients = []
    for large in (100, 0):
        monkeypatch.setattr(_positives, "LARGE", large)
        leaf = z.clone().requires_grad_()
        value, _ = _positives.loss(
            (leaf, mix), (f, own), (pool[:2], pool[:2]), others, _positives.ContrastSettings(6, 1.0, 0.8)
        )
        gradients.append(torch.autograd.grad(value, leaf)[0])
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_without_a_positive_nothing_moves() -> None:
    z = torch.eye(4).requires_grad_()
    reference = torch.eye(4).detach()
    value, _ = _positives.loss(
        (z, z),
        (torch.eye(4), torch.eye(4)),
        (reference, reference),
        torch.ones(2, 4) > 0,
        _positives.ContrastSettings(2, 1.0, 0.8),
    )
    assert float(value.detach()) == 0
    assert torch.autograd.grad(value, z)[0].abs().sum() == 0


def test_codes_mix_with_like_neighbours_only() -> None:
    draws = np.random.default_rng(1)
    x, codes = maps(draws, 2, 3, 4, 5), maps(draws, 2, 2, 4, 5)
    u = unit(x.transpose(0, 2, 3, 1))
    found = _positives.mixed(torch.from_numpy(codes), torch.from_numpy(x)).numpy()
    for n, i, j in [(0, 0, 0), (0, 2, 3), (1, 3, 4), (1, 1, 0)]:
        mean = (u[n] @ u[n, i, j]).mean()
        total, count = np.zeros(2), 0
        for a in range(max(0, i - 1), min(4, i + 2)):
            for b in range(max(0, j - 1), min(5, j + 2)):
                weight = u[n, a, b] @ u[n, i, j]
                if (a, b) == (i, j) or (weight > 0 and weight >= mean):
                    total = total + weight * codes[n, :, a, b]
                count += 1
        np.testing.assert_allclose(found[n, :, i, j], total / count, rtol=1e-6)


@pytest.mark.parametrize("pool", [3, 4, 10])
def test_reference_tokens_are_of_as_many_images_as_there_are(pool: int, tmp_path: Path) -> None:
    """One of each and no second one: a larger pool is filled with the same tokens, which changes no maximum."""
    images = tokens(tmp_path, [(2, 3), (3, 3), (4, 2), (1, 5)])
    params = hp.Params(pool=pool)
    drawn = hp.references(images, params, JOB, "1")
    owner = [next(i for i in range(4) if (images[i].reshape(-1, 5).astype("f4") == row).all(1).any()) for row in drawn]
    assert len(drawn) == pool
    assert len(set(owner)) == len({tuple(row) for row in drawn.tolist()}) == min(pool, 4)
    np.testing.assert_array_equal(drawn, hp.references(images, params, JOB, "1"))
    assert not np.array_equal(drawn, hp.references(images, params, JOB, "2"))


def test_hp_clips_the_head_alone_and_drops_channels_of_the_mix(tmp_path: Path, monkeypatch) -> None:
    """As published: neither the projection nor the prototypes are clipped."""
    images = tokens(tmp_path, [(4, 4)] * 4)
    params = hp.Params(dimensions=4, crops="none", steps=1, batch_size=4, pool=4, negatives=1, dropout=0.5)
    plans, seen = [], []
    monkeypatch.setattr("maskmill.adapt._trainer.train", lambda plan, job: (plans.append(plan), ({}, {}))[1])
    hp.fit(images, params, JOB)
    (plan,) = plans
    assert {id(p) for p in plan.clipped} == {id(p) for p in plan.head.projector.parameters()}
    monkeypatch.setattr(_positives, "mixed", lambda codes, x: torch.ones_like(codes).requires_grad_())
    monkeypatch.setattr(
        plan.head, "projection", torch.nn.Identity()
    )  # then what the loss is given are the unit rows of the mix
    real = _positives.loss
    monkeypatch.setattr(_positives, "loss", lambda views, *rest: (seen.append(views[1]), real(views, *rest))[1])
    batch = tuple(torch.from_numpy(part.astype("f4")) for part in plan.batch(0)[0])
    plan.loss(batch, torch.Generator().manual_seed(0), 0)
    rows = seen[0].detach().reshape(4, 16, 4)
    assert 0 < int((rows == 0).sum()) < rows.numel()
    assert ((rows == 0) == (rows == 0)[:, :1]).all()  # a channel of all tokens of an image


def test_images_are_contrasted_together_or_one_by_one_alike(monkeypatch) -> None:
    draws = torch.Generator().manual_seed(0)
    z, mix, f, own, pool = (torch.nn.functional.normalize(torch.randn(12, 4, generator=draws)) for _ in range(5))
    others = torch.rand(3, 12, generator=draws) < 0.5
    found = []
    for room in (1, 80, 1 << 22):
        monkeypatch.setattr(_positives, "ROOM", {"cpu": room})
        settings = _positives.ContrastSettings(3, 0.5, 0.8)
        value, shares = _positives.loss((z, mix), (f, own), (pool[:2], pool[:2]), others, settings)
        found.append(torch.stack([value, shares["general"], shares["own"]]))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_teacher_and_references_are_renewed_after_their_steps(tmp_path: Path) -> None:
    images = tokens(tmp_path, [(2, 3)] * 3)
    params = hp.Params(dimensions=4, pool=5, renew=2, momentum=0.5)
    head = hp.build(5, params, 3)
    start = head.teacher.linear.weight.clone()
    torch.testing.assert_close(start, head.projector.linear.weight.detach())
    assert not any(p.requires_grad for p in head.teacher.parameters())
    with torch.no_grad():
        head.projector.linear.weight.add_(1)
    hp._after(head, images, params, JOB, 0)
    torch.testing.assert_close(head.teacher.linear.weight, start + 0.5)
    assert head.pool_codes.abs().sum() == 0
    hp._after(head, images, params, JOB, 1)
    x = torch.from_numpy(hp.references(images, params, JOB, "2"))
    expected = torch.nn.functional.normalize(head.teacher(x[:, :, None, None])[:, :, 0, 0])
    torch.testing.assert_close(head.pool_codes, expected)
    assert [hp.own_positives_weight(step, hp.Params(steps=11, warmup=1)) for step in (0, 1, 6, 11)] == [0, 0, 0.5, 1]


def test_masks_are_those_of_the_cut_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tokens(tmp_path, [(6, 7), (5, 5)])
    params = primaps_em.Params(vote=False, batch_size=2)
    masks = primaps_em.PrincipalMasks(images, params, np.full(5, 0.25, "f4"))
    settings = primaps.Params(vote=False)
    expected = [primaps.cut(images[i].astype("f4") - np.float32(0.25), settings, 0, "a")[0] for i in range(2)]
    for i in range(2):
        np.testing.assert_array_equal(masks[i], expected[i].ravel())
    monkeypatch.setattr(primaps_em, "CACHE_MIB", 0)
    none = primaps_em.PrincipalMasks(images, params, np.full(5, 0.25, "f4"))
    assert none[0] is not none[0]  # beyond its memory they are made again
    np.testing.assert_array_equal(none[1], masks[1])
    monkeypatch.setattr("maskmill.numerics.principal.segments_of", None)
    x, owner = primaps_em.batch(masks, params, JOB, 0)
    ids = _order(images, x + np.float32(0.25))
    assert sorted(ids) == [0, 1]
    first, second = (expected[i].ravel().astype(int) for i in ids)
    np.testing.assert_array_equal(owner[: len(first)], first)
    np.testing.assert_array_equal(owner[len(first) :], np.where(second > 0, second + first.max(), 0))


def _order(images: TokenImages, x: np.ndarray) -> list[int]:
    """The images that make up the rows x, in their order."""
    found, at = [], 0
    while at < len(x):
        i = next(i for i in range(len(images)) if np.allclose(images[i].reshape(-1, 5)[0], x[at], atol=1e-5))
        found, at = [*found, i], at + images[i].shape[0] * images[i].shape[1]
    return found


def test_a_mask_is_named_by_most_of_its_tokens() -> None:
    labels = torch.tensor([2, 2, 0, 1, 0, 2, 1, 0])
    owner = torch.tensor([1, 1, 1, 2, 2, 0, 3, 0])
    named = primaps_em.mask_classes(torch.nn.functional.one_hot(labels, 3).float(), owner, 5)
    assert named.tolist() == [2, 2, 2, 0, 0, -1, 1, -1]  # of equal ones the first
    assert primaps_em.mask_classes(torch.randn(4, 3), torch.zeros(4, dtype=torch.long), 2).tolist() == [-1] * 4


def test_the_focal_loss_is_the_published_one() -> None:
    draws = np.random.default_rng(0)
    scores, labels = draws.standard_normal((6, 3)), np.array([0, 2, -1, 1, 1, -1])
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    weight = [(1 - sum(p[i][k] for i in range(6)) / 6) ** 1.5 for k in range(3)]
    expected = sum(-weight[k] * np.log(p[i][k]) for i, k in enumerate(labels) if k >= 0) / 6
    found = primaps_em.focal(torch.from_numpy(scores), torch.from_numpy(labels), 1.5)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_teacher_moves_every_few_steps_and_slower_with_time() -> None:
    params = primaps_em.Params(probe_steps=2, follow_steps=3, momentum=0.7)
    moves = [primaps_em.teacher_momentum(step, params) for step in range(17)]
    copies = [0, 0, None, None, 0, None, None, 0]
    assert moves == [*copies, None, None, pytest.approx(2 / 3), None, None, 0.7, None, None, 0.7]  # at most 0.7


def test_the_teacher_follows_as_the_published_average() -> None:
    """What the published class makes of a weight that is 1, 2, 3, 4, 5 at its updates: the first two are copies."""
    params = primaps_em.Params(probe_steps=0, follow_steps=1)
    teacher, found = 0.0, []
    for step in range(5):
        momentum = primaps_em.teacher_momentum(step, params)
        assert momentum is not None
        teacher = momentum * teacher + (1 - momentum) * (step + 1)
        found.append(teacher)
    assert found == pytest.approx([1, 2, 7 / 3, 2.75, 3.2])


def test_training_starts_at_the_principal_directions(tmp_path: Path) -> None:
    images = tokens(tmp_path, [(6, 7), (5, 5), (4, 4)])
    head = primaps_em.build(5, primaps_em.Params(), 7)
    primaps_em.initialise(head, images, primaps_em.Params(), JOB)
    x = np.concatenate([images[i].reshape(-1, 5).astype("f8") for i in range(3)])
    _, _, rows = np.linalg.svd(x - x.mean(0))
    rows *= np.sign(np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1))
    weight = head.student.weight.detach().numpy()
    np.testing.assert_allclose(weight[:5], rows, atol=1e-5)
    np.testing.assert_allclose(head.mean, x.mean(0), atol=1e-6)
    plain = primaps_em.build(5, primaps_em.Params(), 7)
    primaps_em.initialise(plain, images, primaps_em.Params(centre=False), JOB)
    assert not plain.mean.any()
    np.testing.assert_allclose(np.linalg.norm(weight, axis=1), 1, rtol=1e-6)
    torch.testing.assert_close(head.teacher.weight, head.student.weight)
    assert not any(p.requires_grad for p in head.teacher.parameters())


def test_the_nearest_prototype_is_the_class_of_the_largest_score(tmp_path: Path) -> None:
    """Gains count, and the cluster method `prototypes` takes the axes as they are."""
    head = primaps_em.build(5, primaps_em.Params(), 3)
    with torch.no_grad():
        head.teacher.gain.copy_(torch.tensor([0.3, 1.0, 3.0]))
        head.mean.fill_(0.5)
    x = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    codes = head.codes(x)
    rows = x.permute(0, 2, 3, 1) - 0.5
    scores = head.teacher(rows)  # of tokens of any length
    assert (head.prototypes(codes).argmax(1) == scores.argmax(-1)).all()
    plain = rows @ torch.nn.functional.normalize(head.teacher.weight, dim=1).T
    assert (scores.argmax(-1) != plain.argmax(-1)).any()


def test_a_student_with_the_teachers_names_learns_them(tmp_path: Path) -> None:
    """Three materials, each image two: each gets a class of its own, other classes stay empty."""
    draws = np.random.default_rng(3)
    materials = 3 * np.linalg.qr(draws.standard_normal((5, 5)))[0][:3]
    labels = [np.repeat(draws.choice(3, 2, replace=False), 3)[None].repeat(4, 0) for _ in range(12)]
    with RaggedWriter(tmp_path / "s.zarr", "features", depth=5) as out:
        for i, label in enumerate(labels):
            out.append(f"im{i:02d}", (materials[label] + 0.2 * draws.standard_normal((4, 6, 5))).astype("f4"))
    body = {"method": "primaps_em", "steps": 120, "probe_steps": 40, "batch_size": 6}
    run.fit(
        [tmp_path / "s.zarr"],
        body,
        run.HeadFiles(tmp_path / "head.safetensors"),
        seed=0,
        clusters=5,
        resources=Resources(device="cpu"),
    )
    model = infer.Head.load(tmp_path / "head.safetensors", "cpu")
    run.apply(tmp_path / "head.safetensors", tmp_path / "s.zarr", tmp_path / "codes.zarr", 1, "cpu")
    codes = Ragged(tmp_path / "codes.zarr")
    classes = np.stack([(codes[image_id] @ model.prototypes.T).argmax(-1) for image_id in codes.ids])
    table = np.zeros((3, 5), int)
    np.add.at(table, (np.stack(labels).ravel(), classes.ravel()), 1)
    assert len(set(table.argmax(1))) == 3
    assert table.max(1).sum() / table.sum() > 0.97
    vectors = np.concatenate([codes[image_id].reshape(-1, 5) for image_id in codes.ids]).astype("f4")
    book, _ = prototypes.fit(vectors, prototypes.Params(clusters=5), 0, head=tmp_path / "head.safetensors")
    assert sorted(book.counts) == sorted(np.bincount(classes.ravel(), minlength=5))
