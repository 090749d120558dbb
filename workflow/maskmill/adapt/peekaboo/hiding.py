"""Photos with strokes over them, and the frozen network's keys of both kinds."""

from __future__ import annotations

import copy
import math
import queue
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from maskmill.adapt._data import order
from maskmill.adapt._objects import Held, Solver, background
from maskmill.errors import ConfigError
from maskmill.numerics.blocks import ordered
from maskmill.numerics.sampling import rng

if TYPE_CHECKING:
    from maskmill.adapt._photos import FrozenPhotos
    from maskmill.adapt._training import HeadTraining
    from maskmill.adapt.peekaboo.params import Params

MICRO = 8  # photos of a micro-batch: fixed, so that no sum depends on the threads
PIECE = {"cpu": 1, "cuda": 32}  # photos that go through the network together
WIDTH = (0.04, 0.12)  # of a stroke, in shorter sides of the photo
TURN = 0.6  # largest change of a stroke's direction from one segment to the next, in radians
SEGMENTS = 8  # of a stroke, each of the length of a tenth of the shorter side


def strokes(size: tuple[int, int], share: float, draws: np.random.Generator) -> np.ndarray:
    """Random bent strokes that cover at least a share of a picture of a size (H, W); bool [H, W]."""
    picture = Image.new("1", (size[1], size[0]))
    pen, side = ImageDraw.Draw(picture), min(size)
    while np.count_nonzero(covered := np.asarray(picture)) < share * covered.size:
        x, y = draws.uniform(0, size[1]), draws.uniform(0, size[0])
        direction, width = draws.uniform(0, 2 * math.pi), draws.uniform(*WIDTH) * side
        points = [(x, y)]
        for turn in draws.uniform(-TURN, TURN, SEGMENTS):
            direction += turn
            x, y = x + 0.1 * side * math.cos(direction), y + 0.1 * side * math.sin(direction)
            points.append((x, y))
        pen.line(points, fill=1, width=max(1, round(width)), joint="curve")
    return covered


def hide(photo: np.ndarray, covered: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """A photo uint8 [H, W, 3] in one colour [3] where it is covered: the mean one, which a network sees as 0."""
    return np.asarray(np.where(covered[..., None], colour, photo), np.uint8)


class Network:
    """Keys of photos by copies of a frozen network, one for each thread.

    Raises:
        ConfigError: it has no cls token with plain attention.
    """

    def __init__(self, images: FrozenPhotos, threads: int) -> None:
        self.device = images.backbone.device
        self.threads = threads if self.device.type == "cpu" else 1
        self.free: queue.SimpleQueue = queue.SimpleQueue()
        if images.backbone.heads is None:
            raise ConfigError(f"{images.key}: {images.set.backbone} has no cls token with plain attention; name a "
                              "feature set of a ViT that has, such as vit_small_patch8_224.dino")  # fmt: skip
        for _ in range(self.threads):
            self.free.put(copy.deepcopy(images.backbone))
        self.heads = images.backbone.heads
        self.colour = (255 * images.backbone.mean.flatten()).round().to(torch.uint8).cpu().numpy()

    def several(self, photos: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Keys [d, h, w] as they are stored, query [heads, d_head] and key [d] of the cls token, of photos in order."""
        size = PIECE[self.device.type]
        pieces = [photos[at : at + size] for at in range(0, len(photos), size)]
        for found in ordered(self._piece, pieces, min(len(pieces), self.threads), each=1):
            yield from found

    def _piece(self, photos: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        backbone = self.free.get()
        try:
            keys, cls, query = (
                part.float().cpu().numpy() for part in backbone.outputs(torch.from_numpy(np.stack(photos)))
            )
        finally:
            self.free.put(backbone)
        maps = keys.transpose(0, 3, 1, 2).astype(np.float16)
        return [(maps[n], query[n].reshape(self.heads, -1), cls[n]) for n in range(len(photos))]


class Batches:
    """The micro-batches of a step: keys of whole photos, of masked ones, positions, and the first labels."""

    def __init__(self, images: FrozenPhotos, solver: Solver, params: Params, training: HeadTraining) -> None:
        self.images, self.solver, self.params, self.training = images, solver, params, training
        self.network = Network(images, training.threads)
        self.held = Held(self._whole, images.mask_room)

    def __call__(self, step: int) -> list[tuple[np.ndarray, ...]]:
        """What step `step` learns from; a function of the seed and the step."""
        places = order(step, self.params.batch_size, len(self.images), self.training.seed)
        photos = self.images.several(places)
        masked = np.stack([keys for keys, _, _ in self.network.several(self._masked(photos, step))])
        found = [self.held(i) for i in places]
        parts = [np.stack([keys for keys, _ in found]), masked, np.array(places)]
        if step < self.params.background_steps:
            parts.append(np.stack([label for _, label in found])[:, None])
        return [tuple(part[at : at + MICRO] for part in parts) for at in range(0, len(places), MICRO)]

    def _masked(self, photos: Sequence[np.ndarray], step: int) -> list[np.ndarray]:
        draws = rng(self.training.seed, "adapt", "strokes", str(step))
        return [
            hide(photo, strokes((photo.shape[0], photo.shape[1]), self.params.hidden, draws), self.network.colour)
            for photo in photos
        ]

    def _whole(self, i: int) -> tuple[np.ndarray, ...]:
        """Keys [d, h, w] of photo i, and the complement of its background, solved, bool [h, w]."""
        keys, query, cls = next(self.network.several([self.images[i]]))
        first = ~background(keys.transpose(1, 2, 0), query, cls, self.params.threshold)
        return keys, self.solver.of(first, i)[0]
