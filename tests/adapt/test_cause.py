"""CAUSE: modularity of a codebook, its contrast and its bank against plain loops; which training moves what."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from token_scenes import DEPTH, FAST, scenes, write

from maskmill.adapt import _modularity, _trainer, cause
from maskmill.adapt._data import TokenImages
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.cause import contrast, segment

JOB = HeadTraining(seed=0, device=torch.device("cpu"), clusters=3)
LIMITS = contrast.Limits(0.07, 0.3, 0.1)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def test_the_largest_products_are_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_modularity, "ROOM", {"cpu": 150})  # two codes at once
    s = drawn(2, 6, 7).abs().requires_grad_()
    expected = torch.einsum("nik,njk->nkij", s, s).max(1)[0]
    found = _modularity.largest_products(s)
    torch.testing.assert_close(found, expected)
    weight = drawn(2, 6, 6, seed=1)
    for ours, theirs in zip(*(torch.autograd.grad((x * weight).sum(), s) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_modularity_of_a_codebook_is_the_sum_over_pairs() -> None:
    x, codebook = drawn(1, 5, 4), drawn(3, 4, seed=1)
    u, c = unit(x)[0].numpy(), unit(codebook).numpy()
    a = np.maximum(u @ u.T, 0)
    np.fill_diagonal(a, 0)
    share, edges = np.maximum(u @ c.T, 0), a.sum()
    total = 0.0
    for i in range(5):
        for j in range(5):
            together = max(math.tanh(share[i, k] * share[j, k] / 0.1) for k in range(3))
            total += (a[i, j] - a[i].sum() * a[j].sum() / edges) / edges * together
    assert float(_modularity.codebook_modularity(x, codebook, 0.1)) == pytest.approx(total)


def test_equal_tokens_and_one_token_have_a_finite_modularity() -> None:
    codebook = drawn(3, 4).requires_grad_()
    for x in (torch.ones(2, 6, 4, dtype=torch.float64), drawn(2, 1, 4), torch.zeros(2, 6, 4, dtype=torch.float64)):
        found = _modularity.codebook_modularity(x, codebook, 0.1)
        assert torch.isfinite(found).all()
        assert torch.isfinite(torch.autograd.grad(found.sum(), codebook)[0]).all()


def test_the_contrast_is_the_mean_over_positive_pairs() -> None:
    """Per image, in the batch and in the bank; a token is not its own positive, and pairs between do not count."""
    n, t, axes = 2, 4, unit(drawn(6, 3, seed=3))
    student, teacher, old = unit(drawn(n, t, 5)), unit(drawn(n, t, 5, seed=1)), unit(drawn(7, 5, seed=2))
    concepts, owners = torch.tensor([[0, 1, 1, 2], [3, 0, 4, 5]]), torch.arange(7) % 6
    alike = axes @ axes.T
    values = []
    for i in range(n):
        for keys, theirs, local in ((teacher.flatten(0, 1), concepts.flatten(), True), (old, owners, False)):
            terms = []
            for a in range(t):
                row = alike[concepts[i, a], theirs]
                exps = (student[i, a] @ keys.T / 0.07).exp()
                positive = [j for j in range(len(keys)) if row[j] > 0.3 and not (local and j == i * t + a)]
                level = sum(exps[j] for j in range(len(keys)) if j in positive or row[j] < 0.1)
                terms += [-torch.log(exps[j] / level) for j in positive]
            values.append(torch.stack(terms).mean())
    found, share = contrast.contrast(student, teacher, concepts, (old, owners), alike, LIMITS)
    torch.testing.assert_close(found, torch.stack(values).mean())
    assert 0 < share < 1


def test_without_a_positive_there_is_no_loss_and_no_nan() -> None:
    student = unit(drawn(1, 3, 5)).requires_grad_()
    nothing = torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    found, share = contrast.contrast(student, student.detach(), torch.arange(3)[None], nothing, torch.eye(3), LIMITS)
    assert float(found.detach()) == 0
    assert float(share) == 0
    assert torch.equal(torch.autograd.grad(found, student)[0], torch.zeros_like(student))
    # A row without a positive beside one with: only the latter counts.
    alike = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.2], [0.2, 0.2, 1.0]])
    found, _ = contrast.contrast(student, student.detach(), torch.arange(3)[None], nothing, alike, LIMITS)
    assert torch.isfinite(torch.autograd.grad(found, student)[0]).all()


def test_the_bank_keeps_half_of_a_concepts_tokens_and_forgets_the_oldest() -> None:
    params = cause.Params(concepts=3, bank=4, projection=2, head="mlp", dimensions=2)
    learner = segment.Learner(segment.CauseHead(4, params, 3), params)
    draws = torch.Generator().manual_seed(0)
    concepts = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])
    for step in range(3):
        learner.remember(concepts, torch.full((8, 2), float(step)), draws)
        kept, owner = learner.kept()
        assert torch.bincount(owner, minlength=3).tolist() == [min(4, 2 * (step + 1)), 0, step + 1]
    assert sorted(kept[owner == 0][:, 0].tolist()) == [1, 1, 2, 2]
    learner.remember(torch.zeros(20, dtype=torch.int64), torch.arange(20.0)[:, None].expand(-1, 2), draws)
    assert len(set(learner.kept()[0][learner.kept()[1] == 0][:, 0].tolist())) == 4  # more than there is room for


def test_one_token_of_every_square() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.arange(2 * 7 * 9.0).view(2, 1, 7, 9)
    places = cause.drawn_places(x, 3, draws)
    assert places.shape == (2, 6)
    rows, columns = places // 9, places % 9
    assert torch.equal(rows // 3, torch.tensor([0, 0, 0, 1, 1, 1]).expand(2, -1))
    assert torch.equal(columns // 3, torch.tensor([0, 1, 2, 0, 1, 2]).expand(2, -1))
    torch.testing.assert_close(cause.rows_at(x, places)[1, :, 0], (63 + places[1]).float())
    assert cause.drawn_places(x[:, :, :2, :1], 4, draws).shape == (2, 2)  # squares as large as fit
    assert not torch.equal(places, cause.drawn_places(x, 3, draws))


@pytest.mark.parametrize("size", [(5, 5), (1, 1), (3, 8)])
def test_the_decoder_takes_grids_of_any_size(size: tuple[int, int]) -> None:
    params = cause.Params(concepts=7, positions=5, dimensions=3)
    torch.manual_seed(0)
    head = segment.CauseHead(6, params, 2)
    x = torch.randn(2, 6, *size)
    codes = head.codes(x)
    assert codes.shape == (2, 3, *size)
    torch.testing.assert_close(codes[1:], head.codes(x[1:]))
    with torch.no_grad():
        head.codebook.copy_(torch.randn_like(head.codebook))
    assert not torch.allclose(codes, head.codes(x), atol=1e-4)  # the queries are the concepts


def test_each_training_moves_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codebook, then the head with its teacher, then the prototypes; what rests keeps its value to the bit."""
    body = FAST["cause"] | {"steps": 9, "codebook_steps": 3, "probe_steps": 3, "head": "tr", "dropout": 0.1}
    params, seen = cause.Params(**body), []
    train = _trainer.train

    def watched(task: _trainer.HeadTask, training: HeadTraining) -> tuple:
        def after(step: int) -> None:
            task.after(step)
            state = task.head.state_dict()
            seen.append({k: v.clone() for k, v in state.items()})

        return train(replace(task, after=after), training)

    monkeypatch.setattr(_trainer, "train", watched)
    tensors, found = cause.fit(TokenImages(write(tmp_path, scenes()), 100), params, JOB)
    assert len(found["loss"]) == 9

    def moved(name: str) -> list[bool]:
        return [not torch.equal(a[name], b[name]) for a, b in pairwise(seen)]

    assert moved("head.codebook") == [True] * 2 + [False] * 6
    assert moved("student.projector.linear.weight") == [False] * 2 + [True] * 3 + [False] * 3
    assert moved("head.teacher.places") == [False] * 2 + [True] * 3 + [False] * 3
    assert moved("head.prototypes.weight") == [False] * 5 + [True] * 3
    # After the first step the teacher is a copy of its student.
    assert torch.equal(seen[3]["head.teacher.places"], seen[3]["student.places"])
    assert not any("bank" in name or "student" in name for name in tensors)
    assert tensors["head.codebook"].shape == (12, DEPTH)


def test_the_rate_of_the_prototypes_is_halved_twice() -> None:
    params = cause.Params(steps=20, codebook_steps=5, probe_steps=10)
    assert [cause.rate(step, params) for step in (0, 9, 10, 13, 14, 17, 18, 19)] == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [cause.phase(step, params) for step in (0, 4, 5, 9, 10, 19)] == (
        ["codebook"] * 2 + ["head"] * 2 + ["probe"] * 2
    )


def test_settings_that_can_not_be() -> None:
    with pytest.raises(ValidationError, match="steps: 10, but codebook_steps and probe_steps are 5 \\+ 5 of them"):
        cause.Params(steps=10, codebook_steps=5, probe_steps=5)
    with pytest.raises(ValidationError, match=r"far: 0\.4 is above near: 0\.3"):
        cause.Params(far=0.4)
