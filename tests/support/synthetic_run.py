"""A complete results/ tree made of shapes: what a finished run leaves behind, in the real store types, in seconds.

`build(root)` returns the plan of the report. Two recipes: `comus` (cut, regions, two rounds) and `kmeans` (tokens).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.images.sample import read
from maskmill.report.run import run
from maskmill.store.artefact import write_json, write_table
from maskmill.store.codebook import Codebook, fingerprint, write
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter

TOKENS, UPSAMPLE = 16, 4
MEMBERS = "QUJDREVG\nR0hJ\n"  # opaque to the report
SURVEYED = 512  # images of a run that all have a map of the stage taxonomy
PROTOCOLS = ("hungarian_iou", "hungarian_counts", "many_to_one")
CLASSES = ("background", "disc", "square", "cross")


def build(
    root: Path,
    *,
    images: int = 10,
    ids: Sequence[str] | None = None,
    shard_size: int = 4,
    clusters: int = 6,
    seeds: Sequence[int] = (0, 1),
    labelled: bool = True,
    rejected: int = 2,
    benchmarks: bool = True,
    regions: bool = True,
    photos: int = 12,
    tokens: int = TOKENS,
    objects: bool = False,
) -> dict[str, Any]:
    """Write `root`/results and `root`/benchmarks and return the report's plan.

    Args:
        ids: image ids, default `set/image-000 ...`. photos: distinct photo files that the images share.
        regions: False leaves every image without a segment. tokens: longer side of the token grids.
        objects: with labels, also scores of objects without classes.
    """
    results = root / "results"
    names = sorted(ids) if ids is not None else [f"set{i % 2}/image-{i:06d}" for i in range(images)]
    names.sort()
    shards = [f"s{i // shard_size:04x}" for i in range(len(names))]
    files = [_photo(root / "photos" / f"{i}.png", i) for i in range(min(photos, max(1, len(names))))]
    sizes = [files[i % len(files)][1] for i in range(len(names))]
    _manifest(results, names, shards, [files[i % len(files)][0] for i in range(len(names))], sizes)
    _rejected(results, rejected)
    surveyed: dict[str, tuple[int | None, tuple[int, int]]] = {}
    for shard in dict.fromkeys(shards):
        mine = [i for i, s in enumerate(shards) if s == shard] if len(names) < 5000 else _span(shards, shard)
        scenes = {names[i]: (i % len(files) if regions else None, _grid(sizes[i], tokens)) for i in mine}
        _shard(results, shard, scenes, clusters, seeds)
        if len(names) <= SURVEYED:
            surveyed |= scenes
    if len(names) > SURVEYED:  # as the stage chooses them: those of the report
        surveyed = _sampled(results, names, files, sizes, tokens, regions)
    if names:
        _survey(results, surveyed, clusters, seeds[0])
    if labelled:
        _scores(results, seeds, clusters, len(names), objects)
    if benchmarks:
        _benchmarks(root / "benchmarks", list(dict.fromkeys(shards)), seeds)
    return plan(seeds, clusters) | ({"objects": True} if objects else {})


def plan(seeds: Sequence[int], clusters: int) -> dict[str, Any]:
    """The resolved run as the report's rule passes it."""
    shared = {"cluster": {"method": "kmeans", "clusters": clusters}, "paint": {"keep_closest": 0.8}}
    recipes = {
        "kmeans": {
            "description": "spherical k-means on tokens",
            "tokens": True,
            "rounds": 0,
            "clusters": clusters,
            "sections": {"regions": {"pool": "token"}, **shared},
        },
        "comus": {
            "description": "object proposals, two rounds",
            "tokens": False,
            "rounds": 2,
            "clusters": clusters,
            "sections": {"cut": {"method": "ncut", "tau": 0.2}, "regions": {"pool": "mean"}, **shared},
        },
    }
    body = {"title": "Shapes", "gallery": 24, "typical": 8, "images": "shapes", "labels": None}
    return body | {"seeds": list(seeds), "recipes": recipes}


def _sampled(
    results: Path, names: list[str], files: list[Any], sizes: list[Any], tokens: int, regions: bool
) -> dict[str, tuple[int | None, tuple[int, int]]]:
    """Photo and grid of the images that the report looks at."""
    sample = read(results / "inputs/manifest.parquet", 24)
    ids = {picture.id for picture in sample.gallery}.union(*sample.statistics.values())
    found = ((i, name) for i, name in enumerate(names) if name in ids)
    return {name: (i % len(files) if regions else None, _grid(sizes[i], tokens)) for i, name in found}


