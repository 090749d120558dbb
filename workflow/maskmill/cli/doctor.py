"""`maskmill doctor`: what would stop a run, said before it starts."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from maskmill.errors import UserError
from maskmill.recipe.documents import read_mapping
from maskmill.recipe.model import Run
from maskmill.recipe.resolve import load
from maskmill.redact import redact

PACKAGES = ("snakemake", "torch", "timm", "zarr", "dask", "numpy", "scipy", "pydantic")
LOW_DISK_GIB = 5.0


def examine(config: Path, recipes: Path) -> bool:
    """Print one line a check; False when something would stop a run."""
    checks: dict[str, Callable[[], Iterator[str]]] = {
        "versions": _versions,
        "device": _device,
        "timm": _timm,
        "disk": _disk,
        "config": lambda: _config(config, recipes),
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


def _config(config: Path, recipes: Path) -> Iterator[str]:
    if not config.exists():
        raise UserError(f"{config}: no such file; run this where config.yaml is, or give --config")
    run: Run = load(read_mapping(config), recipes, str(config))
    images = run.config.images
    if images != "demo" and not any(mark in images for mark in "*?[") and not Path(images).exists():
        raise UserError(f"{config}: images: {images!r} does not exist")
    yield f"{config}: recipes {', '.join(run.recipes)}; {len(run.feature_sets)} feature sets; images {images}"
    for feature_set in run.feature_sets.values():
        file = Path(f"resources/weights/{feature_set.weights_slug}.safetensors")
        yield f"weights of {feature_set.backbone}: {'ready' if file.is_file() else 'fetched by the first run'}"
