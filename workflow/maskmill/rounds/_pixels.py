"""Training and use of a network on photos: decoding ahead in worker processes, micro-batches, and prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.errors import ConfigError
from maskmill.images.decode import resize, target_size
from maskmill.images.masks import ignore_value
from maskmill.images.photos import read_photo
from maskmill.numerics.sampling import rng
from maskmill.recipe.sections import validate
from maskmill.rounds._augment import augment
from maskmill.rounds._deeplab import LOW_STRIDE, DeepLab, intermediates
from maskmill.rounds._job import Job, Sources
from maskmill.rounds._losses import LOSSES
from maskmill.rounds._masks import Masks
from maskmill.rounds._photo_training import initial, learning_of, normalise, state_of, tensors_of, train
from maskmill.rounds._train import class_weights
from maskmill.rounds.deeplabv3plus import Params
from maskmill.store.manifest import Row, read_manifest
from maskmill.training.team import Work

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
    from maskmill.backbones.network import import_timm

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


def train_network(photos: Photos, params: Params, job: Job) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """See `deeplabv3plus.fit`."""
    network, facts = initial(
        photos.weights, lambda name: build(name, job.classes, params), _before, params.unfrozen, job
    )
    network = network.to(job.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    counts = photos.masks.counts
    weights = torch.from_numpy(class_weights(counts, params.balance)).to(job.device)
    read = partial(read_crops, photos=photos, params=params, seed=job.seed, micro=MICRO[job.device.type])
    learning = learning_of(network)
    work = _work(network, learning, weights, facts, params, job)
    trained = train(
        network, len(photos.rows), read, work, _optimiser(learning, params), partial(_rate, params=params), params, job
    )
    tensors, absent = tensors_of(trained, counts)
    diagnostics = {"loss": trained.losses, "images": len(photos.rows), "absent": absent, "encoder": facts}
    return tensors, diagnostics | {"timing": trained.timing}


def _before(tensors: Mapping[str, np.ndarray], network: DeepLab) -> dict[str, torch.Tensor]:
    return state_of(tensors)


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


class PixelPredictor:
    """A trained network; see `deeplabv3plus.load`."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
    ) -> None:
        self.device, self.size = device, validate(type(params.size), params.size.model_dump(), "student", "size")
        self.facts = spec["diagnostics"]["encoder"]
        network = build(self.facts["architecture"], int(spec["clusters"]) + 1, params)
        network.load_state_dict(state_of(tensors))
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
