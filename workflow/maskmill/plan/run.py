"""Files of `maskmill plan`: configuration, recipes, an earlier run, a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.errors import ConfigError
from maskmill.plan.build import Machines, Measured, Plan, build
from maskmill.plan.images import PlannedImages, in_windows, mixture, of_manifest, of_one_size
from maskmill.plan.rates import Rates, of_run, read_benchmarks, too_short
from maskmill.recipe.configuration import read_configuration
from maskmill.recipe.model import Run
from maskmill.recipe.resolve import load
from maskmill.store.artefact import count_rows

PHOTO = (375, 500)  # height, width where nothing says it: the usual photo of PASCAL VOC and ImageNet


@dataclass(frozen=True)
class Earlier:
    """What an earlier run of the same configuration says: sizes of photos, rates, and what it took."""

    photos: Mapping[tuple[int, int], float]
    rates: Mapping[str, float]
    measured: Measured
    short: frozenset[str] = frozenset()


def configured(
    config: Path | None,
    folder: Path,
    recipes: Sequence[str] = (),
    size: int | None = None,
    shard_size: int | None = None,
) -> Run:
    """The run of a configuration, with other recipes, another size of every feature set, another shard size.

    Args:
        config: None for that of this folder. folder: of recipes.

    Raises:
        ConfigError: see `maskmill.recipe.resolve.load` and `read_configuration`.
    """
    body, origin = read_configuration(config)
    if recipes:
        body |= {"recipes": list(recipes)}
    if shard_size is not None:
        load(body, folder, origin)  # what is wrong in the file is said before anything is laid over it
        body |= {"inputs": dict(body.get("inputs") or {}) | {"shard_size": shard_size}}
    run = load(body, folder, origin)
    if size is None:
        return run
    own = dict(body.get("features") or {})
    for recipe in run.recipes.values():
        for name, feature_set in recipe.features.items():
            side = next(side for side, value in feature_set.size.model_dump().items() if value is not None)
            own[name] = dict(own.get(name) or {}) | {"size": {side: size}}
    return load(body | {"features": own}, folder, "--size")


def earlier(folder: Path, run: Run) -> Earlier:
    """What a finished, smaller run in `folder` says.

    Raises:
        ConfigError: no manifest or no benchmarks there.
    """
    manifest, benchmarks = folder / "results/inputs/manifest.parquet", folder / "benchmarks"
    for path in (manifest, benchmarks):
        if not path.exists():
            raise ConfigError(
                f"--from: {path} does not exist; give the folder in which snakemake ran, after a small run"
            )
    images = of_manifest(manifest)
    found = read_benchmarks(benchmarks)
    regions = {
        name: _rows(folder / f"results/recipes/{name}/regions") / images.count
        for name, recipe in run.recipes.items()
        if not recipe.tokens and (folder / f"results/recipes/{name}/regions").is_dir()
    }
    peaks: dict[str, float] = {}
    for job in found:
        peaks[job.rule] = max(peaks.get(job.rule, 0.0), job.memory or 0.0)
    sizes = _sizes(folder, run, images.count)
    rates = of_run(found, run, images, regions)
    return Earlier(mixture(images), rates, Measured(regions, sizes, peaks), too_short(found))


def _rows(folder: Path) -> int:
    """Rows of all region tables."""
    return sum(map(count_rows, folder.glob("*.parquet")))


def _sizes(folder: Path, run: Run, images: int) -> dict[str, float]:
    """Bytes of an image by `name/owner` of what is compressed."""
    found = {"manifest/": _bytes([folder / "results/inputs/manifest.parquet"])}
    for name in run.recipes:
        base = folder / "results/recipes" / name
        segmenters = list(base.glob("seed*/export/segmenter"))  # no bytes of an image
        found |= {
            f"cut/{name}": _bytes([base / "cut"]),
            f"regions/{name}": _bytes(base.glob("regions/*.parquet")),
            f"assignments/{name}": _bytes(base.glob("seed*/cluster/*.parquet")),
            f"masks/{name}": _bytes(base.glob("seed*/round*/masks")),
            f"confidence/{name}": _bytes(base.glob("seed*/round*/confidence")),
            f"instances/{name}": _bytes([*base.glob("seed*/round*/instances"), *base.glob("seed*/round*/taught")]),
            f"export/{name}": _bytes(base.glob("seed*/export")) - _bytes(segmenters),
        }
    return {name: total / images for name, total in found.items() if total}


def _bytes(paths: Any) -> int:
    """Bytes of files and folders; links that an export has to photos are none."""
    return sum(
        file.stat().st_size
        for path in paths
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file() and not (file.is_symlink() and "export" in file.parts)
    )


def plan(
    run: Run,
    images: int | None,
    machines: Machines,
    given: Mapping[str, float],
    *,
    photo: tuple[int, int] | None = None,
    manifest: Path | None = None,
    from_folder: Path | None = None,
) -> Plan:
    """Plan a run of `images` images, or of those of a manifest.

    Args:
        photo: (height, width) of the images, at the level that is read; default: those of `from_folder`, else 375 x
            500. With `inputs.window`, larger ones count as their windows.

    Raises:
        ConfigError: neither images nor a manifest, or both.
    """
    if (images is None) == (manifest is None):
        raise ConfigError(
            "maskmill plan: give --images, such as 1e8, or --manifest of images that were checked; not both"
        )
    before = earlier(from_folder, run) if from_folder is not None else None
    planned: PlannedImages
    if manifest is not None:
        planned = of_manifest(manifest)
    else:
        sizes = {photo or PHOTO: 1.0} if photo or before is None else before.photos
        window, pictures = run.config.inputs.window, images or 0
        if window is not None and (photo or before is None):  # an earlier run has counted its windows
            many, sizes = in_windows(sizes, window)
            pictures = round(pictures * many)
        planned = of_one_size(pictures, run.config.inputs.shard_size, sizes)
    rates = Rates(given, before.rates, short=before.short) if before else Rates(given)
    measured = before.measured if before else None
    return build(run, planned, rates, machines, earlier=measured, free=shutil.disk_usage(".").free)
