"""The methods that read segments, in the trainer: threads, stops, processes, views drawn anew for their segments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import photo_rows
import pytest
import torch

from maskmill.backbones.learning import Origin, build
from maskmill.pretrain import maskcontrast, segsort
from maskmill.pretrain._learner import Learner
from maskmill.pretrain._trainer import Training, train
from maskmill.pretrain._views import TRIES, CropSpec, Normalisation, Photos
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.manifest import Row
from maskmill.training.checkpoint import Keeper
from maskmill.training.team import Team

COMMON = {"steps": 4, "batch_size": 8, "micro_batch": 2, "crop": 32, "width": 8, "dimensions": 4, "learning_rate": 0.01}
METHODS: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "maskcontrast": (maskcontrast, {"decoder": "aspp", "queue": 8}),
    "segsort": (segsort, {"decoder": "psp", "parts": 2}),
}
Trained = tuple[dict[str, torch.Tensor], dict[str, Any]]


def segments_of(image_id: str) -> np.ndarray:
    """Two objects beside each other, and background below."""
    grid = np.zeros((6, 8), np.uint8)
    split = 3 + int(image_id[1:]) % 3
    grid[:4, :split], grid[:4, split:] = 1, 2
    return grid


def photos_of(name: str, rows: list[Row]) -> Photos:
    method, own = METHODS[name]
    return Photos(
        rows, method, method.Params(**COMMON, **own), Normalisation((0.5,) * 3, (0.25,) * 3), 1, 0, segments_of
    )


def trained(name: str, rows: list[Row], keeper: Keeper | None = None, settled: Any = None, threads: int = 1,
            team: Team | None = None) -> Trained:  # fmt: skip
    torch.set_num_threads(1)
    photos = photos_of(name, rows)
    torch.manual_seed(0)
    network = build(Origin(FeatureSet(backbone="resnet10t"), "resnet10t", stride=8))
    learner = METHODS[name][0].build(network, photos.params, len(rows))
    training = Training(1, torch.device("cpu"), threads, keeper or Keeper(stage="pretrain"), team or Team(), settled)
    return train(learner, photos, training)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return photo_rows.rows_of(tmp_path_factory.mktemp("photos"), 10)


@pytest.fixture(scope="module", params=sorted(METHODS))
def whole(request: pytest.FixtureRequest, rows: list[Row]) -> tuple[str, Trained]:
    return request.param, trained(request.param, rows)


def equal(a: Trained, b: Trained) -> bool:
    return all(torch.equal(a[0][name], b[0][name]) for name in a[0]) and np.array_equal(a[1]["loss"], b[1]["loss"])


def test_a_training_says_what_it_saw(whole: tuple[str, Trained]) -> None:
    name, (_, told) = whole
    names = {
        "maskcontrast": ["contrast", "saliency", "accuracy", "objects"],
        "segsort": ["accuracy", "cosine", "segments"],
    }
    assert list(told["monitors"])[3:] == names[name]
    assert all(len(values) == 4 and np.isfinite(values).all() for values in told["monitors"].values())


def test_threads_change_no_bit(whole: tuple[str, Trained], rows: list[Row]) -> None:
    assert equal(trained(whole[0], rows, threads=3), whole[1])


def test_a_killed_training_goes_on_to_the_same_bits(
    whole: tuple[str, Trained], rows: list[Row], tmp_path: Path
) -> None:
    keeper, stops = Keeper.beside(tmp_path / "w.safetensors", "key", 1, "pretrain"), []

    def stop(step: int, learner: Learner) -> None:
        if step == 2 and not stops:
            stops.append(step)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(whole[0], rows, keeper, stop)
    assert keeper.load() is not None
    assert equal(trained(whole[0], rows, keeper, stop), whole[1])


PROCESS = """
import sys, torch
sys.path[:0] = [{tests!r}, {support!r}]
import photo_rows, test_segment_methods as methods
from pathlib import Path
from maskmill.training.team import join, leave
team, _ = join("cpu")
rows = photo_rows.rows_of(Path({folder!r}) / f"p{{team.rank}}", 10)
found = {{name: methods.trained(name, rows, team=team) for name in sorted(methods.METHODS)}}
if team.leads:
    torch.save({{name: (state, told["loss"]) for name, (state, told) in found.items()}}, {out!r})
