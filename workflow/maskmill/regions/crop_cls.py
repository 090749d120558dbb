"""One vector a segment: the cls output of the backbone on the segment's crop of the original photo.

Sources: Deep Spectral Methods (Melas-Kyriazi et al., CVPR 2022): `erode: 2, dilate: 5`, native crops. MaskDistill
(Van Gansbeke et al., 2022): the plain box, native. COMUS (Zadaianchuk et al., ICLR 2023): the plain box as a square.
`mask: mean` is the foreground variant of R-CNN (Girshick et al., CVPR 2014, section 5): pixels outside the segment
become the network's mean input, which is zero after its normalisation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field

from maskmill.images.decode import resize, target_size
from maskmill.recipe.base import Model
from maskmill.recipe.feature_set import Size
from maskmill.regions import Traits

if TYPE_CHECKING:
    import torch

TRAITS = Traits(photos=True)
ROUNDING = 1e-6  # of a pixel: edges closer to a pixel's edge lie on it


def _side(value: Any) -> Any:
    """`size: native` is the default written out, `size: 224` a square."""
    if value == "native":
        return None
    if isinstance(value, str):
        raise ValueError("give native, the side of a square, or {short_side: ...} or {long_side: ...}")
    return {"square": value} if isinstance(value, int) else value


class Params(Model):
    """Parameters of crop pooling. The defaults are the plain box at the photo's own resolution (MaskDistill)."""

    erode: int = Field(0, ge=0, le=64, description="erosions of the segment by a cross, in cells (DSM: 2)")
    dilate: int = Field(0, ge=0, le=64, description="then dilations by a cross, in cells (DSM: 5)")
    margin: float = Field(0.0, ge=0, le=4, description="share of the box's side added at each of its ends")
    size: Annotated[
        Size | None, BeforeValidator(_side, json_schema_input_type=Size | int | Literal["native"] | None)
    ] = Field(None, description="of the crop: native (not resized, whole patches), a square side, or {long_side: 224}")
    longest: int = Field(1024, ge=16, le=8192, description="native crops with a longer side are reduced to this one")
    mask: Literal["none", "mean"] = Field("none", description="mean: outside the segment the network's mean input")


def vectors(tokens: torch.Tensor, cls: torch.Tensor, inside: np.ndarray | None) -> np.ndarray:
    """The cls outputs [b, d] of b crops."""
    return np.asarray(cls.cpu().numpy())


class Crop(NamedTuple):
    """Pixels [y0:y1, x0:x1] of a photo, and the size (H, W) at which the backbone sees them."""

    y0: int
    y1: int
    x0: int
    x1: int
    size: tuple[int, int]


def cut_crops(
    photo: np.ndarray,
    segments: np.ndarray,
    ids: np.ndarray,
    multiple: int,
    params: Params,
    fill: np.ndarray,
    masked: bool = False,
) -> list[np.ndarray]:
    """The crop of every segment as the backbone sees it, uint8 [H, W, 3] each.

    Args:
        photo: uint8 RGB. segments: [h, w] integer, over the whole photo. ids: [r] of the segments to crop.
        multiple: sides of the backbone's input are whole multiples of it.
        fill: [3] uint8, the colour outside the segment with `mask: mean`.
        masked: a fourth channel says where the segment (as it was cut) is: 255, else 0.
    """
    crops = []
    for region in ids:
        mask = open_mask(segments == region, params.erode, params.dilate)
        y0, y1, x0, x1, size = crop = plan_crop(mask, photo.shape[:2], multiple, params)
        pixels = photo[y0:y1, x0:x1]
        if params.mask == "mean":
            inside = _inside(mask, photo.shape[:2], crop)
            pixels = np.where(inside[..., None], pixels, fill) if inside.any() else pixels
        seen = resize(np.ascontiguousarray(pixels), size)
        if masked:
            inside = _inside(segments == region, photo.shape[:2], crop, size)
            seen = np.concatenate([seen, np.where(inside, 255, 0).astype(np.uint8)[..., None]], axis=2)
        crops.append(seen)
    return crops


