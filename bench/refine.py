"""Refinement: against pydensecrf, and what it does to object proposals. One process, one thread, CPU seconds.

    python bench/refine.py [--photos 12] [--proposals 60] [--data FOLDER]

FOLDER (ECSSD) holds images/<id>.jpg and masks/<id>.png.

Part 1 gives the same unary term to both: the true mask as 37x37 tokens would see it (two classes), or cosines of ViT
tokens with k-means centres of their own (27 and 21 classes, STEGO's parameters). IoU (two classes) and share of equal
pixels are of the label maps. Without pydensecrf (`pip install pydensecrf2`, needs a C++ compiler) an all-pairs mean
field in NumPy at 64x64 is the yardstick. Part 2 is the mean IoU of TokenCut proposals with the salient object before
and after each refiner, and the seconds an image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _photos import data_folder, photo_tokens

from maskmill.cut import ncut
from maskmill.images.decode import decode, resize
from maskmill.images.interpolate import resize_labels, resize_maps
from maskmill.images.masks import to_size
from maskmill.recipe.sections import Refine
from maskmill.refine import crf, refine_segments

CUTLER = crf.Params(side=0)
STEGO = crf.Params(xy_std=67, rgb_std=3, compat=4, xy_std_smooth=1, compat_smooth=3, side=0)
SIDE = 448  # of the photos that the backbone sees


def peer() -> tuple[str, Callable[..., np.ndarray]]:
    """Name and function (logits, image, params) -> probabilities of the yardstick."""
    try:
        from pydensecrf import densecrf
    except ImportError:
        return "all pairs in NumPy", all_pairs

    def run(logits: np.ndarray, image: np.ndarray, p: crf.Params) -> np.ndarray:
        classes, height, width = logits.shape
        model = densecrf.DenseCRF2D(width, height, classes)
        energy = -np.log(softmax(logits.reshape(classes, -1)))
        model.setUnaryEnergy(np.ascontiguousarray(energy, np.float32))
        model.addPairwiseGaussian(sxy=p.xy_std_smooth, compat=p.compat_smooth)
        model.addPairwiseBilateral(sxy=p.xy_std, srgb=p.rgb_std, rgbim=image, compat=p.compat)
        return np.array(model.inference(p.iterations)).reshape(logits.shape)

    return "pydensecrf2", run


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the first axis."""
    e = np.exp(logits - logits.max(0))
    return e / e.sum(0)


def all_pairs(logits: np.ndarray, image: np.ndarray, p: crf.Params) -> np.ndarray:
    """The mean field without any approximation; n x n memory."""
    classes, height, width = logits.shape
    y, x = (axis.ravel().astype(np.float32) for axis in np.mgrid[:height, :width])
    near = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / 2
    colour = image.reshape(-1, 3).astype(np.float32)
    far = near / p.xy_std**2 + sum((colour[:, c, None] - colour[:, c]) ** 2 for c in range(3)) / (2 * p.rgb_std**2)
    kernels = [np.exp(-near / p.xy_std_smooth**2), np.exp(-far)]
    norms = [1 / np.sqrt(kernel.sum(1)) for kernel in kernels]
    unary = logits.reshape(classes, -1)
    q = softmax(unary)
    for _ in range(p.iterations):
        told = [norm * ((q * norm) @ kernel) for kernel, norm in zip(kernels, norms, strict=True)]
        q = softmax(unary + p.compat_smooth * told[0] + p.compat * told[1])
    return q.reshape(logits.shape)


def timed(function: Callable[..., np.ndarray], *args: object) -> tuple[np.ndarray, float]:
    """Result and CPU seconds."""
    start = time.process_time()
    result = function(*args)
    return result, time.process_time() - start


def compare(title: str, problems: list[tuple[np.ndarray, np.ndarray]], params: crf.Params) -> None:
    """One line: seconds of both, their ratio, agreement."""
    _, other = peer()
    rows = []
    for logits, image in problems:
        theirs, slow = timed(other, logits, image, params)
        ours, fast = timed(crf.refine, logits, image, params)
        a, b = theirs.argmax(0), ours.argmax(0)
        same = (a & b).sum() / max(1, (a | b).sum()) if len(logits) == 2 else (a == b).mean()
        rows.append((slow, fast, slow / fast, same, len(np.unique(a))))
    slow, fast, ratio, same, alive = np.array(rows).T
    print(
        f"| {title} | {np.median(slow):.3f} / {np.median(fast):.3f} | {np.median(ratio):.1f} "
        f"({ratio.min():.1f}..{ratio.max():.1f}) | {np.median(same):.3f} / {same.min():.3f} | {np.median(alive):.0f} |"
    )


