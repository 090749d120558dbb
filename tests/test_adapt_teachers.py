"""Heads with a teacher that follows them: SmooSeg, Hidden Positives, PriMaPs-EM against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskmill.adapt import _teachers, smooseg
from maskmill.adapt._data import TokenImages
from maskmill.adapt._job import Job
from maskmill.adapt._modules import Prototypes
from maskmill.store import RaggedWriter

JOB = Job(seed=0, device=torch.device("cpu"), clusters=3)


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
    student, teacher = Prototypes(2, 3), _teachers.Followed(2, 3)
    first = student.weight.detach().clone()
    _teachers.follow(teacher, student, 0.0)
    torch.testing.assert_close(teacher.weight, first)
    with torch.no_grad():
        student.weight.add_(1)
    _teachers.follow(teacher, student, 0.75)
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
    monkeypatch.setattr("maskmill.adapt._trainer.train", lambda plan, job: (plans.append(plan), ({}, {}))[1])
    smooseg.fit(images, params, JOB)
    (plan,) = plans
    (x,) = plan.batch(0)[0]
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


def test_smooseg_draws_tokens_and_leaves_no_item_alone(tmp_path: Path) -> None:
    images = tokens(tmp_path, [(3, 5), (4, 4), (2, 2)] * 3)
    params = smooseg.Params(crops="none", tokens=6, batch_size=9)
    first, second = smooseg.micros(images, params, JOB, 0)
    assert (first[0].shape, second[0].shape) == ((5, 5, 6, 1), (4, 5, 6, 1))
    np.testing.assert_array_equal(first[0], smooseg.micros(images, params, JOB, 0)[0][0])
    assert not np.array_equal(first[0], smooseg.micros(images, params, JOB, 1)[0][0])
    stored = {tuple(row) for i in range(9) for row in images[i].reshape(-1, 5).astype("f4").tolist()}
    assert all(tuple(row) in stored for row in first[0].transpose(0, 2, 3, 1).reshape(-1, 5).tolist())
    grid = np.arange(12).reshape(3, 4, 1)
    some = smooseg.drawn(grid, 5, np.random.default_rng(0)).ravel()
    assert len(set(some.tolist())) == 5
    assert smooseg.drawn(grid[:1, :2], 5, np.random.default_rng(0)).shape == (5, 1, 1)
    assert [len(part[0]) for part in smooseg.micros(images, params.model_copy(update={"tokens": 0}), JOB, 0)] == [5, 4]


def test_smooseg_reads_shifts_off_the_features(tmp_path: Path) -> None:
    values = torch.linspace(-1, 1, 201)
    measured = {"self": (values, values), "random": (values / 2, values)}
    auto = smooseg._shifts(measured, smooseg.Params(quantile_within=0.25, quantile_across=0.75))
    assert auto == pytest.approx({"within": -0.5, "across": 0.25})
    assert smooseg._shifts(measured, smooseg.Params(shift="fixed")) == {"within": -0.02, "across": 0.48}
