"""Do masks break along the seams of windows, and what mends it? Prints the table of docs/inputs.md.

    python bench/seams.py [--images FOLDER] [--backbone vit_small_focus] [--facet key] [--window 448] [--clusters 8]

A mosaic of photos is cut into windows twice; the second grid is shifted by half a stride (a whole number of patches).
Where a seam of one grid runs, the other grid looks at the middle of a window: a seam that shows is a place where both
masks differ. "Seam" is the share of mask cells that differ within one token of a seam of one grid (and two tokens away
from those of the other), "inside" that of the cells two tokens away from all seams. Their ratio is 1 where windows
leave no trace. Cells within two tokens of the border of either grid's area are left out, for they have no neighbour.
Three ways to use an overlap are compared, all with the clusters of the first grid's cores (spherical k-means):

* core: every window is painted by itself, and only its core is kept (what the workflow does);
* features: tokens of all windows that see a place are averaged before they are scored, those in the middle of their
  window counting more;
* scores: their scores are averaged in the same way, before the best one wins.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _photos import ROOT, data_folder

from maskmill.images.decode import decode
from maskmill.images.interpolate import best_scores
from maskmill.images.view import View
from maskmill.images.windows import core_in_whole, cuts, grid
from maskmill.store import codebook as books

CELLS = 4  # mask cells a token side
MIDDLE = 2  # tokens from a seam where "inside" begins


@dataclass(frozen=True)
class Case:
    """One cut of the mosaic: in tokens, all of them. origin: where the cut area starts."""

    whole: tuple[int, int]
    size: int
    overlap: int
    origin: int

    def views(self) -> Iterator[View]:
        for box in grid(self.whole, self.size, self.overlap):
            yield View(window=box, whole=self.whole, overlap=self.overlap)


def mosaic(paths: list[Path], side: int) -> np.ndarray:
    """uint8 [side, side, 3]: photos as they are, one beside the other, rows as high as their lowest photo."""
    rows, files = [], iter(paths)
    while sum(len(row) for row in rows) < side:
        row: list[np.ndarray] = []
        while sum(photo.shape[1] for photo in row) < side:
            row.append(decode(next(files)))
        height = min(len(photo) for photo in row)
        rows.append(np.concatenate([photo[:height] for photo in row], axis=1)[:, :side])
    return np.concatenate(rows)[:side]


def tokens_of(backbone, pixels: np.ndarray, case: Case) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    """Tokens float32 [size, size, d] of every window."""
    import torch

    found, patch = [], backbone.stride
    for view in case.views():
        top, left, height, width = (patch * n for n in view.window or ())
        shift = patch * case.origin
        part = pixels[shift + top : shift + top + height, shift + left : shift + left + width]
        found.append(backbone.forward(torch.from_numpy(part.copy())[None])[0][0].numpy())
    return found


def painted(windows: list[np.ndarray], case: Case, book: books.Codebook) -> np.ndarray:
    """Cells [H * CELLS, W * CELLS] of the cores of windows that were each painted by themselves."""
    out = np.zeros(tuple(CELLS * n for n in case.whole), np.int64)
    for view, tokens in zip(case.views(), windows, strict=True):
        top, left = (CELLS * n for n in (view.window or ())[:2])
        cells = best_scores(_maps(scored(tokens, book)), (CELLS * tokens.shape[0], CELLS * tokens.shape[1]))
        y, x, h, w = (CELLS * n for n in core_in_whole(view))
        out[y : y + h, x : x + w] = cells[y - top : y - top + h, x - left : x - left + w]
    return out


def blended(windows: list[np.ndarray], case: Case) -> np.ndarray:
    """Values [H, W, d] of the whole: means over the windows, weighed by the distance to the window's border."""
    total = np.zeros((*case.whole, windows[0].shape[-1]), np.float32)
    weight = np.zeros((*case.whole, 1), np.float32)
    for view, values in zip(case.views(), windows, strict=True):
        top, left, h, w = view.window or ()
        ramp = [np.minimum(np.arange(n) + 0.5, n - 0.5 - np.arange(n)) for n in (h, w)]
        ramp = [np.minimum(r / max(case.overlap, 0.5), 1.0) for r in ramp]
        own = (ramp[0][:, None] * ramp[1])[..., None].astype(np.float32)
        total[top : top + h, left : left + w] += own * values
        weight[top : top + h, left : left + w] += own
    return total / weight


def scored(tokens: np.ndarray, book: books.Codebook) -> np.ndarray:
    """Scores [h, w, k] of tokens [h, w, d]."""
    return books.scores(tokens.reshape(-1, tokens.shape[-1]), book).reshape(*tokens.shape[:2], -1)


