"""MoCo, SwAV and DeepCluster in the trainer: the same bits in any number of threads, after a stop, in two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import photo_rows
import pytest
import torch

from maskmill.backbones.learning import Learning, Origin, build
from maskmill.pretrain import deepcluster, moco, swav
from maskmill.pretrain._learner import Learner
from maskmill.pretrain._trainer import Training, train
from maskmill.pretrain._views import Normalisation, Photos
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.manifest import Row
from maskmill.training.checkpoint import Keeper
from maskmill.training.loop import StoppedError
from maskmill.training.team import Team

Result = tuple[dict[str, torch.Tensor], dict[str, Any]]
SHARED = {"steps": 6, "batch_size": 8, "micro_batch": 4, "crop": 64, "dimensions": 8, "hidden": 16}
CROPS = SHARED | {"local_crop": 32, "local_crops": 1}
# Queues wrap around or fill within the training; epochs of two steps, so that a stop comes between two clusterings.
OWN: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "moco": (moco, SHARED | {"queue": 20, "teacher_momentum": 0.9}),
    "swav": (swav, CROPS | {"prototypes": 6, "queue": 12, "queue_start": 0.2, "freeze_prototypes": 0.2}),
    "deepcluster": (deepcluster, CROPS | {"clusters": (3, 4)}),
}
METHODS = sorted(OWN)


def network() -> Learning:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(Origin(FeatureSet(backbone="test_resnet"), "test_resnet"))


def trained(
    method: str, rows: list[Row], keeper: Keeper | None = None, settled: Any = None, threads: int = 1,
    team: Team | None = None,
) -> Result:  # fmt: skip
    torch.set_num_threads(1)
    module, settings = OWN[method]
    params = module.Params(**settings)
    photos = Photos(rows, module, params, Normalisation((0.5,) * 3, (0.25,) * 3), seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        learner = module.build(network(), params, len(rows))
    training = Training(1, torch.device("cpu"), threads, keeper or Keeper(stage="pretrain"), team or Team(), settled)
    return train(learner, photos, training)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return photo_rows.rows_of(tmp_path_factory.mktemp("photos"), 14)


@pytest.fixture(scope="module")
def wholes(rows: list[Row]) -> dict[str, Result]:
    return {method: trained(method, rows) for method in METHODS}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS)
def test_a_training_moves_the_network_and_says_what_it_saw(wholes: dict[str, Result], method: str) -> None:
    state, told = wholes[method]
    assert not same(state, network().state())
    assert np.isfinite(told["loss"]).all()
    for name in ("moco", "swav", "deepcluster"):
        assert (list(told["monitors"])[3:] == list(learner_monitors(name))) is (name == method)
    assert all(len(values) == 6 and np.isfinite(values).all() for values in told["monitors"].values())


def learner_monitors(method: str) -> tuple[str, ...]:
    return {
        "moco": ("found", "positive", "negative"),
        "swav": ("entropy", "used", "agreed"),
        "deepcluster": ("found", "used", "largest"),
    }[method]


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_threads_changes_no_bit(rows: list[Row], wholes: dict[str, Result], method: str) -> None:
    state, told = trained(method, rows, threads=2)
    assert same(state, wholes[method][0])
    assert np.array_equal(told["loss"], wholes[method][1]["loss"])


@pytest.mark.parametrize("kind", ["signal", "killed"])
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_training_goes_on_to_the_same_bits(
    rows: list[Row], wholes: dict[str, Result], tmp_path: Path, method: str, kind: str
) -> None:
    keeper = Keeper.beside(tmp_path / "w.safetensors", "key", 2, "pretrain")
    stops: list[int] = []

    def stop(step: int, learner: Learner) -> None:
        if step == 3 and not stops:
            stops.append(step)
            if kind == "killed":
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(KeyboardInterrupt if kind == "killed" else StoppedError):
        trained(method, rows, keeper, stop)
    assert keeper.load() is not None
    state, told = trained(method, rows, keeper, stop)
    assert same(state, wholes[method][0])
    assert np.array_equal(told["loss"], wholes[method][1]["loss"])


PROCESS = """
import sys, torch
sys.path[:0] = [{tests!r}, {support!r}]
import photo_rows, test_image_level
from pathlib import Path
from maskmill.training.team import join, leave
team, _ = join("cpu")
rows = photo_rows.rows_of(Path({folder!r}) / f"p{{team.rank}}", 14)
for method in test_image_level.METHODS:
    state, told = test_image_level.trained(method, rows, team=team)
    if team.leads:
        torch.save((state, told["loss"]), {folder!r} + "/" + method)
leave(team)
"""


def test_two_processes_are_one_with_all_micro_batches(wholes: dict[str, Result], tmp_path: Path) -> None:
    here = Path(__file__).parent
    script = tmp_path / "process.py"
    script.write_text(PROCESS.format(tests=str(here), support=str(here.parent / "support"), folder=str(tmp_path)))
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for method in METHODS:
        state, losses = torch.load(tmp_path / method, weights_only=False)
        np.testing.assert_allclose(losses, wholes[method][1]["loss"], rtol=1e-4)
        for name, value in wholes[method][0].items():
            torch.testing.assert_close(state[name], value, rtol=1e-2, atol=1e-4)
