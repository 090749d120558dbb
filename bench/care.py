"""What debias, concat and upsample change: clusterings of the same frames with and without, scored with labels.

    python bench/care.py [--sets camvid,coco200] [--every 2] [--seeds 0,1,2] [--cache FOLDER]

Tokens of efficientnet_lite0 (stride 32, short side 448) and of vit_small_focus on the same grid (the photo is resized
for its patches) are computed once and kept; what is made of them is made by the package's own functions. Prints a
Markdown table: mIoU / accuracy, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _photos import data_folder
from torch.nn.functional import normalize

from maskmill.backbones._debias import subspace
from maskmill.backbones._upsample import upsampled
from maskmill.backbones.network import load
from maskmill.backbones.weights import prepare
from maskmill.cluster import kmeans, leiden
from maskmill.evaluate.tally import Tally
from maskmill.images.decode import decode, load_label, resize, target_size
from maskmill.painting.tokens import paint_tokens
from maskmill.recipe.feature_set import FeatureSet, Size, Upsample
from maskmill.recipe.scoring import Evaluate
from maskmill.recipe.sections import Refine
from maskmill.reduce import pca

SIDE, CELL = 448, 32  # short side of a photo, and pixels of it a token
SETS = {"camvid": [*range(11)], "voc_animals": [0, 8, 10, 12, 13, 15, 17], "coco200": [*range(27)]}
PARTS = {"e": "efficientnet_lite0", "v": "vit_small_focus"}
POINTS = 20_000  # tokens that a clustering is fitted on


class Frames:
    """Every so many photo of a set: tokens of a backbone on one grid, and labels."""

    def __init__(self, name: str, every: int, cache: Path) -> None:
        folder = data_folder(name)
        if folder is None:
            raise SystemExit(f"{name}: no labelled set; set MASKMILL_DATA to the folder of the sets")
        self.name, self.every, self.cache, self.folder = name, every, cache, folder
        self.photos = sorted((folder / "images").iterdir())[::every]
        self.seconds: dict[str, float] = {}

    def sized(self, photo: Path, multiple: int) -> np.ndarray:
        """The photo uint8 [h * multiple, w * multiple, 3] of the common grid (h, w)."""
        image = decode(photo)
        height, width = target_size(image.shape[0], image.shape[1], Size(short_side=SIDE), CELL)
        return resize(image, (height // CELL * multiple, width // CELL * multiple))

    def tokens(self, part: str, debias: bool = False) -> list[torch.Tensor]:
        """Tokens [h, w, d] of every photo; with `debias` of length 1 without the positional subspace."""
        stored = self.cache / f"{self.name}-{part}{self.every}.npz"
        network = None if stored.is_file() and not debias else _network(PARTS[part], self.cache)
        if not stored.is_file():
            assert network is not None
            began, found = time.process_time(), []
            for photo in self.photos:
                found.append(network.forward(torch.from_numpy(self.sized(photo, network.multiple).copy())[None])[0][0])
            spent = (time.process_time() - began) / len(found)
            flat = np.concatenate([each.reshape(-1, each.shape[-1]).numpy() for each in found]).astype(np.float16)
            np.savez(stored, v=flat, g=np.array([each.shape[:2] for each in found]), cpu=spent)
        body = np.load(stored)
        self.seconds[part] = float(body["cpu"])
        ends = np.cumsum(body["g"].prod(1))[:-1]
        maps = [
            torch.from_numpy(rows.astype(np.float32)).view(int(h), int(w), -1)
            for rows, (h, w) in zip(np.split(body["v"], ends), body["g"], strict=True)
        ]
        if not debias:
            return maps
        assert network is not None
        side = SIDE // CELL * network.multiple
        black = network.forward(torch.zeros(1, side, side, 3, dtype=torch.uint8))[0]
        basis = subspace(black.reshape(-1, network.depth), 20)
        return [normalize(x - (x @ basis) @ basis.T, dim=-1) for x in (normalize(each, dim=-1) for each in maps)]

    def finer(self, maps: list[torch.Tensor], factor: int) -> list[torch.Tensor]:
        """The tokens upsampled with the photo as the guide."""
        asked = Upsample(factor=factor)  # type: ignore[arg-type]
        shown = (torch.from_numpy(self.sized(photo, CELL).copy())[None] for photo in self.photos)
        return [upsampled(each[None], image, asked)[0] for each, image in zip(maps, shown, strict=True)]

    def labels(self) -> Iterator[np.ndarray]:
        for photo in self.photos:
            yield load_label(self.folder / "masks" / f"{photo.stem}.png")


def _network(name: str, cache: Path) -> Any:
    chosen = FeatureSet(backbone=name)
    file = cache / f"{name}.safetensors"
    if not file.is_file():
        prepare(chosen, file)
    return load(file, chosen, torch.device("cpu"))


def beside(*parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Parts of length 1 beside one another, as `concat` with equal weights."""
    return [torch.cat([normalize(x, dim=-1) for x in each], -1) for each in zip(*parts, strict=True)]


