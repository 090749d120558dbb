"""The trainer: the same bits in any number of threads and after any stop, one training in several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import photo_rows
import pytest
import torch

from maskmill.backbones.learning import Learning, Origin, build
from maskmill.errors import ConfigError, NumericsError
from maskmill.pretrain import dino
from maskmill.pretrain._learner import Learner, split
from maskmill.pretrain._trainer import Training, train
from maskmill.pretrain._views import Normalisation, Photos
from maskmill.pretrain._watch import Watch, check_alive
from maskmill.pretrain.run import check_share
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.manifest import Row
from maskmill.training.checkpoint import Keeper
from maskmill.training.loop import StoppedError
from maskmill.training.team import Team

CPU = torch.device("cpu")
SETTINGS = {
    "steps": 6, "batch_size": 8, "micro_batch": 2, "crop": 32, "local_crop": 16, "local_crops": 1, "prototypes": 16,
    "hidden": 16, "bottleneck": 8, "drop_path": 0.1, "patch_weight": 0.5, "learning_rate": 1e-3, "hide_chance": 1.0,
}  # fmt: skip


def network(name: str = "vit_tiny_patch16_224", drop_path: float = 0.1) -> Learning:
    torch.manual_seed(0)
    return build(Origin(FeatureSet(backbone=name), name, drop_path=drop_path))


def trained(
    rows: list[Row], keeper: Keeper | None = None, settled: Any = None, threads: int = 1, team: Team | None = None,
    **settings: Any,
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:  # fmt: skip
    torch.set_num_threads(1)
    params = dino.Params(**(SETTINGS | settings))
    photos = Photos(rows, dino, params, Normalisation((0.5,) * 3, (0.25,) * 3), seed=1)
    learner = dino.build(network(), params, len(rows))
    training = Training(1, CPU, threads, keeper or Keeper(stage="pretrain"), team or Team(), settled)
    return train(learner, photos, training)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return photo_rows.rows_of(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(scope="module")
def whole(rows: list[Row]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return trained(rows)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_training_learns_and_says_what_it_saw(whole: tuple[dict[str, torch.Tensor], dict[str, Any]]) -> None:
    state, told = whole
    assert not same(state, network().state())
    assert len(told["loss"]) == 6
    assert told["steps"] == 6
    assert told["images"] == 8
    assert list(told["monitors"]) == ["rank", "spread", "agreement", "entropy", "mean_entropy", "patch_loss"]
    assert all(len(values) == 6 and np.isfinite(values).all() for values in told["monitors"].values())
    assert 0 < told["monitors"]["entropy"][0] <= np.log(16) + 1e-6


def test_the_number_of_threads_changes_no_bit(rows: list[Row], whole: Any) -> None:
    state, told = trained(rows, threads=3)
    assert same(state, whole[0])
    assert np.array_equal(told["loss"], whole[1]["loss"])


@pytest.mark.parametrize("kind", ["signal", "killed"])
def test_a_stopped_training_goes_on_to_the_same_bits(rows: list[Row], whole: Any, tmp_path: Path, kind: str) -> None:
    keeper = Keeper.beside(tmp_path / "w.safetensors", "key", 2, "pretrain")
    stops: list[int] = []

    def stop(step: int, learner: Learner) -> None:
        if step == 3 and not stops:
            stops.append(step)
            if kind == "killed":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(KeyboardInterrupt if kind == "killed" else StoppedError):
        trained(rows, keeper, stop)
    assert keeper.load() is not None
    state, told = trained(rows, keeper, stop)
    assert same(state, whole[0])
    assert np.array_equal(told["loss"], whole[1]["loss"])
    assert all(np.array_equal(values, whole[1]["monitors"][name]) for name, values in told["monitors"].items())


def test_a_finished_training_is_not_trained_again(rows: list[Row], whole: Any, tmp_path: Path) -> None:
    keeper = Keeper.beside(tmp_path / "w.safetensors", "key", 1, "pretrain")
    trained(rows, keeper)
    state, told = trained(rows, keeper, settled=lambda step, learner: pytest.fail("a step was made"))
    assert same(state, whole[0])
    assert list(told["monitors"]) == list(whole[1]["monitors"])


PROCESS = """
import sys, torch
sys.path[:0] = [{tests!r}, {support!r}]
import photo_rows, test_trainer
from pathlib import Path
from maskmill.training.team import join, leave
team, _ = join("cpu")
rows = photo_rows.rows_of(Path({folder!r}) / f"p{{team.rank}}", 12)
state, told = test_trainer.trained(rows, team=team)
if team.leads:
    torch.save((state, told["loss"]), {out!r})
