"""Which job of a run follows which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from maskmill.dag.jobs import Job


@dataclass(frozen=True)
class Flow:
    """Keys of the jobs that read what a job writes, and of those whose files it reads.

    Only files whose time means something to their reader count.
    """

    readers: Mapping[str, Sequence[str]]
    sources: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, run: Mapping[str, Job]) -> Flow:
        """Of all jobs of a run."""
        makers = {file: key for key, job in run.items() for file in job.outputs}
        readers: dict[str, list[str]] = {key: [] for key in run}
        sources: dict[str, list[str]] = {key: [] for key in run}
        for key, job in run.items():
            watched = (file for source in job.inputs.values() if not source.timeless for file in source.files)
            for maker in {makers[file] for file in watched}:
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
