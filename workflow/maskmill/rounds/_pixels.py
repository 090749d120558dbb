"""Training and use of a network on photos: decoding ahead in worker processes, micro-batches, and prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.artefact import read_tensors
from maskmill.config import FeatureSet, validate
from maskmill.device import memory_advice
from maskmill.errors import ConfigError, StoreError
from maskmill.images import resize, target_size
from maskmill.manifest import Row, read_manifest
from maskmill.masks import ignore_value
from maskmill.photos import read_ahead, read_photo, reader_count
from maskmill.rounds._augment import augment
from maskmill.rounds._deeplab import LOW_STRIDE, DeepLab, freeze, intermediates
from maskmill.rounds._job import Job, Sources
from maskmill.rounds._loop import Task, run
from maskmill.rounds._losses import LOSSES
from maskmill.rounds._masks import Masks
from maskmill.rounds._parallel import Team, Work, set_gradients, single_threaded
from maskmill.rounds._train import NEVER, class_weights
from maskmill.rounds.deeplabv3plus import Params
from maskmill.rounds.instance import Params as InstanceParams
from maskmill.sampling import rng

MICRO = {"cpu": 4, "cuda": 32}  # crops that are computed at once
RATES = {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}  # dilations of the pyramid by output stride
PROBE = 64  # pixels a side of the image on which an encoder's levels are seen
Crops = tuple[np.ndarray, np.ndarray]  # pixels uint8 [n, S, S, 3], labels [n, S / 4, S / 4]


class Photos:
    """The photos behind the masks, by position in the sorted ids.

    Attributes:
        rows: of the manifest, as `masks.ids`. weights: file of the encoder's weights.
    """

    def __init__(self, sources: Sources, masks: Masks, params: Params) -> None:
        if sources.manifest is None or sources.weights is None:
            raise ConfigError("rounds.student: deeplabv3plus sees photos; give --manifest and --weights")
        masks.hold(params.cache_mib)
        manifest = read_manifest(sources.manifest)
        self.masks, self.weights = masks, sources.weights
        self.rows: list[Row] = [manifest.row(image_id) for image_id in masks.ids]
        self._row = {row.id: row for row in self.rows}

    def view(self, image_id: str) -> np.ndarray:
        """The photo, uint8 RGB [H, W, 3]."""
        return read_photo(self._row[image_id])


class Plan(Sequence[list[tuple[int, int, int]]]):
    """Which draws make up a step: (step, place in it, image); every image once an epoch, in an order of the seed.

    A step is a function of its number, so a training goes on anywhere. With several processes each sees its share.
    """

    def __init__(self, images: int, params: Params | InstanceParams, seed: int, start: int, team: Team) -> None:
        self.images, self.size, self.steps = images, params.batch_size, params.steps
        self.seed, self.start, self.team = seed, start, team
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return self.steps - self.start

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        step = self.start + i
        draws = [(step, place, self._image(step * self.size + place)) for place in range(self.size)]
        return list(self.team.share(draws))

    def _image(self, position: int) -> int:
        epoch, place = divmod(position, self.images)
        if epoch != self._order[0]:
            self._order = epoch, rng(self.seed, "epoch", str(epoch)).permutation(self.images)
        return int(self._order[1][place])


def read_crops(draws: list[tuple[int, int, int]], photos: Photos, params: Params, seed: int, micro: int) -> list[Crops]:
    """Decode and augment the photos of a step, in micro-batches; each draw by the generator of (step, place)."""
    found = []
    for step, place, image in draws:
        row = photos.rows[image]
        generator = rng(seed, "augment", str(step), str(place))
        found.append(augment(read_photo(row), photos.masks[row.id], params.crop // LOW_STRIDE, params, generator))
    parts = [found[a : a + micro] for a in range(0, len(found), micro)]
    return [(np.stack([x for x, _ in part]), np.stack([y for _, y in part])) for part in parts]


def build(architecture: str, classes: int, params: Params) -> DeepLab:
    """The network with random weights; raises ConfigError where the architecture does not fit."""
    from maskmill.backbones import import_timm

    said = f"rounds.encoder: {params.encoder!r} is {architecture}"
    try:
        encoder = import_timm().create_model(
            architecture, pretrained=False, num_classes=0, output_stride=params.output_stride
        )
        shapes = [tuple(level.shape) for level in intermediates(encoder.eval(), torch.zeros(1, 3, PROBE, PROBE))]
    except (TypeError, AttributeError, AssertionError, NotImplementedError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{said}, which gives no levels of stride {params.output_stride} ({reason}); "
                          "name a feature set with a CNN") from None  # fmt: skip
    low = [i for i, shape in enumerate(shapes) if shape[2] == PROBE // LOW_STRIDE]
    if not low or shapes[-1][2] != PROBE // params.output_stride:
        strides = ", ".join(str(PROBE // shape[2]) for shape in shapes)
        raise ConfigError(f"{said} with levels of stride {strides}; stride 4 and a last one of {params.output_stride} "
                          "are needed: set rounds.output_stride, or name another CNN")  # fmt: skip
    levels = low[-1], len(shapes) - 1
    channels = shapes[levels[0]][1], shapes[levels[1]][1]
    return DeepLab(encoder, levels, channels, classes, params.width, RATES[params.output_stride])


def _initial(photos: Photos, params: Params, job: Job) -> tuple[DeepLab, dict[str, Any]]:
    """The network at its first step, and the encoder's facts."""
    from maskmill.backbones import load

    state, facts = read_tensors(photos.weights)
    if "architecture" not in facts:
        load(photos.weights, FeatureSet(backbone="?"), job.device)  # says what is wrong with the file
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(job.seed, "weights").integers(2**62)))
        network = build(facts["architecture"], job.classes, params)
    if job.before:
        network.load_state_dict(_state(job.before))
    else:
        network.encoder.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
        missing = [name for name in network.encoder.state_dict() if name not in state]
        if missing:
            raise StoreError(
                f"{photos.weights}: lacks {missing[0]} of {facts['architecture']}; delete it and run again"
            )
    freeze(network.encoder, params.unfrozen)
    return network.train(), {key: facts[key] for key in ("architecture", "mean", "std")}


