"""How good is the ncut proposal on its own? Mean IoU with the salient object over ECSSD; nothing is trained.

    python bench/ecssd.py [--data FOLDER] [--csv FILE] [--pixels 448] [--side peak|border]

FOLDER holds images/<id>.jpg and masks/<id>.png (above half of the range = object). Protocol: photo squeezed to a
square, embedded ViT-S/14 keys less their bias, TokenCut with its published tau and eps, mask to the size of the label
by nearest neighbour without refinement, IoU of each image at native size, mean over images.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from _photos import data_folder, photo_tokens

from maskmill.cut import ncut
from maskmill.images.masks import to_size
from maskmill.progress import track


def scores(photos: list[Path], labels: Path, pixels: int, params: ncut.Params) -> Iterator[dict[str, float | str]]:
    """IoU and diagnostics of each photo."""
    from PIL import Image

    for path, tokens in zip(photos, photo_tokens(photos, pixels), strict=True):
        label = np.asarray(Image.open(labels / f"{path.stem}.png").convert("L"))
        truth = label > label.max() / 2
        segments, diagnostics = ncut.cut(tokens, params, 0, path.stem)
        found = to_size(segments, truth.shape).astype(bool)
        iou = float((found & truth).sum() / max(1, (found | truth).sum()))
        yield {"id": path.stem, "iou": iou, **diagnostics}


def main() -> None:
    """Print the summary; write one row an image on request."""
    import torch
    from scipy.stats import spearmanr

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder("ecssd"))
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--pixels", type=int, default=448)
    parser.add_argument("--side", choices=["peak", "border"], default="peak")
    options = parser.parse_args()
    if options.data is None:
        print("ECSSD is not here: give --data FOLDER or set MASKMILL_DATA")
        return
    torch.set_num_threads(1)
    photos = sorted((options.data / "images").iterdir())
    rows = list(
        track(
            scores(photos, options.data / "masks", options.pixels, ncut.Params(side=options.side)), len(photos), "ecssd"
        )
    )
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    iou = np.array([row["iou"] for row in rows], float)
    confidence = np.array([row["confidence"] for row in rows], float)
    sure = confidence >= np.median(confidence)
    print(f"{len(rows)} images, {options.pixels} px, side {options.side}")
    print(f"mean IoU {iou.mean():.4f}, median {np.median(iou):.4f}")
    print(f"mean IoU of the surer half {iou[sure].mean():.4f}, of the other half {iou[~sure].mean():.4f}")
    print(f"rank correlation of confidence with IoU {spearmanr(confidence, iou)[0]:.3f}")
    print(f"{(iou < 0.1).sum()} images with IoU below 0.1")


if __name__ == "__main__":
    main()
