"""Tokens and labels of a labelled development set, for the benches that name clusters; features are computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _photos import data_folder

from maskmill.evaluate.readout import class_mass
from maskmill.images.decode import decode, resize, target_size
from maskmill.numerics.kmeans import fit
from maskmill.numerics.kmeans_settings import Settings
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.codebook import Codebook, read, write

SETS: dict[str, Sequence[int]] = {  # scored label ids; all others are void
    "camvid": range(11),
    "voc_animals": (0, 8, 10, 12, 13, 15, 17),
    "coco200": range(27),
}


@dataclass(frozen=True)
class Tokens:
    """The images of a set.

    Attributes:
        ids: stems, sorted. classes: scored label ids. labels: one uint8 [H, W] an image: index of the class, 255 void.
        vectors: [n, d] float16, the tokens of all images one after the other; grids: [images, 2], (h, w) of each.
        shares: [n, K] float32, what share of the pixels of each token has each class.
    """

    ids: list[str]
    classes: Sequence[int]
    labels: list[np.ndarray]
    vectors: np.ndarray
    grids: np.ndarray
    shares: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        """First token of each image, and the number of all: [images + 1]."""
        return np.concatenate([[0], np.cumsum(self.grids.prod(axis=1))])

    def rows(self, images: Sequence[int] | np.ndarray) -> np.ndarray:
        """Places of the tokens of some images, in their order."""
        starts = self.starts
        return np.concatenate([np.arange(starts[i], starts[i + 1]) for i in images])


def tokens_of(name: str, feature_set: FeatureSet, cache: Path) -> Tokens:
    """The tokens of a set, read from the folder `cache` where they were computed before."""
    photos = photos_of(name)
    folder = photos[0].parents[1]
    cache.mkdir(parents=True, exist_ok=True)
    stored = cache / f"{name}-{feature_set.slug}.npz"
    if not stored.is_file():
        vectors, grids = _extract(photos, feature_set, cache)
        with stored.with_suffix(".part").open("wb") as file:
            np.savez(file, vectors=vectors, grids=grids)
        stored.with_suffix(".part").replace(stored)
    with np.load(stored, allow_pickle=False) as found:
        vectors, grids = found["vectors"], found["grids"]
    classes = SETS[name]
    labels = [_label(folder / "masks" / f"{photo.stem}.png", classes) for photo in photos]
    columns = range(len(classes))
    shares = [class_mass(label, tuple(grid), columns) for label, grid in zip(labels, grids, strict=True)]
    return Tokens([photo.stem for photo in photos], classes, labels, vectors, grids, np.concatenate(shares))


def photos_of(name: str) -> list[Path]:
    """The photos of a set, in the order of `Tokens.ids`."""
    folder = data_folder(name)
    if folder is None:
        raise SystemExit(f"{name}: no labelled set; set MASKMILL_DATA to the folder of the sets")
    return sorted((folder / "images").iterdir())


def _label(path: Path, classes: Sequence[int]) -> np.ndarray:
    """Index of the class of every pixel, uint8 [H, W], 255 where it is not scored."""
    from PIL import Image

    index = np.full(256, 255, np.uint8)
    index[list(classes)] = np.arange(len(classes))
    with Image.open(path) as image:
        return index[np.asarray(image)]


def _extract(photos: Sequence[Path], feature_set: FeatureSet, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, d] float16 of all photos, and their grids [images, 2]."""
    import torch

    from maskmill.backbones.network import load
    from maskmill.backbones.weights import prepare

    weights = cache / f"{feature_set.weights_slug}.safetensors"
    if not weights.is_file():
        prepare(feature_set, weights)
    backbone = load(weights, feature_set, torch.device("cpu"))
    vectors, grids = [], []
    for photo in photos:
        pixels = decode(photo)
        size = target_size(pixels.shape[0], pixels.shape[1], feature_set.size, backbone.multiple)
        tokens = backbone.forward(torch.from_numpy(resize(pixels, size))[None])[0][0].numpy()  # [h, w, d]
        vectors.append(tokens.reshape(-1, tokens.shape[2]).astype(np.float16))
        grids.append(tokens.shape[:2])
    return np.concatenate(vectors), np.array(grids)


def clustered(tokens: Tokens, images: Sequence[int], clusters: int, seed: int, cache: Path) -> Codebook:
    """Spherical k-means of the tokens of some images with the stage's default settings, kept in the folder `cache`."""
    vectors = tokens.vectors[tokens.rows(images)]
    stored = cache / f"codebook-{array_hash(vectors)}-k{clusters}-s{seed}.safetensors"
    if not stored.is_file():
        write(stored, fit(vectors, Settings(clusters=clusters, spherical=True), seed, "cpu")[0])
    return read(stored)


def array_hash(array: np.ndarray) -> str:
    """Hash of the bytes of an array."""
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=6).hexdigest()


def camvid_split(tokens: Tokens) -> tuple[list[int], list[int]]:
    """Images of CamVid's train.txt and of its val.txt."""
    folder = data_folder("camvid")
    assert folder is not None
    place = {image_id: i for i, image_id in enumerate(tokens.ids)}
    train, held = ([place[line] for line in (folder / f"{part}.txt").read_text().split()] for part in ("train", "val"))
    return train, held
