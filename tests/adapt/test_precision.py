"""What a head compares with a threshold is float32 in mixed precision too; what is sent to a device and read from it.

Mixed precision is that of CUDA, on the CPU: `torch.autocast("cpu", torch.bfloat16)`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from token_scenes import FAST, scenes, write

from maskmill.adapt import _correspondence, _data, _warp, infer, primaps_em, run, smooseg
from maskmill.adapt._modules import Prototypes, usage
from maskmill.adapt._teachers import AveragedPrototypes, Scores
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.acseg.concepts import ConceptHead
from maskmill.errors import NumericsError
from maskmill.training import loop
from maskmill.training.checkpoint import Keeper
from maskmill.training.resources import Resources
from maskmill.training.team import Team, set_gradients, single_threaded

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def offset(n: int, seed: int) -> torch.Tensor:
    """Tokens [n, 16, 6, 6] that mostly point the same way, as those of a network do."""
    return 3 + drawn(n, 16, 6, 6, seed=seed)


def test_correlations_have_the_same_signs_in_mixed_precision() -> None:
    """In bfloat16 many centred correlations of such tokens are on the other side of the shift."""
    f, g, places = offset(2, 0), offset(2, 1), 2 * torch.rand(2, 5, 5, 2) - 1

    def correlations() -> torch.Tensor:
        a, b = (_correspondence.sample(x, places) for x in (f, g))
        return _correspondence.centred(_correspondence.correlate(a, b))

    expected = correlations()
    shift = expected.median()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(correlations() > shift, expected > shift)
        half = torch.einsum("nchw,ncij->nhwij", *(torch.nn.functional.normalize(x, dim=1) for x in (f, g)))
        assert half.dtype == torch.bfloat16  # what autocast does to the product where it is let
        assert _correspondence.correlate(f.bfloat16(), g.bfloat16()).dtype == torch.float32


def test_stegos_pairs_and_smoosegs_energy_are_those_of_float32() -> None:
    f, code = offset(4, 0), drawn(4, 3, 6, 6, seed=2)
    p, q = drawn(4, 3, 6, 6, seed=3).softmax(1), drawn(4, 3, 6, 6, seed=4).softmax(1)

    def both() -> list[torch.Tensor]:
        draws = torch.Generator().manual_seed(0)
        found = [part for pair in _correspondence.pairs((f, f), (code, code), 4, 2, draws) for part in pair[1:]]
        return [*found, smooseg.smoothness(f, f.flip(0), p, q, 0.1)]

    expected = both()
    with torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in zip(both(), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_classes_are_those_of_float32() -> None:
    codes = 5 + drawn(2, 8, 9, 9)
    for prototypes in (Prototypes(30, 8), AveragedPrototypes(30, 8)):
        with torch.no_grad():
            prototypes.weight.copy_(5 + drawn(30, 8, seed=1))
        expected = prototypes(codes).argmax(1)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(prototypes(codes).argmax(1), expected)
    head = ConceptHead(8, 3, 0, 2, 4, centre=False)  # without a block, what autocast may do is not seen
    expected = head.codes(codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head.codes(codes), expected)


def test_masks_are_named_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _data.TokenImages(write(tmp_path, scenes(4)), 10)
    plans = []
    monkeypatch.setattr("maskmill.adapt._trainer.train", lambda plan, job: (plans.append(plan), ({}, {}))[1])
    params = primaps_em.Params(probe_steps=0, batch_size=4)
    primaps_em.fit(images, params, HeadTraining(0, CPU, 5))
    (plan,) = plans
    with torch.no_grad():
        plan.head.teacher.weight.copy_(5 + 0.01 * drawn(5, 16))
        plan.head.student.weight.copy_(5 + 0.01 * drawn(5, 16, seed=1))
    assert isinstance(plan.head.teacher, Scores)
    batch = tuple(_data.on_device(part, CPU) for part in plan.batch(0)[0])
    expected = plan.loss(batch, torch.Generator(), 0)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plan.loss(batch, torch.Generator(), 0)[0], expected)


def test_counts_of_classes_are_those_of_bincount() -> None:
    scores = drawn(3, 7, 5, 4)
    scores[:, 2] = -9
    sizes = torch.bincount(scores.argmax(1).flatten(), minlength=7).double()
    share = sizes / sizes.sum()
    found = usage(scores)
    assert float(found["largest"]) == float(share.max())
    assert float(found["used"]) == pytest.approx(6 / 7)
    assert float(found["entropy"]) == pytest.approx(-sum(s * np.log(s) for s in share.tolist() if s) / np.log(7))


# what is sent and read


def test_tokens_travel_as_they_are_stored() -> None:
    half = [np.random.default_rng(i).standard_normal((4, 5, 3)).astype("f2") for i in range(3)]
    x = _data.stack(half)
    assert x.dtype == np.float16
    there = _data.on_device(x, CPU)
    assert there.dtype == torch.float32
    np.testing.assert_array_equal(there.numpy(), np.stack([g.transpose(2, 0, 1) for g in half]).astype("f4"))
    assert _data.stack([half[0], half[1][:2]]).dtype == np.float32  # one is resampled
    assert _data.stack([half[0], half[1].astype("f4")]).dtype == np.float32
    photo = np.full((4, 5, 3), 200, np.uint8)
    assert _data.stack([photo]).dtype == np.uint8
    assert float(_data.on_device(_data.stack([photo]), CPU).max()) == 200
    assert _data.on_device(np.arange(3), CPU).dtype == torch.int64


def test_codes_of_several_images_are_those_of_each(tmp_path: Path) -> None:
    """As CUDA computes them: those that follow each other and have one shape together."""
    target = tmp_path / "head.safetensors"
    files = run.HeadFiles(target)
    run.fit(write(tmp_path, scenes()), {"method": "hp", **FAST["hp"]}, files, seed=0, clusters=3,
            resources=Resources(device="cpu"))  # fmt: skip
    head = infer.Head.load(target, "cpu")
    sizes = [(8, 10)] * 18 + [(4, 6), (8, 10), (8, 10)]
    views = [np.random.default_rng(i).standard_normal((*size, 16)).astype("f2") for i, size in enumerate(sizes)]
    calls = []
    real = infer.Head.several
    head.several = lambda some: (calls.append(len(some)), real(head, some))[1]  # type: ignore[method-assign]
    found = list(run.in_batches(head, iter(views)))
    assert calls == [16, 2, 1, 2]
    for view, codes in zip(views, found, strict=True):
        np.testing.assert_allclose(codes, head.codes(view), atol=1e-5)


def test_the_colours_of_a_view_do_not_change() -> None:
    """Constants that stay on the device give the bits of constants that are made anew."""
    x, changes = 255 * torch.rand(2, 3, 6, 6), torch.tensor([[1.1, 0.9, 1.2, 0.1, 1.0], [0.8, 1.1, 0.9, -0.05, 0.0]])
    to = torch.tensor(_warp.YIQ)
    angle = 2 * torch.pi * changes[:, 3]
    rotation = torch.eye(3).repeat(2, 1, 1)
    rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
    rotation[:, 1, 2], rotation[:, 2, 1] = -angle.sin(), angle.sin()
    assert torch.equal(_warp._turned(changes[:, 3]), torch.linalg.inv(to) @ rotation @ to)
    with torch.inference_mode():
        _warp.relight(x, changes)
    leaf = x.clone().requires_grad_()
    _warp.relight(leaf, changes).sum().backward()  # a constant made in inference mode could not be differentiated by
    assert leaf.grad is not None


def trained(gradients: object, steps: int = 20, **more: object) -> loop.Trained:
    net = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(net.weight, 0.5)

    def compute(batch: int) -> object:
        net.weight.grad = torch.full_like(net.weight, 0.1)
        return gradients(batch)  # type: ignore[operator]

    task = loop.Task(
        network=net, optimiser=torch.optim.SGD(net.parameters(), lr=0.1),
        batches=lambda start: iter(range(start, steps)), gradients=compute, rate=lambda step: 1.0,
        steps=steps, images=1, **more,
    )  # type: ignore[arg-type] # fmt: skip
    return loop.run(task, Keeper(stage="adapt"))


@pytest.mark.parametrize("every", [1, 7, 50])
def test_losses_that_are_read_later_are_the_same(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(lambda batch: 0.1 * batch).losses
    monkeypatch.setattr(loop, "READ", {"cpu": every})
    found = trained(lambda batch: torch.tensor(0.1 * batch, dtype=torch.float64))
    assert found.losses == expected


@pytest.mark.parametrize("every", [1, 7, 50])
def test_a_loss_that_is_not_finite_is_found_with_its_step(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "READ", {"cpu": every})
    with pytest.raises(NumericsError, match=r"adapt: the loss is nan at step 6; lower adapt\.learning_rate"):
        trained(lambda batch: torch.tensor(float("nan") if batch >= 5 else 1.0))


def test_nothing_is_saved_before_it_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "READ", {"cpu": 50})
    net = torch.nn.Linear(2, 1, bias=False)

    def gradients(batch: int) -> torch.Tensor:
        net.weight.grad = torch.ones_like(net.weight) * (float("inf") if batch == 5 else 1)
        return torch.tensor(1.0)

    task = loop.Task(
        network=net, optimiser=torch.optim.SGD(net.parameters(), lr=0.1), batches=lambda start: iter(range(start, 20)),
        gradients=gradients, rate=lambda step: 1.0, steps=20, images=1,
    )  # fmt: skip
    keeper = Keeper(tmp_path / "x.safetensors", 4, "adapt")
    with pytest.raises(NumericsError, match=r"the gradient is inf at step 6.*the checkpoint of the last good state"):
        loop.run(task, keeper)
    found = keeper.load()
    assert found is not None
    assert found.step == 4
    assert np.isfinite(found.tensors["network/weight"]).all()


def test_only_what_is_named_is_clipped() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 1, bias=False))

    def task(**more: object) -> loop.Task:
        for layer in net:
            layer.weight.grad = torch.full_like(layer.weight, 3.0)
        return loop.Task(
            network=net, optimiser=torch.optim.SGD(net.parameters(), lr=0.1), batches=lambda start: iter([]),
            gradients=lambda batch: 0.0, rate=lambda step: 1.0, steps=1, images=1, clip=1.0, **more,
        )  # type: ignore[arg-type] # fmt: skip

    norm = loop._clip(task(clipped=[net[0].weight]))
    assert float(norm) == pytest.approx(27**0.5)  # of all: what is not finite elsewhere is found too
    assert float(net[0].weight.grad.norm()) == pytest.approx(1, rel=1e-4)
    assert float(net[1].weight.grad) == 3
    assert float(loop._clip(task())) == pytest.approx(27**0.5)
    assert float(net[1].weight.grad) == pytest.approx(3 / 27**0.5, rel=1e-4)


def test_sums_of_micro_batches_are_the_same_on_host_and_device() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    found = []
    for kind in (float, lambda x: torch.tensor(x, dtype=torch.float64)):
        with single_threaded(CPU, 1) as pool:
            loss = set_gradients(
                [weight], [1, 2, 3], lambda x, kind=kind: (kind(0.1 * x), x, (torch.full((3,), 0.7 * x),)), pool, Team()
            )
        found.append((float(loss), weight.grad.clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
