"""What a weights file is worth on the development photos: every read-out of `_pretrain_readouts`, by name.

Photos are squeezed to squares. Vectors of whole photos are those of the cls token, or the mean token of a network
without one, at `Sizes.photo`; tokens are those at `Sizes.dense`. Masks have four cells a token side, as the stage paint
makes them, and are compared with the label at the centre of each cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from _photos import data_folder
from _pretrain_readouts import (
    SECOND,
    VOID,
    animal,
    cluster_scores,
    majority,
    neighbour_accuracy,
    scene_retrieval,
    spread,
    view_retrieval,
)
from PIL import Image, ImageEnhance

from maskmill.images.decode import decode, load_label, resize
from maskmill.numerics.sampling import rng
from maskmill.recipe.feature_set import FeatureSet, Size

ANIMALS = (8, 10, 12, 13, 17)  # cat, cow, dog, horse, sheep
CLASSES = {"camvid": tuple(range(11)), "voc_animals": (0, 8, 10, 12, 13, 15, 17)}
CLUSTERS = {"camvid": (11, 50), "voc_animals": (100,)}
RETRIEVED = ("voc_animals", "coco200", "ecssd")  # frames of a video and slices of a stack have near copies
CELLS = 4  # mask cells a token side
BATCH = 16
Pictures = Callable[[int], np.ndarray]
"""Side -> squares uint8 [n, side, side, 3]."""


@dataclass(frozen=True)
class Sizes:
    """Sides in pixels at which photos are read. stride: of a CNN's tokens, None: its own."""

    photo: int = 128
    dense: int = 320
    stride: int | None = 16


@dataclass(frozen=True)
class Asked:
    """How a file is scored. held_out: on the photos that a held-out training has not seen (see `scored_photos`)."""

    sizes: Sizes = Sizes()
    facet: str = "token"
    seeds: Sequence[int] = (0, 1, 2)
    held_out: bool = False
    parts: Sequence[str] = ("neighbours", "clusters", "retrieval")


def photos_of(name: str) -> list[Path]:
    """All photos of a set, sorted by id."""
    folder = data_folder(name)
    assert folder is not None
    return sorted((folder / "images").iterdir(), key=lambda path: path.stem)


def halves(name: str) -> tuple[list[Path], list[Path]]:
    """Photos to train on, and photos to score on: train.txt and val.txt of CamVid, else every second one by id.

    Frames of CamVid that lie beside each other are a fifteenth of a second apart, so every second one would be no
    photo that has not been seen.
    """
    photos = photos_of(name)
    if name != "camvid":
        return photos[::2], photos[1::2]
    folder = photos[0].parents[1]
    train, held = (set((folder / f"{part}.txt").read_text().split()) for part in ("train", "val"))
    return [p for p in photos if p.stem in train], [p for p in photos if p.stem in held]


def scored_photos(name: str, held_out: bool) -> list[Path]:
    """Photos on which clusters and neighbours are scored: val.txt of CamVid, else all, or those held out."""
    return halves(name)[1] if held_out or name == "camvid" else photos_of(name)


