"""What does the features stage cost beyond the network itself, and does its memory grow with the shard?

    python bench/features.py [--images DIR] [--backbone vit_small_focus] [--facet key] [--count 48] [--rounds 3]

Both sides run in one process, in turn, on the same batches: (a) the bare timm forward up to the same block on batches
already in memory, (b) the whole stage from files to Zarr. Medians; the ratio is (a) / (b), 1.0 means that decoding,
resizing, copying and storing cost nothing. CPU seconds say the same on a machine that others use too. Peak memory is
that of a fresh process a shard size, plus its largest reader.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from maskmill.backbones import mean_colour
from maskmill.backbones.embedded import fetch_demo
from maskmill.backbones.network import Backbone, load
from maskmill.backbones.weights import prepare
from maskmill.device import Compute
from maskmill.features.run import plan_batches, read_batch, run
from maskmill.images.decode import SUFFIXES
from maskmill.inputs.run import Outputs
from maskmill.inputs.run import run as inputs
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.inputs import Inputs
from maskmill.store.manifest import read_manifest


class Clock:
    """Wall and CPU seconds (this process and its finished readers) since it was made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), self._cpu()

    @staticmethod
    def _cpu() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, kinds))

    def read(self) -> np.ndarray:
        return np.array([time.perf_counter() - self.wall, self._cpu() - self.cpu])


def bare(backbone: Backbone, batches: list[torch.Tensor]) -> np.ndarray:
    """Seconds of the timm forward alone, tokens of the chosen block, on normalised batches."""
    clock = Clock()
    with torch.inference_mode():
        for batch in batches:
            backbone.model.forward_intermediates(
                batch, indices=[backbone.set.layer], norm=True, stop_early=True, intermediates_only=True
            )
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return clock.read()


def stage(folder: Path, chosen: FeatureSet, options: argparse.Namespace) -> np.ndarray:
    """Seconds of the whole stage, from image files to a Zarr store, less loading the weights."""
    manifest, weights = folder / "manifest.parquet", folder / "w.safetensors"
    shard = read_manifest(manifest).shards[0]
    clock = Clock()
    load(weights, chosen, torch.device(options.device))
    loaded = clock.read()
    clock = Clock()
    with contextlib.redirect_stderr(io.StringIO()):
        body = chosen.model_dump(mode="json")
        compute = Compute(options.batch_size, options.threads, options.device)
        run(manifest, shard, body, weights, folder / "o.zarr", compute)
    return clock.read() - loaded


def setup(folder: Path, options: argparse.Namespace, count: int) -> None:
    """Manifest of `count` images in one shard, and the weights."""
    if options.images:
        source = str(options.images)
    else:
        source = str(folder / "bikes.mp4")
        fetch_demo(Path(source))
    section = Inputs(shard_size=100_000, max_images=count, verify="header").model_dump(mode="json")
    with contextlib.redirect_stderr(io.StringIO()):
        out = Outputs(folder / "manifest.parquet", folder / "r.csv", folder / "classes.json")
        inputs(source, None, section, out, 1, folder / "frames")
    prepare(FeatureSet(backbone=options.backbone), folder / "w.safetensors")


def throughput(options: argparse.Namespace, chosen: FeatureSet) -> np.ndarray:
    """Seconds [rounds, (bare, stage), (wall, CPU)], in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        setup(folder, options, options.count)
        backbone = load(folder / "w.safetensors", chosen, torch.device(options.device))
        plan = plan_batches(
            list(read_manifest(folder / "manifest.parquet").rows), chosen, backbone.multiple, options.batch_size
        )
        pixels = [read_batch(batch, mean_colour(backbone)).images for batch in plan]
        images = [torch.from_numpy(batch).to(backbone.device).permute(0, 3, 1, 2) for batch in pixels]
        batches = [(batch.float() / 255 - backbone.mean) / backbone.std for batch in images]
        backbone.forward(torch.from_numpy(pixels[0]))  # position embeddings of this grid, warm caches
        bare(backbone, batches[:1])
        return np.array([(bare(backbone, batches), stage(folder, chosen, options)) for _ in range(options.rounds)])


def peak(options: argparse.Namespace, count: int) -> tuple[int, float]:
    """(images, peak MiB) of a fresh process that runs only the stage, on one shard of `count` images."""
    with tempfile.TemporaryDirectory() as folder:
        setup(Path(folder), options, count)
        command = [sys.executable, __file__, "--only-memory", folder]
        for key in ("backbone", "facet", "layer", "side", "threads", "batch_size", "device"):
            command += [f"--{key.replace('_', '-')}", str(getattr(options, key))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return len(read_manifest(Path(folder) / "manifest.parquet").rows), float(done.stdout.splitlines()[-1])


def only_memory(folder: Path, chosen: FeatureSet, options: argparse.Namespace) -> None:
    """Run one shard and print the peak MiB of this process and of its largest reader."""
    stage(folder, chosen, options)
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    print(sum(resource.getrusage(kind).ru_maxrss for kind in kinds) / 1024)


def main() -> None:
    """Print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help=f"folder of images ({', '.join(SUFFIXES[:3])}, ...); default: demo")
    parser.add_argument("--backbone", default="vit_small_focus")
    parser.add_argument("--facet", default="token")
    parser.add_argument("--layer", type=int, default=-1)
    parser.add_argument("--side", type=int, default=224, help="short side in pixels")
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only-memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = FeatureSet(
        backbone=options.backbone, facet=options.facet, layer=options.layer, size=Size(short_side=options.side)
    )
    if options.only_memory:
        only_memory(options.only_memory, chosen, options)
        return
    rows = throughput(options, chosen)
    print(
        f"{options.backbone}, {options.facet}, short side {options.side}, {options.threads} threads, {options.device}"
    )
    print("| round | bare forward s | whole stage s | ratio | bare CPU s | stage CPU s | CPU ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, pair in [*enumerate(rows), ("median", np.median(rows, axis=0))]:
        (bare_wall, bare_cpu), (wall, cpu) = pair
        print(f"| {name} | {bare_wall:.2f} | {wall:.2f} | {bare_wall / wall:.3f} ", end="")
        print(f"| {bare_cpu:.2f} | {cpu:.2f} | {bare_cpu / cpu:.3f} |")
    print("\n| images a shard | peak MiB |\n|---|---|")
    for count in (options.count // 2, options.count, options.count * 4):
        print("| {} | {:.0f} |".format(*peak(options, count)), flush=True)


if __name__ == "__main__":
    main()