leave(team)
"""


def test_two_processes_are_one_with_all_micro_batches(whole: Any, tmp_path: Path) -> None:
    here = Path(__file__).parent
    script, out = tmp_path / "process.py", tmp_path / "out.pt"
    script.write_text(
        PROCESS.format(tests=str(here), support=str(here.parent / "support"), folder=str(tmp_path), out=str(out))
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    state, losses = torch.load(out, weights_only=False)
    np.testing.assert_allclose(losses, whole[1]["loss"], rtol=1e-5)
    for name, value in whole[0].items():
        torch.testing.assert_close(state[name], value, rtol=1e-3, atol=1e-5)


def test_no_gradient_reaches_a_teacher(rows: list[Row]) -> None:
    params = dino.Params(**SETTINGS)
    photos = Photos(rows, dino, params, Normalisation((0.5,) * 3, (0.25,) * 3))
    learner = dino.build(network(), params, len(rows))
    learning = {id(p) for group in learner.groups() for p in group.parameters}
    assert not learning & {id(p) for p in learner.teacher.parameters()}
    views = photos.shown(photos.read(photos.micro_batches(0)[:1])[0], CPU)
    outputs = learner.outputs(views, torch.Generator().manual_seed(0), 0)
    assert not outputs["teacher"].requires_grad
    assert not outputs["teacher_patches"].requires_grad
    assert outputs["student"].requires_grad


class Constant(Learner):
    """A learner whose features become one point."""

    def __init__(self, network: Learning) -> None:
        super().__init__()
        self.student = network

    def outputs(self, views: Any, draws: torch.Generator, step: int) -> dict[str, torch.Tensor]:
        return {"cls": self.student(views.pictures[0]).cls}

    def loss(self, outputs: Any, targets: Any, place: int, step: int) -> Any:
        return outputs["cls"].square().mean(), 1.0, {}

    def after(self, targets: Any, step: int) -> None:
        with torch.no_grad():
            self.student.model.norm.weight.zero_()


def test_a_collapsed_training_is_stopped_with_advice(rows: list[Row]) -> None:
    params = dino.Params(**(SETTINGS | {"steps": 10}))
    photos = Photos(rows, dino, params, Normalisation((0.5,) * 3, (0.25,) * 3))
    with pytest.raises(NumericsError, match=r"collapsed at step 2.*learning_rate.*docs/pretrain.md"):
        train(Constant(network(drop_path=0)), photos, Training(0, CPU))


def test_what_is_watched_tells_a_network_that_sees_from_one_that_does_not(rows: list[Row]) -> None:
    photos = Photos(rows, dino, dino.Params(**SETTINGS), Normalisation((0.5,) * 3, (0.25,) * 3))
    watch = Watch.of(photos, CPU)
    found = watch.measure(network().eval())
    assert 2 < found["rank"] <= 11
    assert found["agreement"] > 2 / 12
    check_alive(found, found, 12, 0)
    for broken in ({"rank": 1.0}, {"spread": found["spread"] / 21}):
        with pytest.raises(NumericsError, match="collapsed"):
            check_alive(found | broken, found, 12, 7)
    dim = found | {"spread": 8e-6}  # dim photos through random weights
    check_alive(dim, dim, 12, 7)
    check_alive(found | {"rank": 1.0}, found, 2, 7)  # two photos lie on a line


def test_every_process_has_a_micro_batch() -> None:
    stage = SimpleNamespace(params=dino.Params(**SETTINGS))
    check_share(stage, 4)
    with pytest.raises(ConfigError, match=r"5 processes, but a step has 4 micro-batches; use 4 GPUs or fewer"):
        check_share(stage, 5)


def test_only_matrices_are_decayed() -> None:
    decayed, flat = split(network())
    assert decayed.decay
    assert not flat.decay
    assert {p.ndim for p in decayed.parameters} == {2, 4}
    assert {p.ndim for p in flat.parameters} == {1, 3}  # 3: positions and the cls token


def test_all_processes_gather_all_tensors_in_order() -> None:
    assert [t.item() for t in Team().gather([torch.tensor(1), torch.tensor(2)])] == [1, 2]