class Reader:
    """A weights file at work.

    Attributes:
        sizes: at which photos are read.
    """

    def __init__(self, weights: Path, backbone: str, asked: Asked) -> None:
        self.weights, self.backbone, self.sizes, self.facet = weights, backbone, asked.sizes, asked.facet
        self._loaded: dict[bool, Any] = {}

    def _network(self, dense: bool) -> tuple[Any, int]:
        """The network for tokens or for whole photos, and the side nearest to that asked for which it takes."""
        side = self.sizes.dense if dense else self.sizes.photo
        if dense not in self._loaded:
            network = self._load(FeatureSet(backbone=self.backbone, size=Size(square=side)))
            change: dict[str, Any] = {"facet": self.facet} if network.is_vit else {}
            if not network.is_vit and dense:
                change = {"stride": self.sizes.stride}
            self._loaded[dense] = self._load(network.set.model_copy(update=change)) if change else network
        network = self._loaded[dense]
        return network, max(1, round(side / network.multiple)) * network.multiple

    def _load(self, feature_set: FeatureSet) -> Any:
        import torch

        from maskmill.backbones.network import load

        return load(self.weights, feature_set, torch.device("cpu"))

    def vectors(self, pictures: Pictures) -> np.ndarray:
        """Vectors [n, d] float32 of whole pictures."""
        return np.concatenate([cls for _, cls in self._outputs(pictures, False)])

    def tokens(self, pictures: Pictures) -> np.ndarray:
        """Tokens [n, h, w, d] float16 of pictures."""
        return np.concatenate([tokens for tokens, _ in self._outputs(pictures, True)])

    def _outputs(self, pictures: Pictures, dense: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import torch

        network, side = self._network(dense)
        squares = pictures(side)
        for start in range(0, len(squares), BATCH):
            tokens, cls = network.forward(torch.from_numpy(squares[start : start + BATCH]))
            yield tokens.numpy().astype(np.float16), cls.numpy()


@cache
def squeezed(photos: tuple[Path, ...], side: int) -> np.ndarray:
    """Photos as squares uint8 [n, side, side, 3]; kept, because the weights of a training see the same ones."""
    return np.stack([resize(decode(photo), (side, side)) for photo in photos])


@cache
def other_views(photos: tuple[Path, ...], seed: int, side: int) -> np.ndarray:
    """`other_view` of each photo: [n, side, side, 3]."""
    return np.stack([other_view(decode(photo), photo.stem, seed, side) for photo in photos])


def score(weights: Path, backbone: str, asked: Asked) -> dict[str, Any]:
    """Every read-out of a file: name -> [mean, standard deviation over the seeds of k-means], or a number."""
    reader = Reader(weights, backbone, asked)
    found: dict[str, Any] = {}
    if "neighbours" in asked.parts:
        found |= neighbours(reader, asked)
    if "clusters" in asked.parts:
        found |= clusters(reader, asked)
    if "retrieval" in asked.parts:
        found |= retrieval(reader, asked)
    return found | {"asked": asdict(asked)}


def neighbours(reader: Reader, asked: Asked) -> dict[str, Any]:
    """20-nearest-neighbour accuracy of the animal, and the majority class."""
    photos = scored_photos("voc_animals", asked.held_out)
    classes = np.array([animal(load_label(mask_of(photo)), ANIMALS) for photo in photos])
    vectors = reader.vectors(partial(squeezed, tuple(photos)))
    there = classes >= 0
    return {
        "neighbours": neighbour_accuracy(vectors[there], classes[there]),
        "neighbours_majority": majority(classes[there]),
    }


def mask_of(photo: Path) -> Path:
    """The label of a photo."""
    return photo.parents[1] / "masks" / f"{photo.stem}.png"


def clusters(reader: Reader, asked: Asked) -> dict[str, Any]:
    """MIoU and accuracy of k-means of the tokens of both sets, by set, K and protocol."""
    found: dict[str, Any] = {}
    for name, numbers in CLUSTERS.items():
        photos = scored_photos(name, asked.held_out)
        tokens = reader.tokens(partial(squeezed, tuple(photos)))
        cells = (CELLS * tokens.shape[1], CELLS * tokens.shape[2])
        labels = np.stack([cell_labels(load_label(mask_of(photo)), cells, CLASSES[name]) for photo in photos])
        for k in numbers:
            several = [cluster_scores(tokens, labels, k, len(CLASSES[name]), seed) for seed in asked.seeds]
            for rule in several[0]:
                for measure in several[0][rule]:
                    found[f"{name}_k{k}_{rule}_{measure}"] = spread([each[rule][measure] for each in several])
    return found


def cell_labels(label: np.ndarray, cells: tuple[int, int], classes: Sequence[int]) -> np.ndarray:
    """Index of the class at the centre of every cell, uint8 [H, W], VOID where it is not scored."""
    index = np.full(256, VOID, np.uint8)
    index[list(classes)] = np.arange(len(classes))
    rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(cells, label.shape, strict=True))
    return index[label[np.ix_(rows, columns)]]


def retrieval(reader: Reader, asked: Asked) -> dict[str, Any]:
    """Frames of CamVid at another time, and photos by another crop under another light."""
    frames = photos_of("camvid")
    vectors = reader.vectors(partial(squeezed, tuple(frames)))
    drives, numbers = zip(*(drive_and_number(photo.stem) for photo in frames), strict=True)
    drive, drive_chance = scene_retrieval(vectors, drives, numbers)
    place, place_chance = scene_retrieval(vectors, drives, numbers, within=3 * SECOND)
    photos = [photo for name in RETRIEVED for photo in scored_photos(name, asked.held_out)]
    pictures = reader.vectors(partial(squeezed, tuple(photos)))
    views = reader.vectors(partial(other_views, tuple(photos), 0))
    return {
        "drive": drive,
        "drive_chance": drive_chance,
        "place": place,
        "place_chance": place_chance,
        "view": view_retrieval(views, pictures),
        "view_chance": 100 / len(photos),
    }


def drive_and_number(stem: str) -> tuple[str, int]:
    """The video and the number of a frame of CamVid: 0006R0_f00930 -> ("0006R0", 930)."""
    drive, _, number = stem.partition("_")
    return drive, int(number.lstrip("f"))


def other_view(picture: np.ndarray, name: str, seed: int, side: int) -> np.ndarray:
    """A crop of 30 to 70 percent of the area under another light, uint8 [side, side, 3]; by the name and the seed.

    The aspect is that of the photo times 3/4 to 4/3; brightness, contrast and colour are multiplied by 0.6 to 1.4.
    """
    draws = rng(seed, "view", name)
    area, aspect = draws.uniform(0.3, 0.7), np.exp(draws.uniform(np.log(3 / 4), np.log(4 / 3)))
    shape = picture.shape[:2]
    shares = np.sqrt([area / aspect, area * aspect])
    h, w = (min(n, max(1, round(n * share))) for n, share in zip(shape, shares, strict=True))
    top, left = (int(draws.integers(n - size + 1)) for n, size in zip(shape, (h, w), strict=True))
    image = Image.fromarray(resize(picture[top : top + h, left : left + w], (side, side)))
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(float(draws.uniform(0.6, 1.4)))
    return np.asarray(image)
