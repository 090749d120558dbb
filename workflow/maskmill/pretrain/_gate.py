"""What the gate looks at: some photos, each in two views, and what a network says of the same places in both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from maskmill.images.photos import read_ahead, read_filled
from maskmill.numerics.sampling import rng
from maskmill.pretrain._compare import Views
from maskmill.pretrain._light import Light, relight
from maskmill.pretrain._views import cut, middle
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.manifest import Row

if TYPE_CHECKING:
    import torch

    from maskmill.backbones import Dense

PHOTOS = (64, 256)  # at least and at most, where there are as many
PIXELS = 256 * 224**2  # of all whole views: larger photos are fewer
LARGEST = 448  # pixels of a view's side
PLACES = 16  # of a photo
CROP = (0.4, 0.8)  # share of the area of the whole view that the other one shows
LIGHT = Light(jitter_chance=1.0, blur=0.0)  # MoCo v2's jitter of colours; a fifth of the photos in grey
BATCH = 16  # views that a network sees at once


@dataclass(frozen=True)
class Pair:
    """A photo in two views: pictures uint8 [2, side, side, C]; places [2, t, 2], y and x in shares of each view."""

    pictures: np.ndarray
    places: np.ndarray


def side_of(feature_set: FeatureSet, multiple: int) -> int:
    """Pixels of a view's side: as large as the feature set sees photos, whole multiples, at most LARGEST."""
    size = feature_set.size
    wanted = min(size.square or size.short_side or size.long_side or LARGEST, LARGEST)
    return max(1, round(wanted / multiple)) * multiple


def chosen(rows: Sequence[Row], side: int, seed: int) -> list[Row]:
    """The photos that are looked at, drawn by the seed, sorted by id.

    Windows, pages and composites of one file come after those of all others have had their turn, as two windows of a
    slide are no two photos.
    """
    count = int(np.clip(PIXELS // side**2, *PHOTOS))
    order = rng(seed, "pretrain", "gate").permutation(len(rows))
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int, int]] = []
    for place in order.tolist():
        turns.append((seen[rows[place].owner], len(turns), place))
        seen[rows[place].owner] += 1
    return sorted((rows[place] for _, _, place in sorted(turns)[:count]), key=lambda row: row.id)


def pairs(rows: Sequence[Row], fill: np.ndarray, side: int, seed: int, workers: int = 0) -> list[Pair]:
    """The two views of every photo that shows data, read in worker processes.

    Args:
        fill: uint8 [C], the colour of pixels without data, with as many channels as the network sees.

    Raises:
        InputError: a photo has changed since the inputs were checked.
    """
    read = partial(pair, fill=fill, side=side, seed=seed)
    return [found for _, found in read_ahead(list(rows), read, workers) if found is not None]


def pair(row: Row, fill: np.ndarray, side: int, seed: int) -> Pair | None:
    """The square in the middle of a photo, and a crop of it in another light; None where no place shows data.

    It depends on the photo, its id and the seed.
    """
    draws = rng(seed, "pretrain", "gate", row.id)
    shown = read_filled(row, fill)
    whole = middle(shown.pixels)
    tall, wide = np.sqrt(draws.uniform(*CROP, 2))
    y, x = draws.uniform(0, 1 - tall), draws.uniform(0, 1 - wide)
    box = np.array([y, y + tall, x, x + wide])  # in shares of the whole view
    inside = draws.random((8 * PLACES, 2))  # in shares of the other view
    places = np.stack([box[[0, 2]] + inside * (box[[1, 3]] - box[[0, 2]]), inside])
    if shown.valid is not None:
        places = places[:, _shows(shown.valid, _within(whole, places[0]))]
    if not places.shape[1]:
        return None
    places = places[:, np.arange(PLACES) % places.shape[1]]  # few that show data are looked at again
    crop = _within(whole, box.reshape(2, 2).T).T.ravel()
    other = relight(cut(shown.pixels, crop.tolist(), side), LIGHT, draws)
    return Pair(np.stack([cut(shown.pixels, whole, side), other]), places)


def look(backbone: Dense, seen: Sequence[Pair], batch: int = BATCH) -> Views:
    """What a network says of the places of both views of all photos, float32."""
    import torch

    found = [_of_batch(backbone, torch.from_numpy(pictures), places) for pictures, places in _batches(seen, batch)]
    rows, cls = (np.concatenate(parts) for parts in zip(*found, strict=True))
    n = len(seen)
    return Views(rows.reshape(n, 2, PLACES, -1).swapaxes(0, 1), cls.reshape(n, 2, -1).swapaxes(0, 1))


def _batches(seen: Sequence[Pair], batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures [b, side, side, C] and their places [b, t, 2]; both views of a photo follow each other."""
    step = max(1, batch // 2)
    for start in range(0, len(seen), step):
        part = seen[start : start + step]
        yield np.concatenate([each.pictures for each in part]), np.concatenate([each.places for each in part])


def _of_batch(backbone: Dense, pictures: torch.Tensor, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the cells that the places lie in [b, t, d], and cls [b, d]."""
    tokens, cls = (tensor.float().cpu().numpy() for tensor in backbone.forward(pictures))
    grid = np.array(tokens.shape[1:3])
    cells = np.minimum((places * grid).astype(np.int64), grid - 1)  # [b, t, 2]
    return tokens[np.arange(len(tokens))[:, None], cells[..., 0], cells[..., 1]], cls


def _within(whole: Sequence[float], points: np.ndarray) -> np.ndarray:
    """Points [m, 2] in shares of a box (y0, y1, x0, x1 in shares of the photo) as shares of the photo."""
    y0, y1, x0, x1 = whole
    return np.asarray(np.array([y0, x0]) + points * np.array([y1 - y0, x1 - x0]))


def _shows(valid: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether the pixel of each point [m, 2], in shares of the photo, shows data: bool [m]."""
    pixels = np.minimum((points * valid.shape).astype(np.int64), np.array(valid.shape) - 1)
    return np.asarray(valid[pixels[:, 0], pixels[:, 1]])
