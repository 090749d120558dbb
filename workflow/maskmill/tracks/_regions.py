"""The regions of a frame: connected parts of its classes, or its instances, with what they are matched by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from maskmill.images.instances import VOID, Instances
from maskmill.images.masks import ignore_value


@dataclass(frozen=True)
class Regions:
    """The n regions of a frame.

    Attributes:
        cells: sparse [n, H * W] of ones: which cells of the grid each region has. grid: (H, W).
        classes: int64 [n], mask value of each. numbers: int64 [n], ascending; of instances their place among all of the
            image, from 1, else 1..n.
    """

    cells: sparse.csr_array
    grid: tuple[int, int]
    classes: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def areas(self) -> np.ndarray:
        """Cells of each region, int64 [n]."""
        return np.diff(self.cells.indptr).astype(np.int64)

    @property
    def boxes(self) -> np.ndarray:
        """(top, left, bottom, right) of each region in shares of the frame, float64 [n, 4]; the ends are exclusive."""
        height, width = self.grid
        found = np.zeros((len(self), 4))
        for i in range(len(self)):
            rows, columns = np.divmod(self.own(i), width)
            found[i] = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
        return found / (height, width, height, width)

    def own(self, i: int) -> np.ndarray:
        """The cells of one region, ascending."""
        return np.asarray(self.cells.indices[self.cells.indptr[i] : self.cells.indptr[i + 1]])

    def means(self, tokens: np.ndarray) -> np.ndarray:
        """Mean token of each region, float64 [n, d], of tokens [h, w, d]; a cell has the token that it lies in."""
        h, w, depth = tokens.shape
        rows, columns = np.divmod(self.cells.indices, self.grid[1])
        lies = np.minimum(rows * h // self.grid[0], h - 1) * w + np.minimum(columns * w // self.grid[1], w - 1)
        weights = sparse.csr_array(
            (np.ones(len(lies)), lies, self.cells.indptr), shape=(len(self), h * w)
        )  # several cells of a token add up
        return np.asarray(weights @ tokens.reshape(h * w, depth).astype(np.float64)) / self.areas[:, None]


def regions_of_mask(mask: np.ndarray, min_area: float) -> Regions:
    """Connected parts (eight neighbours) of every class of a mask [H, W]; by class, then from the top.

    Background and ignore have no regions.

    Args:
        min_area: smallest share of the frame that a region may have.
    """
    from scipy.ndimage import label

    found: list[np.ndarray] = []
    classes: list[int] = []
    for value in np.unique(mask):
        if not 0 < value < ignore_value(mask.dtype):
            continue
        parts, count = label(mask == value, np.ones((3, 3), int))
        flat = parts.ravel()
        cells = np.flatnonzero(flat)
        order = cells[np.argsort(flat[cells], kind="stable")]
        groups = np.split(order, np.cumsum(np.bincount(flat[cells], minlength=count + 1)[1:])[:-1])
        large = [cells for cells in groups if len(cells) >= max(1, min_area * mask.size)]
        found += large
        classes += [int(value)] * len(large)
    return _regions(found, (mask.shape[0], mask.shape[1]), classes, list(range(1, len(found) + 1)))


def regions_of_instances(found: Instances, min_area: float) -> Regions:
    """The instances of a frame, which may overlap; not what is void."""
    size = found.size[0] * found.size[1]
    cells, classes, numbers = [], [], []
    for i, (mask, value) in enumerate(zip(found.masks, found.labels, strict=True)):
        mine = np.flatnonzero(mask.ravel())
        if value != VOID and len(mine) >= max(1, min_area * size):
            cells.append(mine)
            classes.append(int(value))
            numbers.append(i + 1)
    return _regions(cells, found.size, classes, numbers)


def _regions(cells: list[np.ndarray], grid: tuple[int, int], classes: list[int], numbers: list[int]) -> Regions:
    ends = np.cumsum([0, *(len(each) for each in cells)])
    indices = np.concatenate(cells) if cells else np.zeros(0, np.int64)
    matrix = sparse.csr_array((np.ones(len(indices)), indices, ends), shape=(len(cells), grid[0] * grid[1]))
    return Regions(matrix, grid, np.array(classes, np.int64), np.array(numbers, np.int64))