def _maps(scores: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(scores, 2, 0))


def whole(scores: np.ndarray) -> np.ndarray:
    """Cells of scores [H, W, k] of the whole mosaic."""
    return best_scores(_maps(scores), (CELLS * scores.shape[0], CELLS * scores.shape[1]))


def distances(case: Case, side: int) -> np.ndarray:
    """Of each cell along a side of the mosaic: tokens to the nearest seam; both sides have the same seams."""
    at = (np.arange(side * CELLS) + 0.5) / CELLS
    seams = [case.origin + n for n in cuts(case.whole[0], case.size, case.overlap)]
    return np.abs(at[:, None] - np.array(seams)).min(axis=1)


def compare(a: np.ndarray, b: np.ndarray, cases: tuple[Case, Case], side: int) -> tuple[float, float]:
    """Share of cells that differ along seams and inside; `b` covers the mosaic from its case's origin on."""
    shift = cases[1].origin * CELLS
    differ = np.zeros(a.shape, bool)
    differ[shift:, shift:] = a[shift:, shift:] != b
    counted = np.zeros(side * CELLS, bool)
    counted[shift + MIDDLE * CELLS : (side - MIDDLE) * CELLS] = True
    near, away = [], []
    for case in cases:
        along = distances(case, side)
        near.append((along[:, None] < 1) | (along < 1))
        away.append((along[:, None] > MIDDLE) & (along > MIDDLE))
    inside = away[0] & away[1]
    seam = (near[0] & away[1]) | (near[1] & away[0])
    both = counted[:, None] & counted
    return float(differ[seam & both].mean()), float(differ[inside & both].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--backbone", default="vit_small_focus")
    parser.add_argument("--facet", default="key")
    parser.add_argument("--window", type=int, default=448)
    parser.add_argument("--side", type=int, default=2016)
    parser.add_argument("--clusters", type=int, nargs="+", default=[8, 27])
    parser.add_argument("--shares", type=int, nargs="+", default=[0, 8, 4], help="overlaps: 8 is an eighth, 0 is none")
    args = parser.parse_args()
    import torch

    from maskmill.backbones.network import load
    from maskmill.backbones.weights import prepare
    from maskmill.numerics.kmeans import fit
    from maskmill.numerics.kmeans_settings import Settings
    from maskmill.recipe.feature_set import FeatureSet

    torch.set_num_threads(1)
    folder = args.images or data_folder("voc_animals")
    if folder is None:
        raise SystemExit("no photos: give --images, or MASKMILL_DATA")
    folder = folder / "images" if (folder / "images").is_dir() else folder
    pixels = mosaic(sorted(folder.glob("*.jpg")) or sorted(folder.glob("*.png")), args.side)
    chosen = FeatureSet(backbone=args.backbone, facet=args.facet, size={"square": args.window})
    weights = ROOT / f"resources/weights/{chosen.weights_slug}.safetensors"
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        prepare(chosen, weights)
    backbone = load(weights, chosen, torch.device("cpu"))
    side, size = args.side // backbone.stride, args.window // backbone.stride
    print(
        f"{args.backbone} {args.facet}, window {args.window}, mosaic {args.side} x {args.side} of {folder.parent.name}"
    )
    print("| clusters | overlap | way | differs along seams | inside | ratio |\n|---|---|---|---|---|---|", flush=True)
    for share in args.shares:
        overlap = size // share if share else 0
        shift = (size - overlap) // 2
        cases = Case((side, side), size, overlap, 0), Case((side - shift, side - shift), size, overlap, shift)
        seen = [tokens_of(backbone, pixels, case) for case in cases]
        for clusters in args.clusters:
            own = [
                tokens[y - t : y - t + h, x - left : x - left + w].reshape(-1, tokens.shape[-1])
                for (t, left, _, _), (y, x, h, w), tokens in (
                    (view.window, core_in_whole(view), tokens)
                    for view, tokens in zip(cases[0].views(), seen[0], strict=True)
                    if view.window
                )
            ]
            book, _ = fit(np.concatenate(own), Settings(clusters=clusters), 0, "cpu")
            ways = {
                "core": [painted(s, case, book) for s, case in zip(seen, cases, strict=True)],
                "features": [whole(scored(blended(s, case), book)) for s, case in zip(seen, cases, strict=True)],
                "scores": [
                    whole(blended([scored(tokens, book) for tokens in s], case))
                    for s, case in zip(seen, cases, strict=True)
                ],
            }
            for way, (a, b) in ways.items():
                along, inside = compare(a, b, cases, side)
                print(
                    f"| {clusters} | 1/{share} | {way} | {along:.4f} | {inside:.4f} | {along / inside:.2f} |".replace(
                        "1/0", "0"
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
