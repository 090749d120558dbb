"""A large image through the whole workflow: does memory stay bounded, and are its masks those of its parts?

    python bench/mosaic.py WORK [--side 20000] [--tile 1000] [--window 1000] [--overlap 0] [--photos FOLDER]

Labelled photos, cut to squares of `tile` pixels, are laid side by side into one tiled GeoTIFF with a GeoTIFF of labels
beside it. The workflow runs on it by windows, and on the squares as photos of their own. Printed are the peak memory of
every rule of the first run, from Snakemake's benchmark files, and on which share of the pixels both masks agree,
`margin` pixels and more away from the borders of the squares, clusters matched by overlap.

The backbone is `colour`, whose tokens hold their place in the picture: windows that do not lie on the squares (another
size, an overlap) see other places than the photos do, so masks can only be equal where windows lie on the squares.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _photos import ROOT, data_folder
from PIL import Image

from maskmill.dag.benchmarks import read
from maskmill.images.decode import decode, load_label
from maskmill.images.masks import to_size
from maskmill.images.view import View
from maskmill.images.windows import core
from maskmill.store.artefact import read_json
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged

RECIPE = {
    "features": {"semantic": {"backbone": "colour", "stride": 8, "size": {"square": 256}}},
    "regions": {"features": "semantic", "pool": "token"},
    "cluster": {"method": "kmeans", "clusters": 8},
}
FORMATS = ["geotiff", "geojson", "ome_zarr"]
PLACE = (10.0, 0.0, 500_000.0, 0.0, -10.0, 4_000_000.0)  # ten metres a pixel, somewhere in zone 33


def square(values: np.ndarray, side: int) -> np.ndarray:
    """The middle square of a photo or a label, at another size by nearest neighbour."""
    short = min(values.shape[:2])
    top, left = ((n - short) // 2 for n in values.shape[:2])
    at = np.arange(side) * short // side
    return np.ascontiguousarray(values[top + at][:, left + at])


def build(folder: Path, photos: Path, side: int, tile: int) -> None:
    """mosaic/mosaic.tif, labels/mosaic.tif, and the squares: photos/*.png."""
    import rasterio
    from rasterio.transform import Affine

    for name in ("mosaic", "labels", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = sorted((photos / "images").iterdir())
    kind: dict[str, Any] = {
        "driver": "GTiff", "height": side, "width": side, "dtype": "uint8", "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "deflate", "zlevel": 1, "crs": "EPSG:32633", "transform": Affine(*PLACE),
    }  # fmt: skip
    with (
        rasterio.open(folder / "mosaic/mosaic.tif", "w", count=3, photometric="RGB", interleave="pixel", **kind) as out,
        rasterio.open(folder / "labels/mosaic.tif", "w", count=1, **kind) as labels,
    ):
        for top in range(0, side, tile):
            band = np.zeros((tile, side, 3), np.uint8)
            ids = np.zeros((tile, side), np.uint8)
            for left in range(0, side, tile):
                file = files[(top // tile * (side // tile) + left // tile) % len(files)]
                photo = square(decode(file), tile)
                band[:, left : left + tile] = photo
                ids[:, left : left + tile] = square(load_label(photos / "masks" / f"{file.stem}.png"), tile)
                Image.fromarray(photo).save(folder / "photos" / f"y{top:05d}x{left:05d}.png", compress_level=1)
            window = ((top, top + tile), (0, side))
            out.write(np.moveaxis(band, 2, 0), window=window)
            labels.write(ids[None], window=window)


def run(work: Path, config: dict[str, Any]) -> None:
    """The workflow, as a user starts it."""
    work.mkdir(parents=True, exist_ok=True)
    (work / "own.yaml").write_text(yaml.safe_dump(RECIPE))
    (work / "config.yaml").write_text(yaml.safe_dump(config | {"recipes": [str(work / "own.yaml")], "preset": []}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(work)]
    with (work / "run.log").open("w") as log:
        done = subprocess.run([*command, "--cores", "1"], stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit((work / "run.log").read_text()[-3000:])


def canvas(work: Path, side: int) -> np.ndarray:
    """uint8 [side, side]: the mask of every picture, its core, where it lies."""
    rows = read_manifest(work / "results/inputs/manifest.parquet").by_id
    out = np.zeros((side, side), np.uint8)
    for path in sorted((work / "results/recipes/own/seed0/round0/masks").glob("*.zarr")):
        for image_id, cells in Ragged(path, "masks").images():
            row = rows[image_id]
            mask = to_size(cells, (row.height, row.width))
            if row.view is None:  # a photo is named by its place
                y, x, box = int(image_id[1:6]), int(image_id[7:12]), (0, 0, row.height, row.width)
            else:
                view = View.of(row.view)
                y, x, box = *(view.window or ())[:2], core(view)
            top, left, height, width = box
            out[y + top : y + top + height, x + left : x + left + width] = mask[top : top + height, left : left + width]
    return out


def agreement(a: np.ndarray, b: np.ndarray, tile: int, margin: int) -> float:
    """Share of pixels that agree, `margin` pixels away from the borders of the squares, after matching by overlap."""
    from scipy.optimize import linear_sum_assignment

    at = np.arange(len(a)) % tile
    inner = np.flatnonzero((at >= margin) & (at < tile - margin))
    counts = np.zeros((16, 16), np.int64)
    for row in inner:
        counts += np.bincount(a[row, inner].astype(int) * 16 + b[row, inner], minlength=256).reshape(16, 16)
    chosen = linear_sum_assignment(-counts)
    return float(counts[chosen].sum() / counts.sum())


def main() -> None:
    """Build, run twice, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--photos", type=Path, default=data_folder("voc_animals"), help="images/ and masks/")
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--tile", type=int, default=1000)
    parser.add_argument("--window", type=int, default=1000)
    parser.add_argument("--overlap", type=int, default=0)
    parser.add_argument("--margin", type=int, default=16)
    given = parser.parse_args()
    if given.photos is None:
        raise SystemExit("no labelled photos: give --photos, or MASKMILL_DATA")
    work = given.work.resolve()
    if not (work / "labels/mosaic.tif").exists():
        build(work, given.photos, given.side, given.tile)
    window = {"size": given.window, "overlap": given.overlap}
    windowed, apart = work / f"windowed-{given.window}-{given.overlap}", work / "apart"
    sources = {"images": str(work / "mosaic"), "labels": str(work / "labels")}
    run(windowed, sources | {"inputs": {"window": window}, "export": {"formats": FORMATS}})
    run(apart, {"images": str(work / "photos")})
    print("| rule | jobs | seconds | peak MB |\n|---|---|---|---|")
    jobs: dict[str, list[Any]] = {}
    for job in read(windowed / "benchmarks"):
        jobs.setdefault(job.parts[0], []).append(job)
    for rule, found in sorted(jobs.items()):
        peak = max((job.memory or 0.0 for job in found), default=0.0)
        print(f"| {rule} | {len(found)} | {sum(job.seconds for job in found):.0f} | {peak:.0f} |")
    share = agreement(canvas(windowed, given.side), canvas(apart, given.side), given.tile, given.margin)
    scores = read_json(windowed / "results/recipes/own/seed0/round0/scores.json")["scores"][0]
    print(f"equal on {100 * share:.3f} % of the pixels {given.margin} px and more from the borders of the squares")
    print(json.dumps({key: value for key, value in scores.items() if isinstance(value, (int, float))}))


if __name__ == "__main__":
    main()
