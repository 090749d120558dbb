"""Results that were deleted from a finished run: made again, and nothing that was made from them.

Snakemake does not miss a file that only finished jobs have read, and asked for it, it would run all of these jobs
again. So a run that ends well is recorded: its configuration as one hash, and the time of every file. As long as the
next start finds the same configuration, and every file either as it was or gone, only what is gone is asked for. An
artefact is a function of what was asked of its job, so what was made from it stays right, and the new file gets the
recorded time. Anything else, a changed setting or a file with another time, is left to Snakemake.

Snakemake runs what lies between two missing files again, since the first is new then. Where that would train a network
again, the first one waits for the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph, jobs_of_rules
from maskmill.dag.flow import Flow
from maskmill.dag.jobs import Job, jobs, targets
from maskmill.errors import StoreError
from maskmill.store.artefact import read_json, write_json
from maskmill.store.expected import compare
from maskmill.store.provenance import Provenance, read_provenance

RECORD = "results/.finished.json"
_KEPT = ("told", "times", "asked", "contents")
_STAMP = ".snakemake_timestamp"  # whose time Snakemake takes for that of a folder
_TRAINED = ("pretrain_fit", "adapt_fit", "rounds_train")
# Their results depend on the content of files that the settings only name.
_WATCHING = (
    "inputs",
    "inputs_list",
    "inputs_check",
    "evaluate",
    "evaluate_candidates",
    "evaluate_objects",
    "evaluate_probe",
    "evaluate_codes",
)
_UNREAD = ("timing",)  # names of outputs that no job reads and no result depends on


@dataclass(frozen=True)
class Finished:
    """The record of a run that ended well.

    Attributes:
        place: what comes before the names of the graph on the disk (a module may move them). told: the hash of all
            that its results depend on. times: file of the graph -> its time, in ns since 1970. asked: file -> the hash
            of what was asked of its job. contents: the hash of local checkpoints. restoring: files that were being made
            again when the last run ended.
    """

    place: str
    told: str
    times: Mapping[str, int]
    asked: Mapping[str, str]
    contents: str = ""
    restoring: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        graph: Graph,
        asked: Asked,
        told: str,
        place: str = "",
        contents: str = "",
        before: Finished | None = None,
    ) -> Finished:
        """Of a run whose files are all as they should be.

        Args:
            before: an earlier record. What has been deleted since and nothing has needed stays known, so that the next
                start misses it.
        """
        run = jobs(graph).values()
        known = {file: asked.of(job.rule, job.wildcards) for job in run for file in _lasting(job)}
        gone = {file for job in run if _temporary(graph, job) for file in job.outputs}
        there = [file for file in known if file not in gone and os.path.lexists(place + file)]
        times = {file: _time(place + file) for file in there}
        if before is not None and before.contents == contents:
            lost = before.times.keys() & known.keys() - times.keys()
            times |= {file: before.times[file] for file in sorted(lost) if before.asked.get(file) == known[file]}
        return cls(place, told, times, known, contents)

    @classmethod
    def read(cls, place: str = "") -> Finished | None:
        """The record; none where there is none that can be read."""
        try:
            body = read_json(place + RECORD)
            return cls(place, restoring=tuple(body.pop("restoring")), **{name: body[name] for name in _KEPT})
        except (StoreError, KeyError, TypeError):
            return None

    def write(self) -> None:
        """Keep it for the next start."""
        body = {name: getattr(self, name) for name in _KEPT} | {"restoring": list(self.restoring)}
        write_json(self.place + RECORD, body, Provenance.of("report", {}))

    def forget(self) -> None:
        """Remove the record: what follows is Snakemake's business."""
        with contextlib.suppress(OSError):
            os.unlink(self.place + RECORD)

    def set_times(self) -> None:
        """Give files that were made again the time that they had."""
        for file in self.restoring:
            if os.path.lexists(self.place + file):
                _set_time(self.place + file, self.times[file])

    def changed(self) -> list[str]:
        """The files that are there and have another time than they had."""
        there = (file for file in self.times if os.path.lexists(self.place + file))
        return [file for file in there if _time(self.place + file) != self.times[file]]

    def gone(self) -> list[str]:
        """The files that are not there any more."""
        return [file for file in self.times if not os.path.lexists(self.place + file)]


