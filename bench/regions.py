"""What does pooling crops cost beyond the network itself?

    python bench/regions.py [--images DIR] [--backbone efficientnet_lite0] [--size 224] [--count 12] [--rounds 3]

Photos of a folder (default: ECSSD under $MASKMILL_DATA) with a grid of 3 x 4 segments each. Both sides run in one
process, in turn, on the same crops: (a) the bare timm forward up to the backbone's level on crops already cut, batched
and normalised, (b) the whole stage from photo files to the region table and vectors, less loading the weights. CPU
seconds; the share is (a) / (b), 1.0 means that decoding, cutting, resizing and storing cost nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from _photos import data_folder
from features import Clock

from maskmill.backbones import mean_colour
from maskmill.backbones.network import Backbone, load
from maskmill.backbones.weights import prepare
from maskmill.images.decode import SUFFIXES, displayed_size
from maskmill.images.photos import read_photo
from maskmill.recipe.feature_set import FeatureSet
from maskmill.regions._crops import ImageCrops, batched, read_crops
from maskmill.regions.crop_cls import Params
from maskmill.regions.run import Network, run
from maskmill.store.artefact import write_table
from maskmill.store.manifest import Row
from maskmill.store.ragged import RaggedWriter

SEGMENTS = np.kron(np.arange(1, 13, dtype=np.uint8).reshape(3, 4), np.ones((10, 8), np.uint8))  # [30, 32]


def setup(folder: Path, options: argparse.Namespace) -> list[ImageCrops]:
    """Manifest, segments and weights of the first `count` photos."""
    files = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in SUFFIXES)[: options.count]
    rows = []
    for path in files:
        height, width = displayed_size(path)
        rows.append(Row(path.stem, str(path), width, height, "s0", None))
    table = pa.table({key: [getattr(row, key) for row in rows] for key in Row.__annotations__})
    write_table(folder / "manifest.parquet", table)
    with RaggedWriter(folder / "cut.zarr", "segments", dtype="uint8") as out:
        for row in rows:
            out.append(row.id, SEGMENTS, confidence=np.float32(1))
    prepare(FeatureSet(backbone=options.backbone), folder / "w.safetensors")
    return [ImageCrops(row, SEGMENTS, np.arange(1, 13)) for row in rows]


def batches(images: list[ImageCrops], backbone: Backbone, params: Params, batch_size: int) -> list[torch.Tensor]:
    """The stage's own batches, normalised [b, 3, H, W]."""
    fill = mean_colour(backbone)
    crops = (
        ((image.row.id, i), crop)
        for image in images
        for i, crop in enumerate(read_crops(image, backbone.multiple, params, fill))
    )
    found = [torch.from_numpy(pixels).permute(0, 3, 1, 2) for _, pixels in batched(crops, batch_size)]
    return [(pixels.float() / 255 - backbone.mean) / backbone.std for pixels in found]


def bare(backbone: Backbone, ready: list[torch.Tensor]) -> float:
    """CPU seconds of the timm forward alone."""
    clock = Clock()
    with torch.inference_mode():
        for batch in ready:
            backbone.model.forward_intermediates(
                batch, indices=[backbone.set.layer], norm=True, stop_early=True, intermediates_only=True
            )
    return float(clock.read()[1])


def stage(folder: Path, chosen: FeatureSet, params: Params, options: argparse.Namespace) -> float:
    """CPU seconds of the whole stage, less loading the weights."""
    clock = Clock()
    load(folder / "w.safetensors", chosen, torch.device("cpu"))
    loaded = clock.read()
    section = {"pool": "crop_cls", "feature_set": chosen.model_dump(mode="json")} | params.model_dump(mode="json")
    network = Network(folder / "manifest.parquet", folder / "w.safetensors", options.batch_size, 1, "cpu")
    clock = Clock()
    with contextlib.redirect_stderr(io.StringIO()):
        run(folder / "cut.zarr", None, section, folder / "t.parquet", folder / "v.zarr", network)
    return float((clock.read() - loaded)[1])


def main() -> None:
    """Print one line a kind of crop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=data_folder("ecssd/images"), help="folder of images")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--layer", type=int, default=-1)
    parser.add_argument("--size", type=int, default=224, help="side of the square crops")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    options = parser.parse_args()
    if options.images is None:
        print("ECSSD is not here: give --images FOLDER or set MASKMILL_DATA")
        return
    torch.set_num_threads(1)
    chosen = FeatureSet(backbone=options.backbone, layer=options.layer)
    print(
        f"{options.backbone}, {options.count} photos of 12 segments, batches of {options.batch_size}, 1 thread, CPU s"
    )
    print("| crops | bare forward s | whole stage s | share | of which decode s | crops a CPU second |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = setup(folder, options)
        backbone = load(folder / "w.safetensors", chosen, torch.device("cpu"))
        clock = Clock()
        for image in images:
            read_photo(image.row)
        decode = clock.read()[1]
        for params in (Params(size=options.size), Params(size=options.size, mask="mean"), Params()):
            ready = batches(images, backbone, params, options.batch_size)
            bare(backbone, ready[:2])
            rounds = [(bare(backbone, ready), stage(folder, chosen, params, options)) for _ in range(options.rounds)]
            (alone, whole), share = np.median(rounds, axis=0), np.median([a / b for a, b in rounds])
            kind = f"{options.size} square" if params.size else "native"
            print(
                f"| {kind}{', mask mean' if params.mask == 'mean' else ''} | {alone:.2f} | {whole:.2f} | {share:.2f} "
                f"| {decode:.2f} | {12 * len(images) / whole:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
