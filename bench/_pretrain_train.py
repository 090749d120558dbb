"""Trainings of bench/pretrain.py: the stage's own, with a copy of the weights at every quarter, and its speed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import yaml
from _photos import ROOT, data_folder
from _pretrain_score import halves, photos_of

from maskmill.backbones import weights_file
from maskmill.backbones.learning import Learning
from maskmill.inputs import run as inputs
from maskmill.pretrain import _trainer
from maskmill.pretrain import run as pretrain
from maskmill.recipe.feature_set import FeatureSet
from maskmill.training.resources import Resources

SIDES = ("crop", "side", "global_side")  # what methods call the side of their large crops
SETS = ("voc_animals", "camvid", "coco200", "ecssd", "dsb2018", "membrane")


@dataclass(frozen=True)
class Trained:
    """A training of the bench.

    Attributes:
        section: of the stage, flat. work: folder of the manifest, the weights and their copies. quarters: how many
            copies are kept before the end, the first of them at the start.
    """

    backbone: str
    section: Mapping[str, Any]
    work: Path
    held_out: bool
    sets: Sequence[str] = SETS
    quarters: int = 4
    threads: int = 1

    def copies(self) -> list[Path]:
        """The copies that are there, by step."""
        return sorted(self.work.glob("copy-*.safetensors"))


def section_of(method: str, preset: str | None, given: Mapping[str, Any], side: int | None) -> dict[str, Any]:
    """The section of a method: its recipe's, a preset's, the given keys, and the side of its large crops."""
    from maskmill.recipe import registry

    path = ROOT / "recipes" / f"{method}.yaml"
    recipe = yaml.safe_load(path.read_text()) if path.is_file() else {}
    section = {"method": method, **recipe.get("pretrain", {})}
    if preset is not None:
        section |= recipe["presets"][preset].get("pretrain", {})
    if side is not None:
        known = registry.load("pretrain", method).Params.model_fields
        name = next((name for name in SIDES if name in known), None)
        if name is None:
            raise SystemExit(f"{method}: no setting is called {' or '.join(SIDES)}; use --set")
        section[name] = side
    return section | dict(given)


def manifest_of(work: Path, sets: Sequence[str], held_out: bool) -> Path:
    """The manifest of all photos of some sets, or of those to train on; the stage inputs makes it from links."""
    out = work / "manifest.parquet"
    if not out.is_file():
        folder = work / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for name in sets:
            if data_folder(name) is None:
                raise SystemExit(f"{name}: not there; see MASKMILL_DATA, or leave it out (--sets)")
            for photo in halves(name)[0] if held_out else photos_of(name):
                link = folder / f"{name}-{photo.name}"
                if not link.is_symlink():
                    link.symlink_to(photo.resolve())
        files = inputs.Outputs(out, work / "rejected.csv", work / "classes.json")
        inputs.run(str(folder), None, {}, files, 1, work / "frames")
    return out


def source_of(asked: Trained) -> pretrain.PretrainSource:
    """The photos, the network and its start, as the rule gives them."""
    from maskmill.backbones.weights import prepare

    asked.work.mkdir(parents=True, exist_ok=True)
    section = dict(asked.section)
    feature_set = FeatureSet.model_validate({"backbone": asked.backbone, "pretrain": section})
    weights = None
    if pretrain.stage_of(feature_set).settings.start != "scratch":
        weights = asked.work / "start.safetensors"
        if not weights.is_file():
            prepare(FeatureSet(backbone=asked.backbone), weights)
    return pretrain.PretrainSource(manifest_of(asked.work, asked.sets, asked.held_out), feature_set, weights)


@contextlib.contextmanager
def training(change: Callable[[Any, Any, _trainer.Training], tuple[Any, _trainer.Training]]) -> Iterator[None]:
    """Within: what the stage's job gives to the trainer is changed first."""
    own = _trainer.train

    def train(learner: Any, photos: Any, given: _trainer.Training) -> Any:
        learner, given = change(learner, photos, given)
        return own(learner, photos, given)

    with mock.patch.object(_trainer, "train", train):
        yield


