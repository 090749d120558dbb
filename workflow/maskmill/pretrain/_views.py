"""Photos, and the views of them that a learner sees: several crops of each, in several lights.

What is drawn depends on (seed, step, place in the batch, crop) alone, so a training can begin at any step, and views
are the same in any number of processes. Photos are decoded ahead, in processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image

from maskmill.device import pinned
from maskmill.images.crops import draw_box
from maskmill.images.photos import PhotoFile, read_filled
from maskmill.numerics.sampling import batch_rows, rng
from maskmill.pretrain._light import Light, relight
from maskmill.pretrain._segments import crop_segments
from maskmill.store.manifest import Row
from maskmill.training.team import Team

Segments = Callable[[str], np.ndarray]  # id -> [h, w] int, 0: none
TRIES = 3  # draws of crops, before those are taken whose segments the method does not accept


@dataclass(frozen=True, kw_only=True)
class CropSpec:
    """One crop of a photo.

    Attributes:
        side: pixels. scale: from and to, share of the photo's area. flip: chance that it is mirrored. light: see there.
    """

    side: int
    scale: tuple[float, float] = (0.2, 1.0)
    flip: float = 0.5
    light: Light = field(default_factory=Light)


@dataclass(frozen=True)
class Views:
    """Views of the photos of one micro-batch, of n photos and so many crops of each.

    Attributes:
        pictures: one tensor a crop, normalised float32 [n, C, side, side].
        boxes: [n, crops, 4] float32, y0, y1, x0, x1 of each crop as shares of its photo. flips: bool [n, crops], which
            are mirrored.
        places: int64 [n, crops], of the photo of each crop in the batch; the same for all crops of a row unless the
            method's crops are regrouped. items: int64 [n], number of the first crop's photo among all.
        segments: one tensor a crop, int64 [n, side, side], 0: no segment; None where the method reads none.
    """

    pictures: tuple[torch.Tensor, ...]
    boxes: torch.Tensor
    flips: torch.Tensor
    places: torch.Tensor
    items: torch.Tensor
    segments: tuple[torch.Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Drawn:
    """A micro-batch as it was read, uint8 [n, side, side, C] a crop; the rest as in `Views`."""

    pictures: tuple[torch.Tensor, ...]
    rest: tuple[torch.Tensor, ...]
    segments: tuple[torch.Tensor, ...] | None


@dataclass(frozen=True)
class Places:
    """Which photos make one micro-batch of a step: for every crop the places in the batch, [crops, n]."""

    step: int
    rows: np.ndarray


class Sampler(Sequence[list[Places]]):
    """The micro-batches of each step, from one step on; with several processes each sees its share."""

    def __init__(self, photos: Photos, start: int, team: Team) -> None:
        self.photos, self.start, self.team = photos, start, team

    def __len__(self) -> int:
        return int(self.photos.params.steps) - self.start

    def __getitem__(self, i: Any) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return list(self.team.share(self.photos.micro_batches(self.start + i)))


class Photos:
    """The photos of a training, in the order of their ids.

    Args:
        rows: of the manifest. method, params: of the training. normalisation: of as many channels as the network sees;
            its mean is the colour of pixels without data.
        cache_mib: memory of one process for photos that are decoded once. segments: of the recipe's cut, by image id.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        method: ModuleType | Any,
        params: Any,
        normalisation: Normalisation,
        seed: int = 0,
        cache_mib: int = 0,
        segments: Segments | None = None,
    ) -> None:
        self.rows, self.method, self.params, self.seed = list(rows), method, params, seed
        self.normalisation, self.segments = normalisation, segments
        self.specs: tuple[CropSpec, ...] = method.views(params)
        self._room, self._cache = cache_mib << 20, dict[int, np.ndarray]()

    def __len__(self) -> int:
        return len(self.rows)

    def micro_batches(self, step: int) -> list[Places]:
        """All micro-batches of a step; crops after the first are regrouped where the method asks for it."""
        size, micro = self.params.batch_size, self.params.micro
        own = np.arange(size)
        other = rng(self.seed, "regroup", str(step)).permutation(size) if self.method.TRAITS.regrouped else own
        rows = np.stack([own, *([other] * (len(self.specs) - 1))])
        return [Places(step, rows[:, start : start + micro]) for start in range(0, size, micro)]

    def items(self, step: int) -> np.ndarray:
        """The photos of a step's batch, by number: each once before any comes again, in orders of the seed."""
        return batch_rows(step, self.params.batch_size, len(self), self.seed, "pretrain")

    def read(self, batch: Sequence[Places]) -> list[Drawn]:
        """Views of micro-batches, cut, mirrored and lit.

        Raises:
            InputError: a photo has changed since the inputs were checked.
        """
        return [self._micro(places) for places in batch]

    def _micro(self, places: Places) -> Drawn:
        """One micro-batch; each photo is decoded once for all of its crops, and one is held at a time."""
        items, count = self.items(places.step), places.rows.shape[1]
        boxes = np.zeros((count, len(self.specs), 4), np.float32)
        flips = np.zeros(boxes.shape[:2], bool)
        channels = len(self.normalisation.fill)
        pictures = [np.empty((count, spec.side, spec.side, channels), np.uint8) for spec in self.specs]
        segments = [np.zeros((count, spec.side, spec.side), np.int64) for spec in self.specs]
        for place in dict.fromkeys(places.rows.ravel().tolist()):
            item = int(items[place])
            photo = self.pixels(item)
            drawn_boxes, drawn_flips = self._geometry(item, photo.shape, places.step, place)
            grid = None if self.segments is None else self.segments(self.rows[item].id)
            for c, n in np.argwhere(places.rows == place).tolist():
                box, flip = drawn_boxes[c], drawn_flips[c]
                boxes[n, c], flips[n, c] = box, flip
                pictures[c][n] = self._view(photo, box, flip, (places.step, place, c))
                if grid is not None:
                    segments[c][n] = crop_segments(grid, box, flip, self.specs[c].side)
        rest = (boxes, flips, np.ascontiguousarray(places.rows.T), items[places.rows[0]])
        return Drawn(
            tuple(map(torch.from_numpy, pictures)),
            tuple(map(torch.from_numpy, rest)),
            tuple(map(torch.from_numpy, segments)) if self.segments is not None else None,
        )

    def _geometry(self, item: int, shape: Sequence[int], step: int, place: int) -> tuple[list[Any], list[bool]]:
        """Boxes and mirrorings of a photo's crops, drawn together, so that none depends on who asks."""
        draws = rng(self.seed, "boxes", str(step), str(place))
        for _ in range(TRIES):
            boxes = self._boxes(int(shape[0]), int(shape[1]), draws)
            flips = (draws.random(len(self.specs)) < np.array([spec.flip for spec in self.specs])).tolist()
            if self._accepted(item, boxes, flips):
                break
        return boxes, flips

    def _boxes(self, height: int, width: int, draws: np.random.Generator) -> list[Any]:
        joint = getattr(self.method, "draw", None)
        if joint is not None:
            boxes = joint(self.params, height, width, draws)
        else:
            boxes = [draw_box(height, width, spec.scale, draws) for spec in self.specs]
        return [tuple(float(share) for share in box) for box in boxes]

    def _accepted(self, item: int, boxes: Sequence[Any], flips: Sequence[bool]) -> bool:
        """What the method says of the segments of the crops, where it has a say."""
        accepts = getattr(self.method, "accepts", None)
        if accepts is None or self.segments is None:
            return True
        grid, sides = self.segments(self.rows[item].id), [spec.side for spec in self.specs]
        return bool(
            accepts(self.params, [crop_segments(grid, *each) for each in zip(boxes, flips, sides, strict=True)])
        )

    def _view(self, photo: np.ndarray, box: Any, flip: bool, key: tuple[int, int, int]) -> np.ndarray:
        spec = self.specs[key[2]]
        picture = cut(photo, box, spec.side)
        picture = np.ascontiguousarray(picture[:, ::-1]) if flip else picture
        return relight(picture, spec.light, rng(self.seed, "light", *map(str, key)))

    def pixels(self, item: int) -> np.ndarray:
        """A photo uint8 [H, W, C], decoded once where there is room for it."""
        if item in self._cache:
            return self._cache[item]
        photo = read_photo_of(self.rows[item], self.normalisation.fill)
        if photo.nbytes <= self._room:
            self._room -= photo.nbytes
            self._cache[item] = photo
        return photo

    def shown(self, drawn: Drawn, device: torch.device) -> Views:
        """Views on the device, normalised."""
        pictures = tuple(self.normalisation(picture.to(device, non_blocking=True)) for picture in drawn.pictures)
        boxes, flips, places, items = (tensor.to(device, non_blocking=True) for tensor in drawn.rest)
        segments = drawn.segments
        if segments is not None:
            segments = tuple(each.to(device, non_blocking=True) for each in segments)
        return Views(pictures, boxes, flips, places, items, segments)

    def plain(self, items: Sequence[int], device: torch.device, side: int | None = None) -> torch.Tensor:
        """The middle squares of photos, normalised [n, C, side, side]; by default as large as the first crop."""
        side = side or self.specs[0].side
        squares = [cut(photo, middle(photo), side) for photo in (self.pixels(item) for item in items)]
        return self.normalisation(torch.from_numpy(np.stack(squares)).to(device))


