"""What the jobs of the stage inputs read, write and depend on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from maskmill.dag.files import Graph, Source, Sources, Wildcards, job, listed, path

HELD = 0.0015  # MB of a file: bench/inputs.py


def _section(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return graph.run.config.inputs.model_dump(mode="json")


def _checks(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    """The section without what is decided where the parts are gathered."""
    gathered = ("shard_size", "max_rejected", "max_rejected_count", "depth")
    return {key: value for key, value in _section(graph, wildcards).items() if key not in gathered}


def _listing(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return _checks(graph, wildcards) | {"files": graph.files(), "parts": len(graph.parts)}


def named_sources(sources: str | Iterable[str]) -> str:
    """The sources of images as options of the verb `inputs`."""
    return " ".join(f"--images={shlex.quote(source)}" for source in listed(sources))


@job("demo", out="resources/demo/bikes.mp4")
def _demo(graph: Graph, wildcards: Wildcards) -> Sources:
    return {}


def _memory(graph: Graph, wildcards: Wildcards) -> int:
    """MB for what is held of every file by a job that sees all of them."""
    return round(1000 + graph.files() * HELD) if graph.parts else 0


@job("inputs_list", _listing, memory=_memory, out="results/inputs/listing.parquet")
def _list(graph: Graph, wildcards: Wildcards) -> Sources:
    """The demo's video. Other images are watched through their listing (see the rule): they may have any name."""
    return {"video": Source((path("demo"),), "no")} if graph.run.config.images == "demo" else {}


@job("inputs_check", _checks, out="results/inputs/checked/{part}.parquet")
def _check(graph: Graph, wildcards: Wildcards) -> Sources:
    return {"listing": Source((path("inputs_list"),))}


@job(
    "inputs",
    _section,
    memory=_memory,
    manifest="results/inputs/manifest.parquet",
    rejected="results/inputs/rejected.csv",
    classes="results/inputs/classes.json",
)
def _inputs(graph: Graph, wildcards: Wildcards) -> Sources:
    """The images themselves where they are few, as in the list; else the list and its parts, checked."""
    parts = graph.parts
    if not parts:
        return _list(graph, wildcards)
    checked = tuple(path("inputs_check", part=part) for part in parts)
    return {
        "listing": Source((path("inputs_list"),), asked=False),
        "checked": Source(checked, "folder", asked=False),
    }
