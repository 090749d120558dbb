"""How well do the cuts find objects? Prints one table over three labelled sets; nothing is trained.

    python bench/objects.py [--limit N] [--cache FOLDER] [--sets ecssd voc_animals coco200] [--methods NAME ...]
                            [--refine none crf]

Photos squeezed to 448 x 448, keys of the embedded ViT-S/14 less their bias, each cut with the parameters below, scored
by the workflow's own stages: cut, then evaluate objects. Features are computed once a set into --cache (default: a
temporary folder). --limit takes N images of each set, evenly spread over the sorted names.

* ecssd: salient objects; maxF, IoU and MAE of the union of segments, CorLoc.
* voc_animals: cat, cow, dog, horse, person and sheep are foreground, other classes void; CorLoc, IoU.
* coco200: the 80 thing classes; the labels hold no instances, so touching objects of one class count as one; objects
  below 0.1 % of the image are void; box and mask AP50 and AR100.

A second row shows each cut after refinement (docs/refine.md).

Segments of a method without scores share the confidence of their image. The seconds are CPU seconds of the cut alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _photos import WEIGHTS, data_folder

from maskmill.backbones.weights import prepare
from maskmill.cut.run import OptionalFiles
from maskmill.cut.run import run as run_cut
from maskmill.device import Compute
from maskmill.evaluate.run_objects import run as run_objects
from maskmill.features.run import run as run_features
from maskmill.images.decode import displayed_size
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.store.artefact import read_json, write_table
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged

PIXELS = 448
METHODS: dict[str, dict[str, Any]] = {  # name in the table -> the cut section of a recipe
    "ncut, side peak": {"method": "ncut", "side": "peak"},
    "ncut, side border": {"method": "ncut", "side": "border"},
    "lost": {"method": "lost"},
    "maskcut, N = 3": {"method": "maskcut"},
    "maskcut, compat: cutler": {"method": "maskcut", "compat": "cutler"},
    "spectral, mode: fiedler": {"method": "spectral", "mode": "fiedler"},
    "spectral, fiedler, largest": {"method": "spectral", "mode": "fiedler", "component": "largest"},
    "spectral, 15 segments": {"method": "spectral", "segments": 15},
    "attention, softmax": {"method": "attention", "scores": "softmax", "heads": None},
    "attention": {"method": "attention"},
    "primaps": {"method": "primaps"},
    "kmeans, 8 segments": {"method": "kmeans", "segments": 8},
    "freemask": {"method": "freemask"},
    "selective": {"method": "selective"},
    "hierarchy": {"method": "hierarchy"},
    "hierarchy, masks: 0": {"method": "hierarchy", "masks": 0},
    "promerge": {"method": "promerge"},
    "promerge, stride: 2": {"method": "promerge", "stride": 2},
    "kcut, K = 4, keep: objects": {"method": "kcut", "segments": 4, "keep": "objects"},
    "kcut, K = 8, keep: objects": {"method": "kcut", "segments": 8, "keep": "objects"},
    "recursive, keep: objects": {"method": "recursive", "keep": "objects"},
}
GROUPING = FeatureSet(backbone="vit_small_focus", facet="key", size=Size(square=PIXELS))
COLOURED = {"selective": FeatureSet(backbone="colour", stride=2, size=Size(long_side=PIXELS))}  # method -> its set
ANIMALS = [8, 10, 12, 13, 15, 17]
SETS: dict[str, dict[str, Any]] = {  # folder of the labels, evaluate section, columns
    "ecssd": {
        "labels": "masks",
        "evaluate": {"objects": {"metrics": ["corloc", "saliency"]}},
        "columns": ["maxf", "iou", "mae", "corloc"],
    },
    "voc_animals": {
        "labels": "masks",
        "evaluate": {"classes": [0, *ANIMALS], "objects": {"foreground": ANIMALS, "metrics": ["corloc", "saliency"]}},
        "columns": ["corloc", "iou"],
    },
    "coco200": {
        "labels": "masks_panoptic133",
        "evaluate": {"objects": {"foreground": list(range(80)), "min_area": 0.001, "metrics": ["ap", "ar"]}},
        "columns": ["box_ap50", "box_ar100", "mask_ap50", "mask_ar100", "mask_ars", "mask_arm", "mask_arl"],
    },
}


def chosen(folder: Path, limit: int | None) -> list[Path]:
    """Photos of a set, at most `limit`, evenly spread."""
    photos = sorted((folder / "images").iterdir())
    if limit is None or len(photos) <= limit:
        return photos
    return [photos[i] for i in np.linspace(0, len(photos) - 1, limit).round().astype(int)]


def features(listing: Path, cache: Path, name: str, chosen: FeatureSet = GROUPING) -> Path:
    """Feature store of the photos of a manifest, made by the features stage where the cache has none of them."""
    ids = [row.id for row in read_manifest(listing).rows]
    grouping = chosen == GROUPING
    path = cache / f"{name}-{PIXELS if grouping else chosen.backbone}-{len(ids)}.zarr"
    if not path.exists():
        weights = WEIGHTS if grouping else cache / f"{chosen.backbone}.safetensors"
        if not weights.is_file():
            prepare(chosen, weights)
        run_features(listing, "s0", chosen.model_dump(mode="json"), weights, path, Compute())
    return path


def manifest(photos: Sequence[Path], labels: Path, path: Path) -> None:
    """The manifest of one shard."""
    import pyarrow as pa

    sizes = [displayed_size(photo) for photo in photos]
    columns = {
        "id": [photo.stem for photo in photos],
        "path": [str(photo) for photo in photos],
        "width": [width for _, width in sizes],
        "height": [height for height, _ in sizes],
        "shard": ["s0"] * len(photos),
        "label": [str(labels / f"{photo.stem}.png") for photo in photos],
    }
    write_table(path, pa.table(columns))


def measure(
    store: Path, listing: Path, section: Mapping[str, Any], refine: str, evaluate: Mapping[str, Any]
) -> dict[str, float]:
    """All scores of one cut of one set, and its CPU seconds an image."""
    segments, scores = listing.with_name("segments.zarr"), listing.with_name("objects.json")
    before = time.process_time()
    whole = dict(section) | {"features": "grouping", "refine": refine}
    run_cut(store, whole, segments, 0, 1, optional=OptionalFiles(manifest=listing))
    seconds = time.process_time() - before
    run_objects([segments], listing, evaluate, scores, "bench")
    found: dict[str, float] = {}
    for entry in read_json(scores)["scores"]:
        found |= {name: value for name, value in entry.items() if name != "protocol"}
    return found | {"seconds": seconds / len(Ragged(segments))}


def table(rows: Mapping[str, Mapping[str, Mapping[str, float]]], sets: Mapping[str, int]) -> str:
    """Markdown: a line a method, columns by set; shares in percent."""
    heads = [f"{name} {column}" for name in sets for column in SETS[name]["columns"]]
    lines = ["| cut | " + " | ".join(heads) + " | ms an image |", "|---|" + "---:|" * (len(heads) + 1)]
    for method, of in rows.items():
        cells = [f"{100 * of[name][column]:.1f}" for name in sets for column in SETS[name]["columns"]]
        spent = 1000 * np.mean([of[name]["seconds"] for name in sets])
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {spent:.0f} |")
    return "\n".join([*lines, "", ", ".join(f"{name}: {count} images" for name, count in sets.items())])


def main() -> None:
    """Print the table."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="images a set")
    parser.add_argument("--cache", type=Path, help="folder that keeps the features")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--refine", nargs="+", default=["none", "crf"], help="refiners, none for the cut as it is")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    counts = {}
    with tempfile.TemporaryDirectory() as work:
        cache = options.cache or Path(work) / "features"
        cache.mkdir(parents=True, exist_ok=True)
        for name in options.sets:
            folder = data_folder(name)
            if folder is None:
                print(f"{name} is not here: set MASKMILL_DATA to the folder that holds it")
                continue
            photos = chosen(folder, options.limit)
            counts[name] = len(photos)
            listing = Path(work) / "manifest.parquet"
            manifest(photos, folder / SETS[name]["labels"], listing)
            for method, refine in product(options.methods, options.refine):
                store = features(listing, cache, name, COLOURED.get(METHODS[method]["method"], GROUPING))
                row = rows.setdefault(method + (f" + {refine}" if refine != "none" else ""), {})
                row[name] = measure(store, listing, METHODS[method], refine, SETS[name]["evaluate"])
    if counts:
        print(table(rows, counts))


if __name__ == "__main__":
    main()