def centres_of(tokens: list[np.ndarray], classes: int) -> np.ndarray:
    """Unit k-means centres [k, d] of a tenth of the unit tokens."""
    from sklearn.cluster import KMeans

    sample = np.concatenate([t.reshape(-1, t.shape[2])[::10] for t in tokens])
    centres = KMeans(classes, n_init=1, random_state=0).fit(sample).cluster_centers_
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def against_the_peer(folder: Path, photos: list[Path], tokens: list[np.ndarray]) -> None:
    """Part 1."""
    name, _ = peer()
    small = name != "pydensecrf2"
    print(f"yardstick: {name}")
    print("| problem | CPU s, theirs / ours | ratio (range) | agreement, median / worst | labels left |")
    print("|---|---|---|---|---|")
    side = 64 if small else 480
    images = [decode(path) for path in photos]
    two = []
    for path, image in zip(photos, images, strict=True):
        mask = resize_maps(resize_maps(truth(folder, path)[None].astype(np.float32), (37, 37)).round(), (side, side))[0]
        two.append((np.stack([1 - mask, mask]), resize(image, (side, side))))
    crf.refine(*two[0], CUTLER)  # compiles
    compare(f"2 classes, {side}x{side}, CutLER", two, CUTLER)
    unit = [t / np.linalg.norm(t, axis=2, keepdims=True) for t in tokens]
    for classes, size in ((27, (320, 320)), (21, (375, 500))):
        size = (64, 64) if small else size
        centres = centres_of(unit, classes)
        many = [
            (resize_maps(2 * np.einsum("hwd,kd->khw", t, centres), size), resize(image, size))
            for t, image in zip(unit, images, strict=True)
        ]
        crf.refine(*many[0], STEGO)
        compare(f"{classes} classes, {size[1]}x{size[0]}, STEGO", many, STEGO)


def truth(folder: Path, photo: Path) -> np.ndarray:
    """The salient object bool [H, W]."""
    from PIL import Image

    label = np.asarray(Image.open(folder / "masks" / f"{photo.stem}.png").convert("L"))
    return label > label.max() / 2


def proposals(folder: Path, photos: list[Path], tokens: list[np.ndarray], cells: int) -> None:
    """Part 2."""
    for side in ("peak", "border"):
        cuts = [ncut.cut(t, ncut.Params(side=side), 0, p.stem)[0] for p, t in zip(photos, tokens, strict=True)]
        for title, section in {
            "none": {},
            "crf (CutLER)": {"method": "crf"},
            "crf (STEGO)": {"method": "crf", "side": 320, **STEGO.model_dump(exclude={"side", "iterations"})},
            "guided": {"method": "guided"},
            "bilateral": {"method": "bilateral"},
        }.items():
            settings, ious, start, kept = Refine(**section), [], time.process_time(), 0
            for path, cut in zip(photos, cuts, strict=True):
                size = (cut.shape[0] * cells, cut.shape[1] * cells)
                if settings.method == "none":
                    mask = resize_labels(cut, size)
                else:
                    mask, unrefined = refine_segments(cut, resize(decode(path), size), settings)
                    kept += unrefined
                wanted = truth(folder, path)
                found = to_size(mask, wanted.shape) > 0
                ious.append((found & wanted).sum() / max(1, (found | wanted).sum()))
            seconds = (time.process_time() - start) / len(photos)
            print(f"| {side} | {title} | {np.mean(ious):.4f} | {np.median(ious):.4f} | {seconds:.3f} | {kept} |")


def main() -> None:
    """Print both tables."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder("ecssd"))
    parser.add_argument("--photos", type=int, default=12, help="of part 1")
    parser.add_argument("--proposals", type=int, default=60, help="photos of part 2")
    parser.add_argument("--cells", type=int, default=8, help="cells a token side in part 2")
    options = parser.parse_args()
    if options.data is None:
        print("ECSSD is not here: give --data FOLDER or set MASKMILL_DATA")
        return
    torch.set_num_threads(1)
    photos = sorted((options.data / "images").iterdir())
    photos = photos[:: max(1, len(photos) // options.proposals)][: options.proposals]
    tokens = list(photo_tokens(photos, SIDE))
    step = max(1, len(photos) // options.photos)
    against_the_peer(options.data, photos[::step][: options.photos], tokens[::step][: options.photos])
    print(f"\n{len(photos)} ECSSD photos, {options.cells} cells a token side")
    print("| side | refine | mean IoU | median | CPU s an image, photo and score included | kept as they were |")
    print("|---|---|---|---|---|---|")
    proposals(options.data, photos, tokens, options.cells)


if __name__ == "__main__":
    main()