@dataclass(frozen=True)
class Deleted:
    """What is made again of a finished run.

    Attributes:
        finished: its record; `restoring` has the files of all jobs that will run. now: the files to ask for. later: how
            many wait for the next start.
    """

    finished: Finished
    now: list[str]
    later: int

    def message(self, dry: bool = False) -> str:
        """What is said before the run."""
        shown = ", ".join(self.now[:5]) + (f" and {len(self.now) - 5} more" if len(self.now) > 5 else "")
        later = f" Then run the same command again for {self.later} more." if self.later else ""
        return (
            f"This run had finished, and files of it are gone: {shown}. They {'would be' if dry else 'are'} made again;"
            f" what was made from them is still right and stays.{later}"
        )

    def done(self) -> None:
        """After the run: the times are as they were, unless something else was made anew as well."""
        if set(self.finished.changed()) <= set(self.finished.restoring):
            self.finished.set_times()
            replace(self.finished, restoring=()).write()
        else:
            self.finished.forget()


@dataclass(frozen=True)
class Seen:
    """What a start finds of a finished run: its record, the files with another time, and those that are gone."""

    finished: Finished
    changed: list[str]
    gone: list[str]


def look(place: str = "") -> Seen | None:
    """Compare the disk with the record, before the first job; none where there is no record."""
    finished = Finished.read(place)
    return None if finished is None else Seen(finished, finished.changed(), finished.gone())


def deleted(graph: Graph, asked: Asked, told: Callable[[], str], seen: Seen | None) -> Deleted | None:
    """What is missing from a finished run; none where nothing is, or where the run is not as it was.

    Args:
        told: gives the hash of all that the results of this run depend on.

    Raises:
        StoreError: a file has been replaced by one that is not what is asked for.
    """
    if seen is None or not (seen.gone or seen.changed) or told() != seen.finished.told:
        return None
    finished, changed, gone = seen.finished, seen.changed, seen.gone
    _check_stamps(asked, finished.place, changed)
    if set(changed) - set(finished.restoring):
        return None
    finished.set_times()  # of what an interrupted start made again
    if not gone:
        return None
    run = jobs(graph)
    missing = {key for key, job in run.items() if set(_lasting(job)) & set(gone)}
    if not missing or not all(_repeatable(graph, run[key]) for key in missing):
        return None
    flow = Flow.of(run)
    now = missing - _later(run, flow, missing)
    again = [file for key in now | flow.between(now) for file in _lasting(run[key]) if file in finished.times]
    wanted = {file for key in now for file in _lasting(run[key])}
    return Deleted(
        replace(finished, restoring=tuple(again)), [file for file in gone if file in wanted], len(set(gone) - wanted)
    )


def unmade(graph: Graph, asked: Asked, seen: Seen | None, place: str = "", contents: str = "") -> list[str]:
    """Missing files that Snakemake would not miss, of a run whose targets are there and which is not as it was.

    A job that fails has lost its former output, and its readers have finished before: Snakemake would find nothing to
    do, and what they made would stay as it is. Files that somebody deleted are not among these, where what was made
    from them is still right: those that a job of the same settings made from the same images, when the run finished.

    Args:
        seen: none where nothing is known of the run. contents: the hash of local checkpoints.
    """
    if not all(os.path.lexists(place + file) for file in targets(graph)):
        return []
    before = seen.finished.asked if seen and seen.finished.contents == contents else {}
    return [
        file
        for job in jobs(graph).values()
        if not _temporary(graph, job)
        for file in _lasting(job)
        if not os.path.lexists(place + file)
        and (job.rule in _WATCHING or before.get(file) != asked.of(job.rule, job.wildcards))
    ]


def _check_stamps(asked: Asked, place: str, files: Iterable[str]) -> None:
    """Files that have another time than when the run finished are what is asked for; raises StoreError as `compare`."""
    for file in files:
        found = read_provenance(place + file)
        if found is not None:
            compare(place + file, found, asked.of_file(file))


def _later(run: Mapping[str, Job], flow: Flow, missing: set[str]) -> set[str]:
    """The missing jobs that wait: a training that is there lies between each of them and another missing job."""
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


def _lasting(job: Job) -> list[str]:
    """The outputs of a job that others read or a person wants."""
    names = jobs_of_rules()[job.rule].outputs
    return [file for name, file in zip(names, job.outputs, strict=True) if name not in _UNREAD]


def _temporary(graph: Graph, job: Job) -> bool:
    return job.rule == "features" and job.wildcards["features"] in graph.run.temporary


def _repeatable(graph: Graph, job: Job) -> bool:
    """False for an embedding that its settings allow to differ from run to run."""
    if job.rule not in ("reduce_fit", "reduce_map"):
        return True
    params = graph.recipe(job.wildcards).reduce.as_dict()
    return bool(params.get("deterministic", True)) and not params.get("gpu", False)


def _time(file: str) -> int:
    """The time that Snakemake goes by, in ns since 1970."""
    inside = os.path.join(file, _STAMP)
    return os.lstat(inside if os.path.isdir(file) and os.path.lexists(inside) else file).st_mtime_ns


def _set_time(file: str, ns: int) -> None:
    for name in (os.path.join(file, _STAMP), file):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.utime(name, ns=(ns, ns))
