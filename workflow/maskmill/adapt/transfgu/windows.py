"""Classes from windows of the photos: cls tokens of windows that show foreground, clustered.

TransFGU, section 3.1. A window is a square of patches of a photo at twice the size that is learnt from; its share of
foreground is that of the patches whose attention from the cls token (mean over the heads) is above the photo's mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import interpolate

from maskmill.backbones.cls_block import ClsBlock
from maskmill.errors import NumericsError
from maskmill.numerics import kmeans
from maskmill.numerics.blocks import one_thread, ordered
from maskmill.numerics.sampling import rng
from maskmill.progress import track

if TYPE_CHECKING:
    from maskmill.adapt._photos import FrozenPhotos
    from maskmill.adapt._training import HeadTraining
    from maskmill.adapt.transfgu.params import Params

WIDER = 2  # sides of the photos that windows are cut from, in those of the photos that are learnt from
PIECE = {"cpu": 4, "cuda": 32}  # windows that are computed at once
ITERATIONS = 100  # of k-means, as published


def boxes(grid: tuple[int, int], scales: Sequence[float], stride: int) -> np.ndarray:
    """Windows of all scales on a grid of patches (h, w): top, bottom, left, right [n, 4] in pixels, ends exclusive.

    A scale is a share of the shorter side; the window has an even number of patches b, and centres that are multiples
    of b / 2, with one more row and column at the far border. A window has b + 1 patches a side less one pixel, which
    is what the published code cuts.
    """
    found = []
    for scale in scales:
        side = int(min(grid[0] * scale, grid[1] * scale)) // 2 * 2
        half = side // 2
        if not half or any(len(_centres(cells, half)) == 0 for cells in grid):
            continue
        rows, columns = (_centres(cells, half) for cells in grid)
        for y in rows:
            for x in columns:
                found.append([(y - half) * stride, (y + half + 1) * stride - 1,
                              (x - half) * stride, (x + half + 1) * stride - 1])  # fmt: skip
    return np.array(found, np.int64).reshape(-1, 4)


def _centres(cells: int, half: int) -> list[int]:
    """Centres of windows of 2 * half + 1 cells along a side: multiples of half, and the last one that fits."""
    last = cells - 1 - half
    return sorted({*range(half, last + 1, half), last} if last >= half else set())


def shares(foreground: np.ndarray, windows: np.ndarray, stride: int) -> np.ndarray:
    """Share of foreground in windows [n, 4] of pixels [n], for patches bool [h, w]."""
    pixels = np.kron(foreground, np.ones((stride, stride), np.int64))
    total = np.pad(pixels.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    top, bottom, left, right = windows.T
    inside = total[bottom, right] - total[top, right] - total[bottom, left] + total[top, left]
    return inside / ((bottom - top) * (right - left))


def attended(attention: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
    """Patches bool [h, w] with more than the mean attention; attention [1, heads, h * w] of the cls token."""
    mean = attention.mean(1).view(grid)
    return (mean > mean.mean()).cpu().numpy()


class Windows:
    """Cls tokens of the windows of photos."""

    def __init__(self, images: FrozenPhotos, params: Params) -> None:
        self.images, self.params = images, params
        height, width = images.size
        self.size = height, width
        self.wide = ClsBlock(images.backbone, (WIDER * height, WIDER * width), images.key)
        self.own = ClsBlock(images.backbone, self.size, images.key)
        self.boxes = boxes(self.wide.grid, params.scales, self.wide.stride)
        self.device = images.backbone.device

    def of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Cls tokens [n, d] of the windows of photo i that show foreground, and of those that show background."""
        photo = torch.from_numpy(self.images.larger(i, WIDER)).to(self.device)
        x = photo.permute(2, 0, 1)[None].float()
        seen = attended(self.wide.attention(self.wide.start(x)), self.wide.grid)
        chosen = [shares(seen, self.boxes, self.wide.stride) > self.params.foreground]
        if self.params.stuff:
            chosen.append(shares(~seen, self.boxes, self.wide.stride) > self.params.background)
        found = [self._cls(x, self.boxes[one]) for one in chosen]
        return found[0], found[-1] if self.params.stuff else found[0][:0]

    def _cls(self, x: torch.Tensor, windows: np.ndarray) -> np.ndarray:
        """Cls tokens [n, d] of windows [n, 4] of a photo [1, 3, H, W], each resized to the size that is learnt from."""
        size, kept = PIECE[x.device.type], [np.zeros((0, self.images.depth), np.float32)]
        for first in range(0, len(windows), size):
            parts = [x[:, :, t:b, left:right] for t, b, left, right in windows[first : first + size].tolist()]
            batch = torch.cat([interpolate(part, self.size, mode="bilinear", align_corners=False) for part in parts])
            kept.append(self.own.cls(self.own.start(batch)).cpu().numpy())
        return np.concatenate(kept)

    def all(self, places: Sequence[int], threads: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`of` several photos, in order."""
        with one_thread():
            yield from ordered(self.of, places, threads, each=1)


def classes(
    images: FrozenPhotos, params: Params, things: int, training: HeadTraining
) -> tuple[np.ndarray, dict[str, int]]:
    """Centroids [things + stuff, d] float32 of the windows' cls tokens, and how many windows there were.

    Raises:
        NumericsError: fewer windows than classes.
    """
    draws = rng(training.seed, "adapt", "windows").permutation(len(images))
    places = sorted(draws[: params.window_images].tolist())
    threads = training.threads if training.device.type == "cpu" else 1
    windows = Windows(images, params)
    kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for pair in track(windows.all(places, threads), len(places), "adapt windows"):
        for part, found in zip(kept, pair, strict=True):
            part.append(found)
    fore, back = (np.concatenate(part) for part in kept)
    centroids = [_clustered(fore, things, "foreground", training)]
    if params.stuff:
        centroids.append(_clustered(back, params.stuff, "background", training))
    return np.concatenate(centroids), {"foreground": len(fore), "background": len(back)}


def _clustered(points: np.ndarray, clusters: int, what: str, training: HeadTraining) -> np.ndarray:
    """Euclidean centroids [k, d] float32, the largest cluster first."""
    if len(points) < clusters:
        raise NumericsError(f"adapt: {len(points)} windows show {what}, fewer than {clusters} classes; use more "
                            f"images, lower adapt.{what}, or ask for fewer classes")  # fmt: skip
    seed = int(rng(training.seed, "adapt", "classes", what).integers(2**31))
    settings = kmeans.Settings(clusters=clusters, spherical=False, iterations=ITERATIONS)
    book, _ = kmeans.fit(points, settings, seed, str(training.device), "cluster.clusters")
    return np.asarray(book.centroids, np.float32)
