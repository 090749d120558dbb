"""Results that were deleted from a finished run: made again, and nothing that was made from them.

Snakemake does not miss a file that only finished jobs have read. Asked for it, it would run all of these jobs again.
But an artefact is a function of what was asked of its job, so what was made from it is still right: only the missing
files are asked for, and afterwards their times are set to what they must have been before.

Snakemake runs what lies between two missing files again, since the first is new then. Where that would train a network
again, the first one waits for the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs, targets

_STAMP = ".snakemake_timestamp"  # whose time Snakemake takes for that of a folder


_TRAINED = ("adapt_fit", "rounds_train")


@dataclass(frozen=True)
class Deleted:
    """The jobs of a finished run whose files are not all there.

    Attributes:
        run: all jobs of the run, in the order of the flow. missing: the keys of those to run now. later: of those that
            wait. place: what comes before the names of the graph on the disk. since: the time of the newest file of
            the run, in ns since 1970; what is newer was made after it.
    """

    run: Mapping[str, Job]
    missing: frozenset[str]
    later: frozenset[str]
    place: str
    since: int

    def files(self) -> list[str]:
        """The files to make now."""
        return [file for job in self._of(self.missing) for file in job.outputs if not _exists(self.place + file)]

    def message(self) -> str:
        """What is said before the run."""
        files = self.files()
        shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
        later = f" Then run the same command again for {len(self.later)} more." if self.later else ""
        return (
            f"This run had finished, and files of it are gone: {shown}. They are made again; what was made from them is"
            f" still right and stays.{later}"
        )

    def set_times(self) -> list[str]:
        """Give what was made again the time of the oldest file that was made from it; the files whose time was set.

        Where something else was made anew before it, the new time is the right one and stays.
        """
        changed = []
        flow = Flow.of(self.run)
        again = self.missing | flow.between(self.missing)
        made = {file for key in again for file in self.run[key].outputs}
        for job in reversed(self._of(again)):
            ahead = self._there(file for key in flow.readers[job.key] for file in self.run[key].outputs)
            others = self._there(file for file in _watched(job) if file not in made)
            if not ahead or any(_time(file) > self.since for file in others):
                continue
            then = min(map(_time, ahead))
            for file in self._there(job.outputs):
                _set_time(file, then)
                changed.append(file)
        return changed[::-1]

    def _of(self, keys: Iterable[str]) -> list[Job]:
        wanted = set(keys)
        return [job for key, job in self.run.items() if key in wanted]

    def _there(self, files: Iterable[str]) -> list[str]:
        return [self.place + file for file in files if _exists(self.place + file)]


def deleted(graph: Graph, asked: Asked, place: str = "") -> Deleted | None:
    """What is missing from a finished run; none where nothing is, or where the run is not finished.

    A run is finished when its targets are there and every artefact that is there is what is asked for now.

    Args:
        place: what comes before the names of the graph (a module may move them).
    """
    if not all(_exists(place + file) for file in targets(graph)):
        return None
    run = jobs(graph)
    missing = {
        key
        for key, job in run.items()
        if not _temporary(graph, job) and not all(_exists(place + file) for file in job.outputs)
    }
    if not missing:
        return None
    there = [(job, place + file) for job in run.values() for file in job.outputs if _exists(place + file)]
    if any(stamp(Path(file)) not in (None, asked.of(job.rule, job.wildcards)) for job, file in there):
        return None
    later = _later(run, missing)
    return Deleted(run, frozenset(missing - later), frozenset(later), place, max(_time(file) for _, file in there))


def _later(run: Mapping[str, Job], missing: set[str]) -> set[str]:
    """The missing jobs that wait: a training that is there lies between each of them and another missing job."""
    flow = Flow.of(run)
    alike: dict[tuple[str, str], set[str]] = {}  # the jobs of all shards are judged together
    for key in run:
        if key in missing:
            others = {name: value for name, value in run[key].wildcards.items() if name != "shard"}
            alike.setdefault((run[key].rule, json.dumps(others, sort_keys=True)), set()).add(key)
    now: set[str] = set()
    for keys in reversed(alike.values()):
        if not any(run[other].rule in _TRAINED for other in flow.between(now | keys) - missing):
            now |= keys
    return missing - now


@dataclass(frozen=True)
class Flow:
    """Which job follows which, by keys; only over files whose time means something to their reader."""

    readers: Mapping[str, Sequence[str]]
    sources: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, run: Mapping[str, Job]) -> Flow:
        """Of all jobs of a run."""
        makers = {file: key for key, job in run.items() for file in job.outputs}
        readers: dict[str, list[str]] = {key: [] for key in run}
        sources: dict[str, list[str]] = {key: [] for key in run}
        for key, job in run.items():
            for maker in {makers[file] for file in _watched(job)}:
                readers[maker].append(key)
                sources[key].append(maker)
        return cls(readers, sources)

    def between(self, chosen: Iterable[str]) -> set[str]:
        """The jobs that follow one of the chosen jobs and precede another, without these."""
        chosen = set(chosen)
        return (_reach(self.readers, chosen) & _reach(self.sources, chosen)) - chosen


def _reach(steps: Mapping[str, Sequence[str]], start: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    ahead = list(start)
    while ahead:
        for key in steps[ahead.pop()]:
            if key not in seen:
                seen.add(key)
                ahead.append(key)
    return seen


def _temporary(graph: Graph, job: Job) -> bool:
    return job.rule == "features" and job.wildcards["features"] in graph.run.temporary


def _watched(job: Job) -> list[str]:
    """The files that a job reads and whose time means something to it."""
    return [file for source in job.inputs.values() if not source.timeless for file in source.files]


def stamp(path: Path) -> str | None:
    """The hash of what was asked of the job that wrote an artefact; None where the format carries none."""
    with contextlib.suppress(OSError, ValueError, KeyError):  # damaged: its reader says so
        return provenance_of(path).get("asked")
    return None


def provenance_of(path: Path) -> Mapping[str, Any]:
    """What an artefact says of its maker, read without the rest of it."""
    if path.suffix == ".zarr":
        return json.loads((path / "zarr.json").read_text())["attributes"]["provenance"]
    if path.suffix == ".json":
        return json.loads(path.read_text())["provenance"]
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return json.loads(json.loads(file.read(size))["__metadata__"]["maskmill"])
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return json.loads(pq.read_metadata(path).metadata[b"maskmill"])
    return {}


def _exists(file: str) -> bool:
    return os.path.lexists(file)


def _time(file: str) -> int:
    """The time that Snakemake goes by, in ns since 1970."""
    inside = os.path.join(file, _STAMP)
    return os.lstat(inside if os.path.isdir(file) and os.path.lexists(inside) else file).st_mtime_ns


def _set_time(file: str, ns: int) -> None:
    for name in (os.path.join(file, _STAMP), file):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.utime(name, ns=(ns, ns))