def open_mask(mask: np.ndarray, erode: int, dilate: int) -> np.ndarray:
    """A mask [h, w] eroded, then dilated, by crosses of 3 x 3 cells; an erosion that would empty it is left out.

    Beyond the image everything counts as mask for erosion and as background for dilation, so a segment on the image's
    border does not lose that side.
    """
    from scipy import ndimage

    for _ in range(erode):
        smaller = ndimage.binary_erosion(mask, border_value=1)  # scipy's default structure is the cross
        if not smaller.any():
            break
        mask = smaller
    return ndimage.binary_dilation(mask, iterations=dilate) if dilate else mask


def plan_crop(mask: np.ndarray, photo: tuple[int, ...], multiple: int, params: Params) -> Crop:
    """Where the crop of a non-empty mask [h, w] lies on a photo of (H, W) pixels.

    The tight box, `margin` added and cut at the photo's edges, then every pixel that it touches. A native crop grows
    around its centre to whole patches (multiples of `multiple`) with what surrounds it, so that no pixel is resampled
    and a crop smaller than a patch becomes one patch; at the photo's edge it moves inwards. Where a side of the photo
    leaves no room for that, the crop loses the rest of less than a patch; a photo smaller than a patch is enlarged.
    """
    y0, y1 = _span(np.flatnonzero(mask.any(axis=1)), mask.shape[0], photo[0], params.margin)
    x0, x1 = _span(np.flatnonzero(mask.any(axis=0)), mask.shape[1], photo[1], params.margin)
    if params.size is not None or max(y1 - y0, x1 - x0) > params.longest:
        rule = params.size or Size(long_side=params.longest)
        return Crop(y0, y1, x0, x1, target_size(y1 - y0, x1 - x0, rule, multiple))
    y0, y1 = _whole_patches(y0, y1, photo[0], multiple)
    x0, x1 = _whole_patches(x0, x1, photo[1], multiple)
    return Crop(y0, y1, x0, x1, (max(y1 - y0, multiple), max(x1 - x0, multiple)))


def _span(found: np.ndarray, cells: int, pixels: int, margin: float) -> tuple[int, int]:
    """Pixels of an axis of `pixels` pixels and `cells` cells that the cells `found`, ascending, span with margins."""
    first, last = int(found[0]), int(found[-1]) + 1
    spare = margin * (last - first)
    low, high = max(first - spare, 0) * pixels / cells, min(last + spare, cells) * pixels / cells
    return math.floor(low + ROUNDING), math.ceil(high - ROUNDING)


def _whole_patches(low: int, high: int, side: int, patch: int) -> tuple[int, int]:
    """The span grown to whole patches within 0..side; all of a side that is smaller than a patch."""
    length = min(-(-(high - low) // patch), side // patch) * patch
    if length == 0:
        return 0, side
    start = min(max(low - (length - (high - low)) // 2, 0), side - length)
    return start, start + length


def _inside(mask: np.ndarray, photo: tuple[int, ...], crop: Crop, size: tuple[int, int] | None = None) -> np.ndarray:
    """Whether the centre of each pixel of the crop lies in a true cell of the mask [h, w].

    bool [y1 - y0, x1 - x0], or of `size`, the crop resized.
    """
    (h, w), (tall, wide) = mask.shape, photo[:2]
    size = size or (crop.y1 - crop.y0, crop.x1 - crop.x0)
    rows = ((crop.y0 + (np.arange(size[0]) + 0.5) * (crop.y1 - crop.y0) / size[0]) * h / tall).astype(np.int64)
    columns = ((crop.x0 + (np.arange(size[1]) + 0.5) * (crop.x1 - crop.x0) / size[1]) * w / wide).astype(np.int64)
    return mask[rows[:, None], columns[None]]
