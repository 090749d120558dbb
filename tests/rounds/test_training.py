"""Training of students: checkpoints and exact resume, moving average, losses, what stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import checkpoints, stop_at
from nothing_read import NothingRead
from token_students import IDS, SMALL, fit, scene, write_world

from maskmill.errors import NumericsError
from maskmill.rounds import _losses
from maskmill.rounds._settings import Training
from maskmill.store import codebook
from maskmill.store.artefact import read_json, read_tensors, write_table, write_tensors
from maskmill.training import loop
from maskmill.training.checkpoint import Keeper


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_world(tmp_path_factory.mktemp("world"), [IDS])


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "loss": "focal"}, {"loss": "ohem", "batch_size": 5}])
def test_an_interrupted_training_ends_in_the_same_bytes(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    options = {"steps": 30} | options
    whole = fit(world, tmp_path / "whole.safetensors", **options)
    out = tmp_path / "parts.safetensors"
    stop_at(monkeypatch, 0, 6, 28, 29)  # after the last step there is nothing to go on with
    for step in (1, 7, 29):
        with pytest.raises(loop.StoppedError, match=f"SIGTERM after step {step} of 30, .* run the same command again"):
            fit(world, out, threads=1 + step % 2, **options)
        assert not out.exists()
        assert len(checkpoints(tmp_path)) == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    fit(world, out, **options)
    assert out.read_bytes() == whole.read_bytes()
    assert not checkpoints(tmp_path)


def test_a_killed_training_goes_on_from_its_last_checkpoint(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = fit(world, tmp_path / "whole.safetensors", steps=30)
    move = loop._move

    def die(average: Any, task: Any, step: int) -> None:
        if step == 25:
            raise KeyboardInterrupt
        move(average, task, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_move", die)
        with pytest.raises(KeyboardInterrupt):
            fit(world, tmp_path / "s.safetensors", checkpoint=10, steps=30)
    assert len(checkpoints(tmp_path)) == 1
    capfd.readouterr()
    fit(world, tmp_path / "s.safetensors", checkpoint=10, steps=30)
    assert "goes on after step 20 of 30" in capfd.readouterr().err
    assert (tmp_path / "s.safetensors").read_bytes() == whole.read_bytes()


def test_a_checkpoint_of_other_settings_is_not_used(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s.safetensors"
    with monkeypatch.context() as patch:
        stop_at(patch, 5, number=signal.SIGUSR1)
        with pytest.raises(loop.StoppedError, match="SIGUSR1 after step 6 of 20"):
            fit(world, out, steps=20)
    for other in ({"learning_rate": 1e-3}, {"seed": 1}, {"features": ["b", "a"], "hidden": 8}):
        fit(world, tmp_path / "s.safetensors", **({"steps": 20} | other))
        assert "goes on" not in capfd.readouterr().err
    assert not checkpoints(tmp_path)


def test_a_damaged_checkpoint_starts_again(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, out = fit(world, tmp_path / "whole.safetensors", steps=20), tmp_path / "s.safetensors"
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(loop.StoppedError):
            fit(world, out, steps=20)
    (file,) = checkpoints(tmp_path)
    file.write_bytes(file.read_bytes()[:1000])
    fit(world, out, steps=20)
    assert "not a readable checkpoint; training starts from step 0" in capfd.readouterr().err
    assert out.read_bytes() == whole.read_bytes()


def test_a_terminated_process_says_how_to_go_on(world: dict[str, Any], tmp_path: Path) -> None:
    """The command line, a real SIGTERM from outside, and the same command again."""
    arguments = write_command(world, tmp_path, steps=800)
    out = tmp_path / "out/student.safetensors"

    def start(target: Path) -> subprocess.Popen[str]:
        more = ["--out", str(target), "--timing", str(target.with_name("training.json")), "--checkpoint-steps", "20"]
        code = "import sys; from maskmill.cli import main; sys.argv[0] = 'maskmill'; main()"
        command = [sys.executable, "-c", code, *arguments, *more]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    process = start(out)
    deadline = time.monotonic() + 120
    while not checkpoints(out.parent) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.terminate()
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1, error
    last = error.strip().splitlines()[-1]
    assert last.startswith("maskmill rounds train: error: rounds: stopped by SIGTERM after step ")
    assert last.endswith("run the same command again to go on")
    assert not out.exists()
    again = start(out)
    error = again.communicate(timeout=300)[1]
    assert again.returncode == 0, error
    assert "goes on after step" in error
    whole = start(tmp_path / "whole/student.safetensors")
    assert whole.communicate(timeout=300)[0] is None
    assert out.read_bytes() == (tmp_path / "whole/student.safetensors").read_bytes()
    timing = read_json(out.with_name("training.json"))
    assert timing["images_per_second"] > 0
    assert 0 <= timing["waiting_share"] <= 1


def write_command(world: dict[str, Any], root: Path, **override: Any) -> list[str]:
    """Arguments of `maskmill rounds train` on the stores of a world of one shard, less what it writes."""
    rows = {"id": IDS, "path": IDS, "width": [8] * 12, "height": [8] * 12, "shard": ["0"] * 12}
    labels = {"label": pa.array([None] * len(IDS), pa.string())}
    write_table(root / "manifest.parquet", pa.table(rows | labels))
    book = codebook.Codebook(np.eye(2, 4, dtype=np.float32), np.ones(2, np.int64), 0.0, True)
    codebook.write(root / "codebook.safetensors", book)
    folders = [f"--features={name}={paths[0].parent}" for name, paths in world["features"].items()]
    return [
        "rounds", "train", *folders, "--manifest", str(root / "manifest.parquet"), "--codebook",
        str(root / "codebook.safetensors"), "--masks", str(world["masks"][0].parent), "--params",
        json.dumps(SMALL | override), "--device", "cpu",
    ]  # fmt: skip


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = _losses.cross_entropy
    calls: list[int] = []

    def broken(*args: Any) -> Any:
        loss, cells = plain(*args)
        calls.append(1)
        return (loss * float("nan") if len(calls) > 2 * 14 else loss), cells  # two micro-batches a step

    monkeypatch.setitem(_losses.LOSSES, "ce", broken)
    with pytest.raises(
        NumericsError, match=r"loss is nan at step 15; lower rounds\.learning_rate \(now 0\.005\); .*kept"
    ):
        fit(world, tmp_path / "s.safetensors", checkpoint=10, steps=30)
    (file,) = checkpoints(tmp_path)
    tensors, provenance = read_tensors(file)
    assert provenance["params"]["step"] == 10
    assert all(np.isfinite(value).all() for value in tensors.values())


def test_a_training_that_diverges_stops_before_its_weights_do(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match=r"rounds: the (loss|gradient) is \S+ at step \d+"):
        fit(world, tmp_path / "s.safetensors", learning_rate=1e30, dropout=0.0)
    assert not (tmp_path / "s.safetensors").exists()


def test_the_moving_average_is_what_its_formula_says() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    values = [3.0, -1.0, 2.0, 5.0]
    average = {"weight": torch.tensor([[10.0]])}
    task = loop.Task(network, torch.optim.SGD(network.parameters(), lr=1), lambda s: iter(()), float, float, 4, 1, 0.2)
    expected = 10.0
    for step, value in enumerate(values):
        network.weight.data.fill_(value)
        loop._move(average, task, step)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert float(average["weight"]) == pytest.approx(expected, rel=1e-6)


def test_the_average_is_what_is_written(world: dict[str, Any], tmp_path: Path) -> None:
    last = read_tensors(fit(world, tmp_path / "a.safetensors", steps=20))[0]
    mean = read_tensors(fit(world, tmp_path / "b.safetensors", steps=20, ema=0.95))[0]
    np.testing.assert_array_equal(last["loss"], mean["loss"])  # the path of the weights is the same
    assert not np.allclose(last["head.stem.weight"], mean["head.stem.weight"])


def loss_of(name: str, logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0, **options: Any) -> float:
    weights = torch.ones(logits.shape[1])
    total, cells = _losses.LOSSES[name](logits, target, weights, Training(loss=name, **options), smoothing)  # type: ignore[arg-type]
    return float(total / cells)


def example(seed: int = 0, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, 5, 6, generator=generator)
    label = torch.randint(classes, (2, 5, 6), generator=generator)
    target = torch.nn.functional.one_hot(label, classes).permute(0, 3, 1, 2).float()
    target[:, :, 0] = 0  # a row of ignore
    return logits, target


@given(seed=st.integers(0, 1000), smoothing=st.sampled_from([0.0, 0.2]))
@settings(max_examples=20, deadline=None)
def test_losses_meet_in_their_limits(seed: int, smoothing: float) -> None:
    logits, target = example(seed)
    plain = loss_of("ce", logits, target, smoothing)
    assert loss_of("focal", logits, target, smoothing, gamma=0.0) == pytest.approx(plain, rel=1e-5)
    assert loss_of("ohem", logits, target, smoothing, hardest=1.0) == pytest.approx(plain, rel=1e-5)


@given(seed=st.integers(0, 1000), share=st.sampled_from([0.01, 0.2, 0.3, 1.0]), empty=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_hardest_cells_are_the_same_where_nothing_is_read_back(seed: int, share: float, empty: bool) -> None:
    """A device chooses them without telling the host how many there are; ties at the limit count in both."""
    logits, target = example(seed)
    logits[0, :, 2] = logits[0, :, 3]  # cells that are equally hard, where they have one label
    target = target * (not empty)
    cell, known = -(target * logits.log_softmax(1)).sum(1), target.sum(1) > 0
    with NothingRead():
        chosen = _losses.hardest_cells(cell, known, share)
    total, cells = _losses.LOSSES["ohem"](logits, target, torch.ones(4), Training(hardest=share), 0.0)
    assert int(chosen.sum()) == int(cells)
    assert float(cell[chosen].sum()) == pytest.approx(float(total), rel=1e-6)


@pytest.mark.parametrize("name", ["ce", "focal"])
def test_losses_read_nothing_back(name: str) -> None:
    logits, target = example(0)
    logits.requires_grad_()
    with NothingRead():
        total, _ = _losses.LOSSES[name](logits, target, torch.ones(4), Training(), 0.1)
        torch.autograd.grad(total, logits)


def test_focal_and_ohem_by_hand() -> None:
    logits, target = example(3)
    logp = logits.log_softmax(1)
    cell = -(target * logp).sum(1)[:, 1:]  # known cells
    p = (-cell).exp()
    assert loss_of("focal", logits, target, gamma=2.0) == pytest.approx(float(((1 - p) ** 2 * cell).mean()), rel=1e-5)
    hardest = cell.flatten().sort(descending=True).values[: round(0.3 * cell.numel())]
    assert loss_of("ohem", logits, target, hardest=0.3) == pytest.approx(float(hardest.mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["ce", "focal", "ohem"])
def test_no_known_cell_gives_no_gradient(name: str) -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    settings_ = Training(loss=name)  # type: ignore[arg-type]
    total, cells = _losses.LOSSES[name](logits, torch.zeros(1, 3, 2, 2), torch.ones(3), settings_, 0.0)
    total.backward()
    assert float(cells) == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_ohem_never_learns_from_ignored_cells() -> None:
    logits, target = example(1)
    logits.requires_grad_()
    total, _ = _losses.ohem(logits, target, torch.ones(4), Training(loss="ohem", hardest=0.9), 0.1)
    total.backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 0] == 0).all()
    assert (logits.grad[:, :, 1:].abs().sum(1) > 0).float().mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("loss", ["focal", "ohem"])
def test_every_loss_trains_a_student(tmp_path: Path, loss: str) -> None:
    """On masks without noise: the hardest cells of noisy masks are the noise."""
    world = write_world(tmp_path, [IDS], {i: scene(i)[0] for i in IDS})
    losses = read_tensors(fit(world, tmp_path / "s.safetensors", loss=loss))[0]["loss"]
    assert losses[-5:].mean() < 0.9 * losses[0]


def test_a_keeper_without_a_path_keeps_nothing() -> None:
    keeper = Keeper()
    assert not keeper.due(10)
    assert keeper.load() is None
    keeper.clear()


def test_clearing_removes_what_other_settings_left(tmp_path: Path) -> None:
    keeper = Keeper.beside(tmp_path / "student.safetensors", "abc", 5)
    assert keeper.path is not None
    write_tensors(keeper.path.with_name("other.safetensors"), {"x": np.zeros(1)})
    keeper.clear()
    assert not keeper.path.parent.exists()
