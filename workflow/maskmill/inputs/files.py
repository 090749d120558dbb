"""What the jobs of the stage inputs read, write and depend on."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

from maskmill.dag.files import Graph, Source, Sources, Wildcards, job, listed, path


def _section(graph: Graph, wildcards: Wildcards) -> dict[str, Any]:
    return graph.run.config.inputs.model_dump(mode="json")


def named_sources(sources: str | Iterable[str]) -> str:
    """The sources of images as options of the verb `inputs`."""
    return " ".join(f"--images={shlex.quote(source)}" for source in listed(sources))


@job("demo", out="resources/demo/bikes.mp4")
def _demo(graph: Graph, wildcards: Wildcards) -> Sources:
    return {}


@job(
    "inputs",
    _section,
    manifest="results/inputs/manifest.parquet",
    rejected="results/inputs/rejected.csv",
    classes="results/inputs/classes.json",
)
def _inputs(graph: Graph, wildcards: Wildcards) -> Sources:
    """The demo's video. Other images are watched through their listing (see the rule): they may have any name."""
    return {"video": Source((path("demo"),), "no")} if graph.run.config.images == "demo" else {}
