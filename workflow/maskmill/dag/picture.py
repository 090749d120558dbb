"""The stages as a table and as a picture, for the documentation: both drawn from what the workflow runs by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from maskmill.dag.files import Graph
from maskmill.dag.jobs import ONE_SHARD, jobs, producer
from maskmill.recipe import registry
from maskmill.recipe.resolve import load
from maskmill.recipe.stages import STAGE_OF, STAGES


def table() -> str:
    """A Markdown table: a row a stage, with what it reads and writes, its rules and its methods."""
    rows = ["| stage | reads | writes | rules | methods |", "|---|---|---|---|---|"]
    for spec in STAGES:
        rules = ", ".join(f"{rule.name}{' *' if rule.per_shard else ''}" for rule in spec.rules)
        methods = ", ".join(registry.available(spec.name)) if spec.method_key else ""
        rows.append(f"| {spec.name} | {spec.reads} | {spec.writes} | {rules} | {methods} |")
    return "\n".join(rows)


def edges(recipes: Path) -> list[tuple[str, str]]:
    """(stage, stage that reads what it writes), over every recipe of a folder, in the order of the flow."""
    found = set()
    names = sorted(path.stem for path in recipes.glob("*.yaml"))
    named = {"taxonomy": {"source": "examples", "labels": "labels"}}
    asked = {"objects": True, "linear_probe": True, "retrieval": True, "segment_retrieval": True, "time": True}
    scored = {"labels": "labels", "evaluate": asked, "tracks": {}}
    for name in names:
        nameless = load({"recipes": [name]}, recipes).recipes[name].paint.settings.stuff is not None
        wanted = {"recipes": [name]} | scored | ({} if nameless else named)  # classes of stuff have no names
        graph = Graph(load(wanted, recipes), lambda: [ONE_SHARD])
        for job in jobs(graph).values():
            files = (file for source in job.inputs.values() for file in source.files)
            found |= {(STAGE_OF[producer(file)[0]], STAGE_OF[job.rule]) for file in files}
    order = [spec.name for spec in STAGES]
    return sorted(found, key=lambda edge: (order.index(edge[0]), order.index(edge[1])))


def picture(recipes: Path) -> str:
    """The same as a Mermaid flowchart.

    The manifest goes to every stage and everything goes to the report: these arrows would hide the others.
    """
    return "\n".join(_flowchart(edges(recipes)))


def _flowchart(found: list[tuple[str, str]]) -> Iterator[str]:
    yield "flowchart LR"
    yield "  inputs --> features"
    for source, target in found:
        if source == "inputs" or source == target != "rounds" or target == "report":
            continue
        label = "|r + 1|" if source == target else ""
        yield f"  {source} -->{label} {target}"
    yield "  evaluate --> report"
    yield "  rounds --> report"