@dataclass(frozen=True)
class Normalisation:
    """What a network expects of pictures: mean and deviation of every channel, for values in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def fill(self) -> np.ndarray:
        """The mean as a colour, uint8 [C]."""
        return np.round(np.array(self.mean) * 255).clip(0, 255).astype(np.uint8)

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 [n, h, w, C] -> float32 [n, C, h, w]."""
        mean, std = (torch.tensor(each, device=pictures.device).view(1, -1, 1, 1) for each in (self.mean, self.std))
        return (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std


def pin(drawn: Drawn, device: torch.device) -> Drawn:
    """The same in pinned memory, for CUDA."""
    if device.type != "cuda":
        return drawn
    segments = None if drawn.segments is None else tuple(each.pin_memory() for each in drawn.segments)
    return Drawn(
        tuple(pinned(each.numpy(), device) for each in drawn.pictures),
        tuple(pinned(each.numpy(), device) for each in drawn.rest),
        segments,
    )


def read_photo_of(row: PhotoFile, fill: np.ndarray) -> np.ndarray:
    """A photo with a colour where it shows no data; raises as `maskmill.images.photos.read_photo`."""
    return np.ascontiguousarray(read_filled(row, fill).pixels)


def middle(photo: np.ndarray) -> tuple[float, float, float, float]:
    """The largest square in the middle of a photo, as a box."""
    height, width = photo.shape[:2]
    tall, wide = min(1.0, width / height), min(1.0, height / width)
    return (1 - tall) / 2, (1 + tall) / 2, (1 - wide) / 2, (1 + wide) / 2


def cut(photo: np.ndarray, box: Sequence[float], side: int) -> np.ndarray:
    """A box (y0, y1, x0, x1 as shares) of a picture uint8 [H, W, C] as a square of that side, bicubic, antialiased."""
    h, w = photo.shape[:2]
    y0, y1, x0, x1 = box
    place = (x0 * w, y0 * h, min(x1 * w, w), min(y1 * h, h))
    bands = [photo] if photo.shape[2] == 3 else [np.ascontiguousarray(band) for band in np.moveaxis(photo, 2, 0)]
    resized = [
        np.array(Image.fromarray(band).resize((side, side), Image.Resampling.BICUBIC, box=place)) for band in bands
    ]
    return resized[0] if photo.shape[2] == 3 else np.stack(resized, 2)
