"""The images of a planned run: shards and the grids of tokens in them, from a manifest or as so many of one size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maskmill.errors import ConfigError
from maskmill.images.decode import target_size
from maskmill.images.windows import grid
from maskmill.recipe.feature_set import Size
from maskmill.recipe.inputs import Window


@dataclass(frozen=True)
class Shards:
    """`count` shards of `images` images each; `sizes`: which share is (height, width) pixels as displayed."""

    count: int
    images: int
    sizes: Mapping[tuple[int, int], float]

    def mean(self, size: Size, multiple: int, cells: int = 1) -> float:
        """Mean number of tokens of an image under a size rule, or of `cells` x `cells` cells a token."""
        grids = {photo: target_size(*photo, size, multiple) for photo in self.sizes}
        return sum(
            share * (grids[photo][0] // multiple) * (grids[photo][1] // multiple) * cells**2
            for photo, share in self.sizes.items()
        )

    def tokens(self, size: Size, multiple: int, cells: int = 1) -> int:
        """Tokens of one shard, or its cells as in `mean`; exact where `sizes` are those of its images."""
        return round(self.images * self.mean(size, multiple, cells))


@dataclass(frozen=True)
class PlannedImages:
    """All images of a run."""

    shards: tuple[Shards, ...]

    @property
    def count(self) -> int:
        return sum(group.count * group.images for group in self.shards)

    @property
    def shard_count(self) -> int:
        return sum(group.count for group in self.shards)

    @property
    def largest(self) -> int:
        """PlannedImages of the largest shard."""
        return max(group.images for group in self.shards)

    def tokens(self, size: Size, multiple: int, cells: int = 1) -> int:
        """Tokens of all images, or cells."""
        return sum(group.count * group.tokens(size, multiple, cells) for group in self.shards)


def of_one_size(images: int, shard_size: int, sizes: Mapping[tuple[int, int], float]) -> PlannedImages:
    """`images` images in shards of equal size, as near to `shard_size` as the mean of the real ones is.

    Real shards hold between half and 1.6 times `inputs.shard_size` images (see maskmill.inputs._shards).

    Raises:
        ConfigError: fewer than one image.
    """
    if images < 1:
        raise ConfigError(f"--images: {images}, but there must be at least 1; give the number of images, such as 1e8")
    count = max(1, round(images / shard_size)) if images > shard_size else 1
    small, larger = divmod(images, count)
    groups = [(count - larger, small), (larger, small + 1)]
    return PlannedImages(tuple(Shards(shards, n, sizes) for shards, n in groups if shards))


def in_windows(sizes: Mapping[tuple[int, int], float], window: Window) -> tuple[float, dict[tuple[int, int], float]]:
    """Mean number of windows of an image, and which share of all windows has which size; none is left out as empty."""
    found: Counter[tuple[int, int]] = Counter()
    for whole_image, share in sizes.items():
        for _, _, height, width in grid(whole_image, window.size, window.overlap):
            found[height, width] += share  # type: ignore[assignment]
    many = sum(found.values())
    return many, {size: n / many for size, n in found.items()}


def of_manifest(path: str | Path) -> PlannedImages:
    """The shards that a manifest has.

    Raises:
        StoreError: no readable manifest.
    """
    from maskmill.store.artefact import read_table

    table = read_table(path, ["shard", "height", "width"])
    found: dict[str, Counter[tuple[int, int]]] = {}
    columns = (table[name].to_pylist() for name in ("shard", "height", "width"))
    for shard, height, width in zip(*columns, strict=True):
        found.setdefault(shard, Counter())[height, width] += 1
    return PlannedImages(
        tuple(
            Shards(1, sizes.total(), {photo: n / sizes.total() for photo, n in sizes.items()})
            for sizes in found.values()
        )
    )


def mixture(images: PlannedImages) -> dict[tuple[int, int], float]:
    """The share of each photo size among all images."""
    total: Counter[tuple[int, int]] = Counter()
    for group in images.shards:
        for photo, share in group.sizes.items():
            total[photo] += share * group.images * group.count  # type: ignore[assignment]
    return {photo: n / images.count for photo, n in total.items()}


def whole(text: str, option: str) -> int:
    """A number such as 1e8, 250000 or 2.5e6 as an int.

    Raises:
        ConfigError: it is no whole number of at least 1.
    """
    try:
        value = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 1 or value != int(value):
        raise ConfigError(f"{option}: {text!r} is not a whole number of at least 1; write 100000000 or 1e8")
    return int(value)


def photo_size(text: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT.

    Raises:
        ConfigError: it is none.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise ConfigError(f"--photo: {text!r} is not WIDTHxHEIGHT in pixels, such as 500x375")
    return int(height), int(width)
