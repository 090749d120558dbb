"""The graph of jobs of a run, built without Snakemake: which jobs there are, and which of them run again.

`maskmill plan` counts jobs with it, and the tests of "what runs again after which change" ask it. It follows the same
description as the rules (`maskmill.dag.files`), from the targets back to the images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from maskmill.dag.files import Graph, Sources, jobs_of_rules, path
from maskmill.recipe.model import CANDIDATES
from maskmill.recipe.scoring import READOUTS
from maskmill.recipe.stages import RULES

# Wildcards as regular expressions, as in the rules. Round 0 is what the stage paint writes.
CONSTRAINTS = {
    "recipe": "[^/]+", "features": "[^/]+", "weights": "[^/]+", "pretrained": "[^/]+",
    "shard": "s[0-9a-f]{10}", "seed": r"\d+", "part": r"p\d{4}", "candidate": "|".join(CANDIDATES),
    "readout": "|".join(READOUTS),
}  # fmt: skip
ONE_SHARD = "s0000000000"  # the name of the shard of a graph that is only counted or drawn
ONE_PART = "p0000"  # likewise of a part of the images
SCORED = r"\d+"  # a round whose masks are scored
TRAINED = r"[1-9]\d*"  # a round of the stage rounds


@dataclass(frozen=True)
class Job:
    """One job: its rule, its wildcards, what it reads, what it writes, and the values that it depends on as JSON."""

    rule: str
    wildcards: Mapping[str, str]
    inputs: Sources
    outputs: tuple[str, ...]
    depends: str

    @property
    def key(self) -> str:
        """The job's name: its first output."""
        return self.outputs[0]

    @property
    def owner(self) -> str:
        """The recipe, the feature set or the trained weights that it belongs to; nothing where it serves the run."""
        names = (self.wildcards[name] for name in ("recipe", "features", "pretrained") if name in self.wildcards)
        return next(names, "")


@cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """(rule, expression) of every output."""
    found = []
    for rule, files in jobs_of_rules().items():
        known = CONSTRAINTS | {"round": SCORED if rule == "evaluate" else TRAINED}
        for pattern in files.outputs.values():
            parts = re.split(r"{(\w+)}", pattern)
            text = "".join(
                re.escape(part) if i % 2 == 0 else f"(?P<{part}>{known[part]})" for i, part in enumerate(parts)
            )
            found.append((rule, re.compile(text)))
    return tuple(found)


def producer(file: str) -> tuple[str, dict[str, str]]:
    """The rule that writes a file, and its wildcards.

    Raises:
        LookupError: no rule writes it, or more than one.
    """
    found = [(rule, match.groupdict()) for rule, pattern in _patterns() if (match := pattern.fullmatch(file))]
    if len(found) != 1:
        raise LookupError(f"{file}: written by {', '.join(rule for rule, _ in found) or 'no rule'}")
    return found[0]


def targets(graph: Graph) -> list[str]:
    """What a run is asked for: the report, and the export of every recipe's first seed."""
    seed = graph.run.config.seeds[0]
    return [path("report"), *(path("export", recipe=name, seed=seed) for name in graph.run.recipes)]


def jobs(graph: Graph, wanted: Iterable[str] | None = None) -> dict[str, Job]:
    """Every job of a run that starts from nothing, by its key, in the order of the flow.

    Args:
        wanted: files to make; default: the targets of the run.
    """
    found: dict[str, Job] = {}
    seen: set[str] = set()
    ahead = list(targets(graph) if wanted is None else wanted)
    while ahead:
        file = ahead.pop()
        if file in seen:
            continue
        rule, wildcards = producer(file)
        outputs = tuple(pattern.format(**wildcards) for pattern in jobs_of_rules()[rule].outputs.values())
        seen.update(outputs)
        job = Job(rule, wildcards, graph.inputs(rule, wildcards), outputs, graph.depends(rule, wildcards))
        found[job.key] = job
        ahead += [name for source in job.inputs.values() for name in source.files]
    order = {rule: i for i, rule in enumerate(RULES)}
    return dict(sorted(found.items(), key=lambda item: (order[item[1].rule], item[0])))


def run_again(before: Mapping[str, Job], now: Mapping[str, Job]) -> dict[str, Job]:
    """The jobs of a run that Snakemake runs after a finished run `before`, with the triggers mtime, params and input.

    A job runs again where the values that it depends on or the files that it reads have changed, or where a job runs
    that writes what it reads; except for files whose time means nothing to it.
    """
    makers = {output: job for job in now.values() for output in job.outputs}
    stale: dict[str, Job] = {}

    def judge(job: Job) -> bool:
        if job.key in stale:
            return True
        old = before.get(job.key)
        files = {file for source in job.inputs.values() for file in source.files}
        if old is None or old.depends != job.depends:
            return True
        if files != {file for source in old.inputs.values() for file in source.files}:
            return True
        watched = (file for source in job.inputs.values() if not source.timeless for file in source.files)
        return any(makers[file].key in stale for file in watched)

    changed = True
    while changed:  # a pass in the order of the flow settles all but rounds, whose rules read one another
        fresh = {key: job for key, job in now.items() if key not in stale and judge(job)}
        stale |= fresh
        changed = bool(fresh)
    return {key: job for key, job in now.items() if key in stale}


def either(names: Iterable[str]) -> str:
    """The expression of a wildcard that is one of some names; of no names, one that nothing matches."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"
