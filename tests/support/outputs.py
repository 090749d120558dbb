"""Hashes of what a run is for: masks, instances, scores and exports of every recipe; and of the machine's numerics."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import safe_open

PACKAGES = (
    "av", "hnne", "igraph", "infomap", "llvmlite", "numba", "numcodecs", "numpy", "pandas", "pillow", "pyarrow",
    "pycocotools", "pynndescent", "scikit-learn", "scipy", "timm", "torch", "umap-learn", "zarr",
)  # fmt: skip


def outputs(work: Path) -> dict[str, str]:
    """Recipe/part -> hash. Left out are times, versions, provenance, and the weights of backbones: they are fetched."""
    found = {}
    for base in sorted((work / "results/recipes").iterdir()):
        for path in sorted(base.glob("**/scores.json")) + sorted(base.glob("*.json")):
            found[f"{base.name}/{path.relative_to(base)}"] = of_json(path)
        for folder in sorted(base.glob("seed*/round*/masks")) + sorted(base.glob("seed*/round*/instances")):
            files = sorted(file for file in folder.glob("*.zarr/*/c/**/*") if file.is_file())
            found[f"{base.name}/{folder.relative_to(base)}"] = of_files(folder, files)
        for export in sorted(base.glob("seed*/export")):
            found |= {
                f"{base.name}/{export.relative_to(base)}/{part}": hash_ for part, hash_ in exported(export).items()
            }
    return found


def exported(export: Path) -> dict[str, str]:
    """Part of an export -> hash."""
    found = {"masks": of_files(export, sorted((export / "masks").rglob("*.png")))}
    for path in sorted((*export.glob("*.*"), *export.glob("segmenter/*.*"))):
        name = str(path.relative_to(export))
        if path.suffix == ".safetensors":
            found[name] = of_tensors(path)
        else:
            found[name] = of_json(path) if path.name in ("export.json", "features.json") else of_text(path)
    return found


def of_files(root: Path, files: Iterable[Path]) -> str:
    """Of names and bytes."""
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(root)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def of_text(path: Path) -> str:
    """Of the bytes, but for the version of maskmill that they name."""
    return hashlib.sha256(re.sub(rb"maskmill \d+\.\d+\.\d+", b"maskmill", path.read_bytes())).hexdigest()


def of_json(path: Path) -> str:
    """Of the body without its provenance and what depends on it."""
    body = json.loads(path.read_text())
    for key in ("provenance", "checksum", "crc32c"):  # the files of `crc32c` hold their own provenance
        body.pop(key, None)
    text = json.dumps(body, indent=1) + "\n" if path.name == "features.json" else json.dumps(body)  # as recorded
    return hashlib.sha256(text.encode()).hexdigest()


def of_tensors(path: Path) -> str:
    """Of names, types, shapes and bytes; the header says which version wrote them."""
    total = hashlib.sha256()
    with safe_open(path, "np") as file:
        for name in sorted(file.keys()):
            tensor = np.ascontiguousarray(file.get_tensor(name))
            total.update(f"{name} {tensor.dtype} {tensor.shape}\0".encode() + tensor.tobytes())
    return total.hexdigest()


def machine() -> dict[str, object]:
    """What the last bits of a run depend on: the kernels that libraries choose here, and their versions."""
    import threadpoolctl
    import torch

    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = set((re.search(r"^flags\s*:(.*)", facts, re.M) or [""])[0].split())
    vendor = re.search(r"^vendor_id\s*:\s*(.*)", facts, re.M)
    pools = threadpoolctl.threadpool_info()
    return {
        "torch": torch.backends.cpu.get_cpu_capability(),
        "blas": sorted({str(pool.get("architecture")) for pool in pools if "blas" in pool["user_api"]}),
        "vendor": vendor[1] if vendor else "",
        "flags": sorted(flag for flag in flags if flag.startswith(("avx", "amx", "fma", "sse"))),
        "packages": {name: version(name) for name in PACKAGES},
    }


def version(name: str) -> str | None:
    """The installed version of a package, if there is one."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def key(facts: dict[str, object]) -> str:
    """A short name of the machine."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
