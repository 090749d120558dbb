"""The same place in two crops: where crops of a photo overlap, and maps read within a box (RoIAlign)."""

from __future__ import annotations

import torch

from maskmill.device import float32


def overlap(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The intersection of boxes [n, 4] (y0, y1, x0, x1) with others, in the same coordinates; empty where y1 <= y0."""
    low = torch.maximum(boxes[:, ::2], others[:, ::2])
    high = torch.minimum(boxes[:, 1::2], others[:, 1::2])
    return torch.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1)


def within(boxes: torch.Tensor, crops: torch.Tensor, flips: torch.Tensor | None = None) -> torch.Tensor:
    """Boxes [n, 4] of a photo in the coordinates of crops [n, 4] of it, as shares of the crop's sides.

    Args:
        flips: bool [n], crops that were mirrored after they were cut: there the box is mirrored too.
    """
    origin, size = crops[:, [0, 0, 2, 2]], (crops[:, 1::2] - crops[:, ::2])[:, [0, 0, 1, 1]]
    found = (boxes - origin) / size
    if flips is None:
        return found
    mirrored = torch.stack([found[:, 0], found[:, 1], 1 - found[:, 3], 1 - found[:, 2]], 1)
    return torch.where(flips[:, None], mirrored, found)


def roi_align(
    maps: torch.Tensor, boxes: torch.Tensor, size: int, *, aligned: bool = True, samples: int = 0
) -> torch.Tensor:
    """The means of maps over the cells of a grid that is laid over a box: RoIAlign, in torchvision's arithmetic.

    A box is a product of two intervals, and so are bilinear interpolation and the mean over the points of a cell: each
    map is multiplied by one matrix for its rows and by one for its columns. Gradients reach the maps.

    Args:
        maps: [n, c, h, w]. boxes: [n, 4] (y0, y1, x0, x1) as shares of the map's sides, one a map.
        size: cells a side. aligned: a pixel's centre lies at half a pixel (Mask R-CNN's later convention); else boxes
            have at least one pixel a side, as in the first one.
        samples: points a cell and side; 0: as many as there are pixels, rounded up.

    Returns:
        [n, c, size, size], float32 also under autocast.
    """
    h, w = maps.shape[2:]
    boxes = boxes.to(maps.device)
    rows = _interval(boxes[:, 0] * h, boxes[:, 1] * h, size, h, aligned, samples)
    columns = _interval(boxes[:, 2] * w, boxes[:, 3] * w, size, w, aligned, samples)
    maps = maps if maps.dtype == torch.float64 else maps.float()
    with float32(maps.device):
        return torch.einsum("nah,nchw,nbw->ncab", rows.to(maps.dtype), maps, columns.to(maps.dtype))


def _interval(
    start: torch.Tensor, end: torch.Tensor, size: int, length: int, aligned: bool, samples: int
) -> torch.Tensor:
    """Weights [n, size, length] of the pixels of a line in the means over the cells of intervals."""
    start, end = start.double(), end.double()
    offset = 0.5 if aligned else 0.0
    low, extent = start - offset, end - start
    if not aligned:
        extent = extent.clamp_min(1.0)
    step = extent / size  # [n]
    counts = torch.full_like(step, samples) if samples else step.ceil().clamp_min(1)
    most = int(counts.max()) if len(counts) else 1
    order = torch.arange(most, device=start.device, dtype=torch.float64)
    cells = torch.arange(size, device=start.device, dtype=torch.float64)
    inner = (order + 0.5) / counts[:, None]  # [n, most], share of a cell
    points = low[:, None, None] + step[:, None, None] * (cells[None, :, None] + inner[:, None, :])
    counted = (order < counts[:, None])[:, None, :] & (points >= -1) & (points <= length)  # outside: nothing
    points = points.clamp(0, length - 1)
    pixels = torch.arange(length, device=start.device, dtype=torch.float64)
    # Bilinear weights as a hat over the pixels: no addition to places, whose order would differ between runs on CUDA.
    hats = (1 - (points[..., None] - pixels).abs()).clamp_min(0) * counted[..., None]  # [n, size, most, length]
    return (hats.sum(2) / counts[:, None, None]).float()