def _survey(results: Path, images: dict[str, tuple[int | None, tuple[int, int]]], clusters: int, seed: int) -> None:
    """Codebooks of the first seed, and where their clusters lie, surest in the middle of each piece."""
    rng = np.random.default_rng(0)
    for recipe in ("kmeans", "comus"):
        folder = results / f"recipes/{recipe}/seed{seed}"
        centroids = rng.normal(size=(clusters, 8)).astype(np.float32)
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        book = Codebook(centroids, np.arange(clusters, 0, -1), 1.0, True)
        write(folder / "cluster/codebook.safetensors", book, Provenance.of("cluster", {}))
        attrs = {"clusters": clusters, "codebook": fingerprint(book)}
        made = Provenance.of("taxonomy", {})
        alone = [[[cluster, 1.0]] for cluster in range(1, attrs["clusters"] + 1)]
        write_json(
            folder / "taxonomy/members.json",
            {"codebook": attrs["codebook"], "members": MEMBERS, "influences": alone},
            made,
        )
        with (
            RaggedWriter(folder / "taxonomy/survey.zarr", "masks", dtype=mask_dtype(clusters).name, attrs=attrs,
                         provenance=made) as maps,
            RaggedWriter(folder / "taxonomy/margins.zarr", "confidence", dtype="uint8", provenance=made) as margins,
        ):  # fmt: skip
            for name, (photo, grid) in images.items():
                values = _map(recipe, name, photo, grid, clusters, seed)
                maps.append(name, values)
                edge = np.pad(values, 1, mode="edge")
                same = [edge[1 + y : edge.shape[0] - 1 + y, 1 + x : edge.shape[1] - 1 + x] == values
                        for y, x in ((0, 1), (1, 0), (0, -1), (-1, 0))]  # fmt: skip
                margins.append(name, (60 * np.sum(same, axis=0) + _number(name) % 16).astype(np.uint8))


def _map(recipe: str, name: str, photo: int | None, grid: tuple[int, int], clusters: int, seed: int) -> np.ndarray:
    """Clusters of an image on the grid of its tokens, as `_shard` paints them."""
    if recipe == "kmeans":
        return _bands(grid, clusters, (_number(name) + seed) % 256)[::UPSAMPLE, ::UPSAMPLE]
    scene = np.zeros(grid, np.uint8) if photo is None else _scene(photo, grid)
    found = np.zeros(grid, mask_dtype(clusters))
    for region in np.unique(scene[scene > 0]).tolist():
        found[scene == region] = (_number(name) + region + seed) % clusters + 1
    return found


def _span(shards: Sequence[str], shard: str) -> range:
    """Positions of one shard in a sorted run."""
    from bisect import bisect_left, bisect_right

    return range(bisect_left(shards, shard), bisect_right(shards, shard))