leave(team)
"""


def test_two_processes_are_one_with_all_micro_batches(rows: list[Row], tmp_path: Path) -> None:
    here = Path(__file__).parent
    script, out = tmp_path / "process.py", tmp_path / "out.pt"
    script.write_text(
        PROCESS.format(tests=str(here), support=str(here.parent / "support"), folder=str(tmp_path), out=str(out))
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, (state, losses) in torch.load(out, weights_only=False).items():
        one = trained(name, rows)
        np.testing.assert_allclose(losses, one[1]["loss"], rtol=1e-5)
        for key, value in one[0].items():
            torch.testing.assert_close(state[key], value, rtol=1e-3, atol=1e-4)


def test_crops_show_the_segments_of_their_place(rows: list[Row]) -> None:
    """The colour of a pixel of the view and its segment come from one place of the photo."""
    photos = photos_of("segsort", rows)
    marked = np.zeros((60, 80, 3), np.uint8)
    grid = np.kron(segments_of("p000"), np.ones((10, 10), np.uint8))
    marked[..., 0] = grid * 100
    photos.pixels = lambda item: marked  # type: ignore[method-assign]
    photos.segments = lambda image_id: segments_of("p000")
    (drawn, *_) = photos.read(photos.micro_batches(0))
    assert drawn.segments is not None
    shown = (drawn.pictures[0][..., 0].float() / 100).round()
    assert float((shown == drawn.segments[0]).float().mean()) > 0.9  # but for interpolated edges


class Choosy:
    """A method that accepts crops by a rule."""

    TRAITS = SimpleNamespace(regrouped=False, segments=True)

    def __init__(self, rule: Any) -> None:
        self.rule, self.asked = rule, 0

    def views(self, params: Any) -> tuple[CropSpec, ...]:
        return (CropSpec(side=16, scale=(0.05, 0.1)),) * 2

    def accepts(self, params: Any, segments: list[np.ndarray]) -> bool:
        self.asked += 1
        return bool(self.rule(segments))


def choosy(rows: list[Row], rule: Any) -> tuple[Choosy, list[Any]]:
    method = Choosy(rule)
    params = SimpleNamespace(steps=3, batch_size=6, micro=3)
    photos = Photos(rows, method, params, Normalisation((0.5,) * 3, (0.25,) * 3), 1, 0, segments_of)
    drawn = [each for step in range(3) for each in photos.read(photos.micro_batches(step))]
    return method, [(each.rest, each.segments) for each in drawn]


def test_crops_that_are_not_accepted_are_drawn_anew(rows: list[Row]) -> None:
    """All crops of a photo together; what is accepted at once stays as it would be without the rule."""

    def together(segments: list[np.ndarray]) -> bool:
        return bool({1, 2} & set(np.unique(segments[0])) & set(np.unique(segments[1])))

    _, free = choosy(rows, lambda segments: True)
    _, chosen = choosy(rows, together)
    good = [[together([s[n].numpy() for s in segments]) for n in range(3)] for _, segments in free]
    better = [[together([s[n].numpy() for s in segments]) for n in range(3)] for _, segments in chosen]
    assert np.mean(better) > np.mean(good)
    for i, row in enumerate(good):
        for n, fits in enumerate(row):
            assert torch.equal(free[i][0][0][n], chosen[i][0][0][n]) == fits
    refusing, _ = choosy(rows, lambda segments: False)
    assert refusing.asked == 3 * 6 * TRIES  # once for all crops of a photo
