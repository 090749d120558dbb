"""`maskmill doctor`: what would stop a run, said before it starts."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from maskmill.errors import UserError
from maskmill.images.presence import check_presence
from maskmill.recipe import backbones
from maskmill.recipe.architectures import check_backbones
from maskmill.recipe.configuration import read_configuration
from maskmill.recipe.model import Run
from maskmill.recipe.packages import check_packages
from maskmill.recipe.resolve import load
from maskmill.redact import redact
from maskmill.store.disk import check_writable
from maskmill.store.manifest import read_shards
from maskmill.store.names import Leftover, leftovers, remove, shard_files

PACKAGES = ("snakemake", "torch", "timm", "zarr", "dask", "numpy", "scipy", "pydantic")
LOW_DISK_GIB = 5.0


def examine(config: Path | None, recipes: Path, clean: bool = False) -> bool:
    """Print one line a check; False when something would stop a run.

    Args:
        config: None for that of this folder. clean: remove what no run needs any more.
    """
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "versions": _versions,
        "device": _device,
        "timm": _timm,
        "disk": _disk,
        "config": lambda: _config(config, recipes),
        "results": lambda: _results(Path("results"), clean),
    }
    fine = True
    for name, check in checks.items():
        try:
            for line in check():
                print(f"ok    {name:9} {line}")
        except UserError as error:
            fine = False
            print(redact(f"fail  {name:9} {error}"))
        except Exception as error:  # a broken installation raises anything; the next check still runs
            fine = False
            print(redact(f"fail  {name:9} {type(error).__name__}: {error}"))
    return fine


def _versions() -> Iterator[str]:
    yield f"python {sys.version.split()[0]}, " + ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)


def _device() -> Iterator[str]:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        yield f"{torch.cuda.get_device_name()}: {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    else:
        yield f"no CUDA device; {os.cpu_count()} CPU cores"


def _timm() -> Iterator[str]:
    from maskmill.backbones.network import import_timm

    yield f"{len(import_timm().list_models())} architectures"


def _disk() -> Iterator[str]:
    free = shutil.disk_usage(".").free / 2**30
    if free < LOW_DISK_GIB:
        raise UserError(f"{Path.cwd()}: {free:.1f} GiB free; features need about 0.8 MB an image (448 px, ViT-S/14)")
    yield f"{free:.0f} GiB free in {Path.cwd()}"


def _config(config: Path | None, recipes: Path) -> Iterator[str]:
    body, origin = read_configuration(config)
    run: Run = load(body, recipes, origin)
    check_packages(run)
    check_backbones(run)
    check_presence(run, origin)
    named = ", ".join(run.config.sources)
    yield f"{origin}: recipes {', '.join(run.recipes)}; {len(run.feature_sets)} feature sets; images {named}"
    for feature_set in (part for each in run.feature_sets.values() for part in each.parts):
        if feature_set.pretrain is not None:
            file, later = Path(f"results/pretrain/{feature_set.weights_slug}/weights.safetensors"), "trained by the run"
        else:
            file, later = Path(f"resources/weights/{feature_set.weights_slug}.safetensors"), "fetched by the first run"
        state = "ready" if file.is_file() else later
        network = backbones.of(feature_set.backbone).network
        yield f"weights of {feature_set.backbone}: {state if network else 'none are needed'}"


def _results(folder: Path, clean: bool) -> Iterator[str]:
    """What lies in the results that nobody will read: of killed writers, and of shards that no longer exist."""
    check_writable([folder])
    found = [*leftovers(folder), *_old_shards(folder)]
    busy = [leftover for leftover in found if not leftover.gone]
    gone = [leftover for leftover in found if leftover.gone]
    for leftover in gone if clean else ():
        remove(leftover.path)
    if gone:
        done = "removed" if clean else "no run needs them; `maskmill doctor --clean` removes them"
        yield f"{_listed(gone)}: {done}"
    if busy:
        yield f"{_listed(busy)}: their writers run, or ran on another machine within the last day"
    if not found:
        yield "nothing half-written and no store of an old shard"


def _listed(found: Sequence[Leftover]) -> str:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    names = ", ".join(str(leftover.path) for leftover in found[:3])
    return f"{names}{more} ({sum(leftover.bytes for leftover in found) / 2**30:.2f} GiB)"


def _old_shards(folder: Path) -> Iterator[Leftover]:
    """Stores and tables of shards that the manifest does not have; none without a manifest."""
    manifest = folder / "inputs/manifest.parquet"
    if manifest.is_file():
        known = set(read_shards(manifest))
        for path in shard_files(folder):
            if path.stem not in known:
                yield Leftover.of(path)