@lru_cache(maxsize=1024)
def _scene(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Segments [h, w] uint8: one or two shapes on nothing, the same for the same seed."""
    rng = np.random.default_rng(seed)
    y, x = (np.indices(shape) + 0.5) / np.array(shape).reshape(2, 1, 1)
    scene = np.zeros(shape, np.uint8)
    for number in range(1, 2 + seed % 2):
        cy, cx, radius = 0.25 + 0.5 * rng.random(), 0.25 + 0.5 * rng.random(), 0.14 + 0.14 * rng.random()
        far = np.maximum(abs(y - cy), abs(x - cx)) if rng.random() < 0.5 else np.hypot(y - cy, x - cx)
        scene[far < radius] = number
    return scene


def _photo(path: Path, seed: int) -> tuple[str, tuple[int, int]]:
    """A landscape or portrait picture of the scene; (path, (height, width))."""
    size = (150, 200) if seed % 3 else (200, 140)
    scene = _scene(seed, size)
    y, x = np.indices(size) / np.array(size).reshape(2, 1, 1)
    picture = np.stack([90 + 90 * y, 140 - 40 * x, 160 - 70 * y], axis=2)
    picture[scene == 1] = [220, 150, 60]
    picture[scene == 2] = [70, 150, 90]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.astype(np.uint8)).save(path)
    return str(path), size


def _manifest(results: Path, names: list[str], shards: list[str], paths: list[str], sizes: list[Any]) -> None:
    text, whole = pa.string(), pa.int64()
    count = len(names)
    columns = {
        "id": pa.array(names, text),
        "path": pa.array(paths, text),
        "width": pa.array([w for _, w in sizes], whole),
        "height": pa.array([h for h, _ in sizes], whole),
        "bytes": pa.array([1000] * count, whole),
        "digest": pa.array([f"{i:016x}" for i in range(count)], text),
        "shard": pa.array(shards, text),
        "label": pa.array([None] * count, text),
    }
    write_table(results / "inputs/manifest.parquet", pa.table(columns), Provenance.of("inputs", {}))


def _rejected(results: Path, count: int) -> None:
    with (results / "inputs/rejected.csv").open("w", newline="") as file:
        rows = [(f"bad/{i}", f"/photos/bad/{i}.jpg", "not an image, or of an unknown format") for i in range(count)]
        csv.writer(file).writerows([("id", "path", "reason"), *rows])


def _grid(size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """(h, w) of the tokens of an image of (H, W), the longer side `tokens`."""
    longest = max(size)
    return max(1, round(tokens * size[0] / longest)), max(1, round(tokens * size[1] / longest))


def _shard(
    results: Path,
    shard: str,
    images: dict[str, tuple[int | None, tuple[int, int]]],
    clusters: int,
    seeds: Sequence[int],
) -> None:
    """cut, regions, assignments and masks of both recipes for one shard; images: id -> (photo or None, grid)."""
    names, grids = list(images), [grid for _, grid in images.values()]
    scenes = [np.zeros(grid, np.uint8) if photo is None else _scene(photo, grid) for photo, grid in images.values()]
    comus = results / "recipes/comus"
    with RaggedWriter(
        comus / f"cut/{shard}.zarr", "segments", dtype="uint8", provenance=Provenance.of("cut", {})
    ) as out:
        for name, scene in zip(names, scenes, strict=True):
            out.append(name, scene, confidence=np.float32(0.5 + 0.4 * scene.any()), gap=np.float32(0.1))
    rows = [row for name, scene in zip(names, scenes, strict=True) for row in _region_rows(name, scene)]
    _table(comus / f"regions/{shard}.parquet", rows, ["image", "region", "area", "y0", "x0", "y1", "x1", "score"])
    for seed in seeds:
        labels = {(row[0], row[1]): (_number(row[0]) + row[1] + seed) % clusters for row in rows}
        chosen = [(i, r, c, 0.01 * (_number(i) % 17)) for (i, r), c in labels.items()]
        _table(comus / f"seed{seed}/cluster/{shard}.parquet", chosen, ["image", "region", "cluster", "distance"])
        for r in range(3):
            masks = [_painted(n, s, labels, clusters, r) for n, s in zip(names, scenes, strict=True)]
            _masks(comus / f"seed{seed}/round{r}/masks/{shard}.zarr", names, masks, clusters, r)
        flat = [_bands(g, clusters, (_number(n) + seed) % 256) for n, g in zip(names, grids, strict=True)]
        _masks(results / f"recipes/kmeans/seed{seed}/round0/masks/{shard}.zarr", names, flat, clusters, 0)


def _number(name: str) -> int:
    """The number at the end of an id, or its length."""
    digits = "".join(c for c in name if c.isdigit())[-6:]
    return int(digits) if digits else len(name)


def _region_rows(name: str, scene: np.ndarray) -> list[tuple[Any, ...]]:
    h, w = scene.shape
    rows = []
    for region in np.unique(scene[scene > 0]).tolist():
        ys, xs = np.nonzero(scene == region)
        box = (ys.min() / h, xs.min() / w, (ys.max() + 1) / h, (xs.max() + 1) / w)
        rows.append((name, region, float((scene == region).mean()), *box, 0.9))
    return rows


def _table(path: Path, rows: list[tuple[Any, ...]], names: list[str]) -> None:
    kinds = {"image": pa.string(), "region": pa.int32(), "cluster": pa.int32()}
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    arrays = [pa.array(column, kinds.get(n, pa.float32())) for n, column in zip(names, columns, strict=True)]
    write_table(path, pa.table(dict(zip(names, arrays, strict=True))), Provenance.of("regions", {}))


def _painted(name: str, scene: np.ndarray, labels: dict[Any, int], clusters: int, number: int) -> np.ndarray:
    """Masks of a region recipe: rounds shift the shapes a little; images 0, 7, 14 ... are ignored at round 0."""
    mask = np.zeros(scene.shape, mask_dtype(clusters))
    for region in np.unique(scene[scene > 0]).tolist():
        mask[np.roll(scene == region, number, axis=1)] = labels[name, region] + 1
    if number == 0 and _number(name) % 7 == 0:
        mask[:] = ignore_value(mask.dtype)
    return mask.repeat(UPSAMPLE, 0).repeat(UPSAMPLE, 1)


@lru_cache(maxsize=1024)
def _bands(grid: tuple[int, int], clusters: int, seed: int) -> np.ndarray:
    y, x = np.indices((grid[0] * UPSAMPLE, grid[1] * UPSAMPLE))
    wave = (y / grid[0] + 0.4 * np.sin(x / grid[1] + seed)) * clusters / UPSAMPLE
    return (wave.astype(int) % clusters + 1).astype(mask_dtype(clusters))


def _masks(path: Path, names: list[str], masks: list[np.ndarray], clusters: int, number: int) -> None:
    dtype = mask_dtype(clusters)
    attrs = {"clusters": clusters, "ignore": ignore_value(dtype), "round": number}
    made = Provenance.of("paint", {"round": number})
    with RaggedWriter(path, "masks", dtype=dtype.name, attrs=attrs, provenance=made) as out:
        for name, mask in zip(names, masks, strict=True):
            out.append(name, mask)


def _scores(results: Path, seeds: Sequence[int], clusters: int, images: int, objects: bool) -> None:
    for recipe, rounds in (("kmeans", 0), ("comus", 2)):
        for seed in seeds:
            for r in range(rounds + 1):
                base = {"kmeans": 0.21, "comus": 0.44}[recipe] + 0.02 * r + 0.01 * seed
                scores = [_score(name, base, images) for name in PROTOCOLS]
                body = {"recipe": recipe, "seed": seed, "round": r, "clusters": clusters, "scores": scores}
                if objects and recipe == "comus":
                    body["saliency"] = [_saliency(0.6 + 0.02 * r + 0.01 * seed, images)]
                write_json(
                    results / f"recipes/{recipe}/seed{seed}/round{r}/scores.json", body, Provenance.of("evaluate", {})
                )

    if objects:
        entry = {"corloc": 0.7, "box_ap50": 0.31, "mask_ap50": 0.29, "mbo": 0.41, "fg_ari": 0.37}
        entry |= {"images": images, "objects": 17}
        entry["protocol"] = {"name": "objects", "rules": {"corloc": "in words"}, "min_area": 0.0}
        body = {"recipe": "comus", "ranking": "confidence", "scores": [entry, _saliency(0.55, images)]}
        write_json(results / "recipes/comus/objects.json", body, Provenance.of("evaluate", {}))


def _saliency(base: float, images: int) -> dict[str, Any]:
    protocol = {"name": "saliency", "rules": {"iou": "in words"}, "min_area": 0.0}
    return {
        "protocol": protocol, "iou": base, "accuracy": base + 0.2, "maxf": base + 0.1, "mae": 1 - base,
        "images": images,
    }  # fmt: skip


def _score(name: str, base: float, images: int) -> dict[str, Any]:
    protocol = {"name": name, "matching": f"{name} in words", "size": "original", "ignore": [255], "images": images}
    return {
        "protocol": protocol,
        "accuracy": base + 0.3,
        "miou": base,
        "per_class": {c: base - 0.05 * i for i, c in enumerate(CLASSES)} | {"absent": None},
        "discovered": 3,
        "matching": {str(i): c for i, c in enumerate(CLASSES)},
        "unmatched": 2,
        "images": images,
        "pixels": 1000,
    }


HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def _benchmarks(folder: Path, shards: list[str], seeds: Sequence[int]) -> None:
    """Benchmark files as Snakemake writes them, one of a recipe and one of a shard that the run does not have."""
    files = {
        "inputs": 2.5,
        "weights/vit_small_focus": 8.0,
        "cut/comus/sdead": 99.0,
        "cut/stego/s0000": 99.0,
        "report": 9.0,
    }
    for shard in shards:
        files |= {f"features/set/{shard}": 12.25, f"cut/comus/{shard}": 3.5, f"regions/comus/{shard}": 0.5}
    for seed in seeds:
        files |= {f"cluster_fit/comus/seed{seed}": 1.5, f"rounds_train/comus/seed{seed}/round1": 20.0}
    for name, seconds in files.items():
        path = folder / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEAD + f"{seconds}\t0:00:01\t{100 * seconds}\t1\t1\t1\t0\t0\t50\t1\n")
    short = folder / "paint/kmeans/seed0" / f"{shards[0] if shards else 's0000'}.tsv"
    short.parent.mkdir(parents=True, exist_ok=True)
    short.write_text(HEAD + "0.05\t0:00:00\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA\n")


def report(root: Path, **settings: Any) -> Path:
    """The report of a run that `build` makes in a folder."""
    run(build(root, **settings), root / "results", root / "benchmarks", root / "report.html")
    return root / "report.html"