def scored(
    frames: Frames, maps: list[torch.Tensor], method: str, clusters: int, seed: int
) -> dict[str, tuple[float, float]]:
    """{protocol: (mIoU, accuracy)} of the recipe `kmeans` or `leiden` on these tokens."""
    vectors = [each.numpy() for each in maps]
    if method == "leiden":
        params = pca.Params(dimensions=64, whiten=0.5)
        flat = np.concatenate([each.reshape(-1, each.shape[-1]) for each in vectors])
        model, _ = pca.fit(lambda: iter([flat]), params)
        sizes = [each.shape[:2] for each in vectors]
        reduced = pca.transform(flat, model, params)
        ends = np.cumsum([h * w for h, w in sizes])[:-1]
        vectors = [rows.reshape(h, w, -1) for rows, (h, w) in zip(np.split(reduced, ends), sizes, strict=True)]
    rows = np.concatenate([each.reshape(-1, each.shape[-1]) for each in vectors])
    if len(rows) > POINTS:
        rows = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:POINTS])]
    if method == "leiden":
        book, _ = leiden.fit(rows, leiden.Params(clusters=clusters, neighbours=15, fine=1000), seed, "cpu")
    else:
        book, _ = kmeans.fit(rows, kmeans.Params(clusters=clusters), seed, "cpu")
    settings = Evaluate(classes=SETS[frames.name], ignore=[255], protocols=["hungarian_counts", "many_to_one"])
    tally = Tally(len(book), settings)
    for each, label in zip(vectors, frames.labels(), strict=True):
        tally.add(paint_tokens(each, book, 4, Refine()).astype(np.int32), label)
    return {each["protocol"]["name"]: (each["miou"], each["accuracy"]) for each in tally.scores({"a": "b"})[0]}


VARIANTS = ("e", "e debias", "v", "v debias", "e + v", "e + v debias", "e upsample 2", "e + v upsample 2")


def made(frames: Frames, variant: str) -> list[torch.Tensor]:
    """Tokens of a variant."""
    debias, finer = "debias" in variant, "upsample" in variant
    parts = [frames.tokens(part, debias) for part in PARTS if part in variant.split()]
    maps = beside(*parts) if len(parts) > 1 else parts[0]
    return frames.finer(maps, 2) if finer else maps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="camvid")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--methods", default="kmeans:11,kmeans:50,leiden:11")
    parser.add_argument("--every", type=int, default=2)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--cache", type=Path, default=Path("bench-cache"))
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print("| set | tokens | method | Hungarian on counts: mIoU / accuracy | many-to-one: mIoU / accuracy |")
    print("|---|---|---|---|---|")
    for name in args.sets.split(","):
        frames = Frames(name, args.every, args.cache)
        for variant in args.variants.split(","):
            maps = made(frames, variant)
            for method in args.methods.split(","):
                how, clusters = method.split(":")
                found = [scored(frames, maps, how, int(clusters), int(seed)) for seed in args.seeds.split(",")]
                cells = []
                for rule in ("hungarian_counts", "many_to_one"):
                    miou, accuracy = np.array([each[rule] for each in found]).T * 100
                    spread = miou.std(ddof=1) if len(miou) > 1 else 0.0
                    cells.append(f"{miou.mean():.1f} ± {spread:.1f} / {accuracy.mean():.1f}")
                print(f"| {name} | {variant} | {how}, {clusters} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
