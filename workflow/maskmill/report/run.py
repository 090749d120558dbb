"""report: everything that a run has made -> one HTML file that opens anywhere, without a network.

Only a sample of the images is read, whatever the size of the run: the gallery, a few hundred images for the shares of
the clusters, and the typical pieces of each cluster.
"""

from __future__ import annotations

import csv
import importlib.metadata
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskmill import __version__
from maskmill.errors import StoreError
from maskmill.images import sample as _sample
from maskmill.redact import redact
from maskmill.report import (
    _confidence,
    _heads,
    _objects,
    _page,
    _pretrain,
    _quality,
    _reading,
    _recipe,
    _scores,
    _time,
    _timing,
)
from maskmill.store.atomic import atomic
from maskmill.store.hashing import json_hash
from maskmill.store.seal import file_crc32c

REJECTED_SHOWN = 200
PACKAGES = ("numpy", "torch", "timm", "zarr", "pyarrow", "pillow", "scipy", "snakemake")


def run(plan: Mapping[str, Any], results: str | Path, benchmarks: str | Path, out_html: str | Path) -> None:
    """Write the report.

    Args:
        plan: the resolved run: title, gallery, typical, images, labels, seeds, and recipes as
            {name: {description, tokens, rounds, clusters, sections}}; optional: objects (true where objects
            were scored), panoptic (true where panoptic quality was), time (true where masks were compared over time),
            probes and readouts (of `_scores.read_readouts`), pretrained (backbones that the run trains, of
            `_pretrain.read`), provenance (more lines for the provenance table). Which shards there are is read from
            the manifest.
        results: the folder `results` of the run; benchmarks: where Snakemake writes its benchmark files.
        out_html: the file to write; appears when complete.

    Raises:
        StoreError: an artefact that the run must have made is missing, truncated or foreign. A photo that has moved
            since, and absent scores or benchmarks, are no errors: the report says so.
    """
    results, seeds = Path(results), [int(seed) for seed in plan["seeds"]]
    recipes: dict[str, Mapping[str, Any]] = dict(plan["recipes"])
    sample = _sample.read(results / "inputs/manifest.parquet", int(plan["gallery"]))
    scores = _scores.read_scores(results, {name: int(body["rounds"]) for name, body in recipes.items()}, seeds)
    others = _scores.read_candidates(results, recipes, seeds)
    readouts = [str(name) for name in plan.get("readouts") or ()]
    probes = _scores.read_readouts(results, plan.get("probes") or {}, seeds, readouts)
    cuts = _objects.read(results, recipes) if plan.get("objects") else []
    jobs = _timing.read_jobs(Path(benchmarks), recipes, sample.shards)
    photos = _recipe.ReportPhotos(sample)
    context = _recipe.ViewContext(results, seeds, len(recipes), int(plan["typical"]), sample, photos, scores)
    views = [_recipe.view(name, body, context) for name, body in recipes.items()]
    rejected, rejected_total = _rejected(results / "inputs/rejected.csv", sample.rejected_crc32c)
    html = _page.render(
        title=str(plan["title"]),
        images=redact(str(plan.get("images") or "")),
        seeds=seeds,
        sample=sample,
        gallery=photos.gallery(),
        readings_of_files=_reading.read(sample, photos),
        broken=photos.broken,
        recipes=views,
        boards=[
            *_scores.boards([*scores, *others]),
            *_scores.boards(_scores.read_boundaries(scores)),
            *_scores.boards(_scores.read_oracles(cuts)),
            *_scores.boards(probes, _scores.PROBES),
        ],
        readings=[_scores.READINGS[name] for name in readouts] if probes else [],
        object_boards=_objects.boards(cuts, scores if plan.get("objects") or plan.get("panoptic") else []),
        over_time=_time.read(results, recipes, seeds[0]) if plan.get("time") else [],
        quality=_quality.measure(results, recipes, seeds, sample),
        confidence=_confidence.measured(results, recipes, seeds[0], sample) if seeds else [],
        backbones=_pretrain.read(results, plan.get("pretrained") or {}),
        heads=_heads.read(results, recipes, seeds),
        jobs=jobs,
        rejected=rejected,
        rejected_total=rejected_total,
        provenance=_provenance(plan),
    )
    with atomic(out_html) as temporary:
        size = temporary.write_bytes(html.encode(errors="backslashreplace")) / 2**20
    print(f"report: {len(sample.gallery)} of {sample.total} images, {size:.1f} MiB: {out_html}", file=sys.stderr)


def _rejected(path: Path, crc32c: int | None) -> tuple[list[dict[str, str]], int]:
    """The first rejected files (id, path, reason), and how many there are; `crc32c` is that of the manifest."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file; run snakemake to make it")
    if crc32c not in (None, file_crc32c(path)):
        raise StoreError(f"{path}: damaged, or of other inputs than the manifest; delete it and run snakemake again")
    shown, total = [], 0
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            total += 1
            if total <= REJECTED_SHOWN:
                shown.append({key: row.get(key) or "" for key in ("id", "path", "reason")})
    return shown, total


def _provenance(plan: Mapping[str, Any]) -> dict[str, str]:
    """Versions of what runs here, the hash of the plan, and what the caller adds."""
    found = {"maskmill": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {"system": f"{platform.system()} {platform.machine()}"}
    found |= {str(key): redact(str(value)) for key, value in (plan.get("provenance") or {}).items()}
    return found | {"hash of the configuration": json_hash({k: v for k, v in plan.items() if k != "provenance"})}