def train_network(photos: Photos, params: Params, job: Job) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `deeplabv3plus.fit`."""
    network, facts = _initial(photos, params, job)
    network = network.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    counts = photos.masks.counts
    weights = torch.from_numpy(class_weights(counts, params.balance)).to(job.device)
    read = partial(read_crops, photos=photos, params=params, seed=job.seed, micro=MICRO[job.device.type])

    def batches(start: int) -> Iterator[list[Crops]]:
        plan = Plan(len(photos.rows), params, job.seed, start, job.team)
        workers = reader_count(len(plan), job.threads, job.device)
        return (crops for _, crops in read_ahead(plan, read, workers, deaf=True))

    with single_threaded(job.device, job.threads) as pool, memory_advice("rounds.batch_size", params.batch_size):
        work = _work(network, learning, weights, facts, params, job)
        task = Task(
            network,
            _optimiser(learning, params),
            batches=batches,
            gradients=lambda batch: set_gradients(learning, batch, work, pool, job.team),
            rate=lambda step: _rate(step, params),
            steps=params.steps,
            images=params.batch_size,
            ema=params.ema,
            team=job.team,
        )
        trained = run(task, job.keeper)
    state = {name: value.detach().cpu().clone() for name, value in trained.state.items()}
    absent = torch.from_numpy(counts == 0)
    state["classify.weight"][absent] = 0.0
    state["classify.bias"][absent] = NEVER
    tensors = {f"network.{name}": value.contiguous().numpy() for name, value in state.items()}
    diagnostics = {"loss": trained.losses, "images": len(photos.rows), "absent": int(absent.sum()), "encoder": facts}
    return tensors, diagnostics | {"timing": trained.timing}


def _work(
    network: DeepLab,
    learning: list[nn.Parameter],
    weights: torch.Tensor,
    facts: Mapping[str, Any],
    params: Params,
    job: Job,
) -> Work:
    """The function of one micro-batch: sum of losses, weight, gradients."""
    loss_of, device = LOSSES[params.loss], job.device

    def work(crops: Crops) -> tuple[float, float, tuple[torch.Tensor, ...]]:
        x = normalise(torch.from_numpy(crops[0]).to(device), facts)
        labels = torch.from_numpy(crops[1].astype(np.int64)).to(device)
        target = one_hot(labels, ignore_value(crops[1].dtype), job.classes)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(x)
        loss, weight = loss_of(logits, target, weights, params, params.label_smoothing)
        return float(loss.detach()), float(weight), torch.autograd.grad(loss, learning)

    return work


def normalise(images: torch.Tensor, facts: Mapping[str, Any]) -> torch.Tensor:
    """uint8 RGB [n, H, W, 3] -> the encoder's input [n, 3, H, W] float32."""
    mean, std = (torch.tensor(facts[key], device=images.device).view(1, 3, 1, 1) for key in ("mean", "std"))
    x = (images.permute(0, 3, 1, 2).float() / 255 - mean) / std
    return x.contiguous(memory_format=torch.channels_last)


def one_hot(labels: torch.Tensor, ignore: int, classes: int) -> torch.Tensor:
    """Labels [n, h, w] -> [n, classes, h, w] float32, all 0 where the label is ignore."""
    known = labels != ignore
    target = nn.functional.one_hot(torch.where(known, labels, 0), classes) * known[..., None]
    return target.permute(0, 3, 1, 2).float()


def _optimiser(learning: list[nn.Parameter], params: Params) -> torch.optim.Optimizer:
    if params.optimiser == "sgd":
        return torch.optim.SGD(learning, lr=params.learning_rate, momentum=0.9, weight_decay=params.weight_decay)
    return torch.optim.AdamW(learning, lr=params.learning_rate, weight_decay=params.weight_decay)


def _rate(step: int, params: Params) -> float:
    """From 1 towards 0, without a warm-up."""
    done = step / params.steps
    return 0.5 * (1 + math.cos(math.pi * done)) if params.schedule == "cosine" else (1 - done) ** params.power


def _state(tensors: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    prefix = "network."
    return {key[len(prefix) :]: torch.from_numpy(v) for key, v in tensors.items() if key.startswith(prefix)}


class PixelPredictor:
    """A trained network; see `deeplabv3plus.load`."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
    ) -> None:
        self.device, self.size = device, validate(type(params.size), params.size.model_dump(), "student", "size")
        self.facts = spec["diagnostics"]["encoder"]
        network = build(self.facts["architecture"], int(spec["clusters"]) + 1, params)
        network.load_state_dict(_state(tensors))
        self.network = network.eval().to(device)

    def logits(self, view: np.ndarray) -> np.ndarray:
        """Logits [k + 1, h, w] float32 of a photo uint8 [H, W, 3], resized to `size`; a cell is 4 px."""
        photo = resize(view, target_size(view.shape[0], view.shape[1], self.size, 32))
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"),
        ):
            x = normalise(torch.from_numpy(photo.copy())[None].to(self.device), self.facts)
            return self.network(x)[0].float().cpu().numpy()
