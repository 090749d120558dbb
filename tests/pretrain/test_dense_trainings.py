"""Leopart, NeCo and SlotCon in the trainer: no bit depends on threads or stops, and two processes are one training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import photo_rows
import pytest
import torch

from maskmill.backbones.learning import Origin, build
from maskmill.pretrain import leopart, neco, slotcon
from maskmill.pretrain._learner import Learner
from maskmill.pretrain._trainer import Training, train
from maskmill.pretrain._views import Normalisation, Photos
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.manifest import Row
from maskmill.training.checkpoint import Keeper
from maskmill.training.loop import StoppedError
from maskmill.training.team import Team

SETTINGS: dict[str, dict[str, Any]] = {
    "neco": {
        "global_side": 32, "local_side": 16, "local_crops": 1, "align": 3, "hidden": 16, "dimensions": 8, "queue": 60,
        "learning_rate": 1e-3, "drop_path": 0.1,
    },
    "leopart": {
        "crop": 32, "local_crop": 16, "local_crops": 1, "align": 3, "hidden": 16, "dimensions": 8, "prototypes": 8,
        "queue": 16, "learning_rate": 1e-3, "drop_path": 0.1,
    },
    "slotcon": {"side": 64, "prototypes": 8, "hidden": 16, "dimensions": 8},
}  # fmt: skip
MODULES: dict[str, Any] = {"leopart": leopart, "neco": neco, "slotcon": slotcon}
Result = tuple[dict[str, torch.Tensor], dict[str, Any]]


def trained(
    method: str, rows: list[Row], keeper: Keeper | None = None, settled: Any = None, threads: int = 1,
    team: Team | None = None,
) -> Result:  # fmt: skip
    torch.set_num_threads(1)
    module = MODULES[method]
    params = module.Params(steps=4, batch_size=8, micro_batch=4, **SETTINGS[method])
    photos = Photos(rows, module, params, Normalisation((0.5,) * 3, (0.25,) * 3), seed=1)
    torch.manual_seed(0)
    network = build(Origin(FeatureSet(backbone="test_vit"), "test_vit", drop_path=0.1))
    learner = module.build(network, params, len(rows))
    training = Training(1, torch.device("cpu"), threads, keeper or Keeper(stage="pretrain"), team or Team(), settled)
    return train(learner, photos, training)


def same(a: Result, b: Result) -> bool:
    return all(torch.equal(a[0][name], b[0][name]) for name in a[0]) and np.array_equal(a[1]["loss"], b[1]["loss"])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return photo_rows.rows_of(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture(scope="module", params=["neco", "slotcon"])
def whole(request: pytest.FixtureRequest, rows: list[Row]) -> tuple[str, Result]:
    return request.param, trained(request.param, rows)


def test_a_training_says_what_it_saw(whole: tuple[str, Result]) -> None:
    method, (_, told) = whole
    own = {"neco": ["teacher_entropy", "same_order"], "slotcon": ["teacher_entropy", "groups", "grouping", "contrast"]}
    assert list(told["monitors"]) == ["rank", "spread", "agreement", *own[method]]
    assert all(np.isfinite(values).all() for values in told["monitors"].values())
    assert np.isfinite(told["loss"]).all()
    assert len(told["loss"]) == 4


def test_the_number_of_threads_changes_no_bit(rows: list[Row], whole: tuple[str, Result]) -> None:
    assert same(trained(whole[0], rows, threads=2), whole[1])


def test_a_stopped_training_goes_on_to_the_same_bits(
    rows: list[Row], whole: tuple[str, Result], tmp_path: Path
) -> None:
    keeper = Keeper.beside(tmp_path / "w.safetensors", "key", 2, "pretrain")
    stops: list[int] = []

    def stop(step: int, learner: Learner) -> None:
        if step == 2 and not stops:
            stops.append(step)
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(StoppedError):
        trained(whole[0], rows, keeper, stop)
    assert same(trained(whole[0], rows, keeper, stop), whole[1])


PROCESS = """
import sys, torch
sys.path[:0] = [{tests!r}, {support!r}]
import photo_rows, test_dense_trainings
from pathlib import Path
from maskmill.training.team import join, leave
team, _ = join("cpu")
rows = photo_rows.rows_of(Path({photos!r}) / str(team.rank), 12)
state, told = test_dense_trainings.trained({method!r}, rows, team=team)
if team.leads:
    torch.save((state, told["loss"]), {out!r})
leave(team)
"""


def test_two_processes_are_one_with_all_micro_batches(whole: tuple[str, Result], tmp_path: Path) -> None:
    here = Path(__file__).parent
    script, out = tmp_path / "process.py", str(tmp_path / "state.pt")
    script.write_text(PROCESS.format(
        tests=str(here), support=str(here.parent / "support"), photos=str(tmp_path), method=whole[0], out=out
    ))  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    state, losses = torch.load(out, weights_only=False)
    assert np.allclose(losses, whole[1][1]["loss"], rtol=1e-6)
    assert all(torch.allclose(state[name], value, atol=1e-6) for name, value in whole[1][0].items())
