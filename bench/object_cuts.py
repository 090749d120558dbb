"""One object a photo, by four cuts on the same tokens: mean IoU with the salient object over ECSSD; nothing is trained.

    python bench/object_cuts.py [--data FOLDER] [--every 3] [--pixels 448]

FOLDER holds images/<id>.jpg and masks/<id>.png (above half of the range = object). Protocol as in bench/ecssd.py: photo
squeezed to a square, embedded ViT-S/14 keys less their bias, the methods' defaults, mask to the size of the label by
nearest neighbour without refinement, IoU of each image at native size, mean over images. An image without a mask has
IoU 0. `product` is the published ranking of MaskDistill, first 5 of 6 heads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _photos import WEIGHTS, data_folder

from maskmill.cut import attention, ncut, spectral
from maskmill.masks import to_size
from maskmill.progress import track


def objects(tokens: np.ndarray, query: np.ndarray, image_id: str) -> dict[str, tuple[np.ndarray, float]]:
    """Mask and confidence of every cut, of tokens [h, w, d] and the query [heads, d_head]."""
    product = attention.Params(scores="product", heads=5)
    found = {
        "ncut": ncut.cut(tokens, ncut.Params(), 0, image_id),
        "spectral, mode fiedler": spectral.cut(tokens, spectral.Params(mode="fiedler"), 0, image_id),
        "attention": attention.cut(tokens, attention.Params(), 0, image_id, query),
        "attention, scores product": attention.cut(tokens, product, 0, image_id, query),
    }
    return {name: (segments > 0, float(diagnostics["confidence"])) for name, (segments, diagnostics) in found.items()}


def main() -> None:
    """Print one line a method."""
    import torch
    from PIL import Image
    from scipy.stats import spearmanr

    from maskmill.backbones import load
    from maskmill.config import FeatureSet
    from maskmill.images import decode, resize
    from maskmill.weights import prepare

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder("ecssd"))
    parser.add_argument("--every", type=int, default=1, help="only every n-th photo")
    parser.add_argument("--pixels", type=int, default=448)
    options = parser.parse_args()
    if options.data is None:
        print("ECSSD is not here: give --data FOLDER or set MASKMILL_DATA")
        return
    torch.set_num_threads(1)
    chosen = FeatureSet(backbone="vit_small_focus", facet="key", size={"square": options.pixels})
    if not WEIGHTS.is_file():
        prepare(chosen, WEIGHTS)
    backbone = load(WEIGHTS, chosen, torch.device("cpu"))
    photos = sorted((options.data / "images").iterdir())[:: options.every]
    rows: dict[str, list[tuple[float, float]]] = {}
    for path in track(photos, len(photos), "objects"):
        pixels = torch.from_numpy(resize(decode(path), (options.pixels, options.pixels)))[None]
        tokens, _, query = backbone.outputs(pixels)
        label = np.asarray(Image.open(options.data / "masks" / f"{path.stem}.png").convert("L"))
        truth = label > label.max() / 2
        by_head = query[0].reshape(backbone.heads, -1).numpy()
        for name, (mask, confidence) in objects(tokens[0].numpy(), by_head, path.stem).items():
            found = to_size(mask.astype(np.uint8), truth.shape).astype(bool)
            iou = float((found & truth).sum() / max(1, (found | truth).sum()))
            rows.setdefault(name, []).append((iou, confidence))
    print(f"{len(photos)} photos, {options.pixels} px")
    print("| cut | mean IoU | median | rank correlation of confidence and IoU | IoU < 0.1 |\n|---|---|---|---|---|")
    for name, pairs in rows.items():
        iou, confidence = np.array(pairs).T
        cells = [f"{iou.mean():.3f}", f"{np.median(iou):.3f}", f"{spearmanr(confidence, iou)[0]:.2f}"]
        print("| " + " | ".join([name, *cells, f"{(iou < 0.1).sum()}"]) + " |")


if __name__ == "__main__":
    main()