def train(asked: Trained) -> str:
    """Train, with copies of the weights that would be the result, at the start and after every quarter.

    A call that was stopped goes on from its checkpoint. The last copy is the result.

    Returns:
        What ended the training before its last step; empty at its end.
    """
    from maskmill.errors import NumericsError

    source, out = source_of(asked), asked.work / "trained.safetensors"
    stage = pretrain.stage_of(source.feature_set)
    facts, steps = pretrain.started(source, stage).facts, int(stage.params.steps)
    due = [steps * i // asked.quarters for i in range(asked.quarters)]
    started = time.monotonic()

    def watched(learner: Any, photos: Any, given: _trainer.Training) -> tuple[Any, _trainer.Training]:
        def settled(step: int, learner: Any) -> None:
            reached = sum(step >= each for each in due)
            if reached <= len(asked.copies()):
                return
            network = learner.exported().copy()
            _trainer._settle(SimpleNamespace(exported=lambda: network), photos, given.device)  # type: ignore[arg-type]
            note = {"step": step, "seconds": time.monotonic() - started}
            weights_file.write(copy_at(asked, step), network.state(), {**facts, "bench": note})

        return learner, dataclasses.replace(given, settled=settled)

    if not out.is_file():
        files = pretrain.PretrainFiles(out, asked.work / "monitor.json", asked.work / "timing.json")
        try:
            with training(watched):
                pretrain.fit(source, files, Resources(asked.threads, "cpu"))
        except NumericsError as error:
            return str(error)
    state, _ = weights_file.read(out)
    timing = figures(asked.work / "timing.json")
    weights_file.write(copy_at(asked, steps), state, {**facts, "bench": {"step": steps, "timing": timing}})
    return ""


def figures(path: Path) -> dict[str, Any]:
    """What a job has written as JSON, without where it is from."""
    return {k: v for k, v in json.loads(path.read_text()).items() if k not in ("provenance", "checksum")}


def copy_at(asked: Trained, step: int) -> Path:
    """Where the copy of a step lies."""
    return asked.work / f"copy-{step:08d}.safetensors"


@dataclass(frozen=True)
class Pass:
    """One call of a network: the shape of its pictures, and whether it is followed by a backward pass."""

    shape: tuple[int, ...]
    learns: bool


def speed(asked: Trained) -> dict[str, float]:
    """Photos a second of the trainer, and of the bare passes that the method asks of the network.

    Bare: forward passes of the same network on pictures of the same shapes, in as many threads; those of the student
    with a backward pass of the sum of their outputs. No loss, head, optimiser, view or teacher's average. The trainer
    is timed from the second step to the last, without its looks at fixed photos. Wall seconds are of a busy machine;
    CPU seconds tell more, but photos that a process of its own reads are not within them.
    """
    source, seen = source_of(asked), Seen()
    with _recorded(seen):
        files = pretrain.PretrainFiles(asked.work / "speed.safetensors", None, asked.work / "timing.json")
        pretrain.fit(source, files, Resources(asked.threads, "cpu", 0))
    stage, timing = pretrain.stage_of(source.feature_set), figures(asked.work / "timing.json")
    steps, batch = int(stage.params.steps), int(stage.params.batch_size)
    (wall, used), (last_wall, last_used) = seen.begun[1], seen.begun[-1]
    wall, used = (last_wall - wall) / (steps - 2), (last_used - used) / (steps - 2)
    bare, bare_cpu = _bare(seen.networks[0], seen.calls[: len(seen.calls) // steps], asked.threads)
    return {
        "trainer_cpu_seconds_a_step": used,
        "bare_cpu_seconds_a_step": bare_cpu,
        "bare_share_cpu": bare_cpu / used,
        "trainer_photos_a_second": batch / wall,
        "bare_photos_a_second": batch / bare,
        "bare_share_wall": bare / wall,
        "waiting_share": timing["waiting_share"],
        "threads": asked.threads,
    }


@dataclass
class Seen:
    """What was seen of a training: passes, networks that learnt, and (wall, CPU) seconds at the start of each step."""

    calls: list[Pass] = field(default_factory=list)
    networks: list[Learning] = field(default_factory=list)
    begun: list[tuple[float, float]] = field(default_factory=list)


@contextlib.contextmanager
def _recorded(seen: Seen) -> Iterator[None]:
    """Within: the passes of all steps and their times are noted, and the trainer does not look at fixed photos."""
    place, own, lock = threading.local(), Learning.forward, threading.Lock()

    def forward(network: Learning, x: torch.Tensor, *rest: Any, **named: Any) -> Any:
        if getattr(place, "noted", False):
            with lock:
                seen.calls.append(Pass(tuple(x.shape), torch.is_grad_enabled()))
        return own(network, x, *rest, **named)

    def noting(learner: Any, photos: Any, given: _trainer.Training) -> tuple[Any, _trainer.Training]:
        seen.networks.append(learner.student)
        outputs, before = learner.outputs, learner.before

        def noted(*arguments: Any) -> Any:
            place.noted = True
            try:
                return outputs(*arguments)
            finally:
                place.noted = False

        def begun(*arguments: Any) -> Any:
            seen.begun.append((time.perf_counter(), time.process_time()))
            return before(*arguments)

        learner.outputs, learner.before = noted, begun
        return learner, given

    unwatched = mock.patch.object(_trainer._Step, "_look", return_value=None)
    with mock.patch.object(Learning, "forward", forward), training(noting), unwatched:
        yield


def _bare(network: Learning, calls: Sequence[Pass], threads: int, repeats: int = 3) -> tuple[float, float]:
    """Wall and CPU seconds of some passes, the least of several times."""
    learning = [p for p in network.parameters() if p.requires_grad]

    def passed(one: Pass) -> None:
        torch.set_num_threads(1)
        with torch.set_grad_enabled(one.learns):
            tokens, cls, _ = network(torch.zeros(one.shape).normal_())
            if one.learns:
                torch.autograd.grad(tokens.sum() + cls.sum(), learning, allow_unused=True)

    found = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            used, start = time.process_time(), time.perf_counter()
            list(pool.map(passed, calls))
            found.append((time.perf_counter() - start, time.process_time() - used))
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)
