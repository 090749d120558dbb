"""What the workflow expects of the job that this process runs: of what it reads and of what it writes.

The workflow passes it to every job (`maskmill --job`). An artefact carries, in its provenance, the hash of what the
configuration asked of the job that wrote it (`asked`, computed in `maskmill.dag.asked`). A job that reads an artefact
compares that with what the present configuration asks for. So an artefact that a job of an earlier configuration has
left behind is named, and not used. A verb that a person calls by hand expects nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maskmill.errors import ConfigError, StoreError
from maskmill.store import claims
from maskmill.store.disk import disk_errors
from maskmill.store.hashing import json_hash
from maskmill.store.words import packed, unpacked
from maskmill.store.writer import Writer

_SHOWN = 400  # characters of the parameters in a message


@dataclass(frozen=True)
class Expected:
    """What a job is expected to read and write.

    Attributes:
        asked: the hash of what the configuration asks of this job. reads: path of a file -> what is asked of the job
            that writes it; a path with `/` at its end is a folder with a file a shard, and its hash lacks the shard.
        writes: the files that the job writes. writer: the process that claimed them.
    """

    asked: str
    reads: Mapping[str, str]
    writes: tuple[str, ...]
    writer: Writer = field(default_factory=Writer.current)

    def of(self, path: str | Path) -> str | None:
        """What is asked of the job that writes a file; None where nothing is known of it."""
        name = os.path.normpath(path)
        if name in self.reads:
            return self.reads[name]
        base = self.reads.get(f"{os.path.dirname(name)}/")
        return None if base is None else of_shard(base, Path(name).stem)


_current: Expected | None = None


def of_shard(base: str, shard: str) -> str:
    """What is asked of a job of one shard, from what is asked of all shards."""
    return json_hash([base, shard])


def render(expected: Expected) -> str:
    """The text of `--job`; of a job that reads very many files it is compressed."""
    body = {"asked": expected.asked, "reads": expected.reads, "writes": expected.writes}
    return packed(json.dumps(body, separators=(",", ":")))


def parse(text: str) -> Expected:
    """What `render` wrote; anything else is a ConfigError."""
    try:
        body = json.loads(unpacked(text))
        reads = {os.path.normpath(path) + "/" * path.endswith("/"): asked for path, asked in body["reads"].items()}
        return Expected(body["asked"], reads, tuple(os.path.normpath(path) for path in body["writes"]))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"--job: not what the workflow passes ({error}); leave it out by hand") from None


@contextlib.contextmanager
def commissioned(text: str | None) -> Iterator[None]:
    """In the block this process runs the job that the text describes, and has claimed what it writes."""
    global _current
    if text is None:
        yield
        return
    before, _current = _current, parse(text)
    if os.environ.get("RANK", "0") != "0":  # of several processes of one training the first one writes
        _current = replace(_current, writes=())
    job = _current
    try:
        for path in job.writes:
            with disk_errors(Path(path)):
                claims.claim(path, job.writer)
        yield
    finally:
        _current = before
        for path in job.writes:
            claims.release(path, job.writer)


def asked() -> str:
    """The hash of what the configuration asks of the running job; empty where no workflow asks."""
    return _current.asked if _current else ""


def still_wanted(path: str | Path) -> bool:
    """False where another job has claimed the file since this one began: then that job's file is the one to keep."""
    job = _current
    return job is None or os.path.normpath(path) not in job.writes or claims.holds(path, job.writer)


def check(path: str | Path, provenance: Mapping[str, Any]) -> None:
    """An artefact that this job reads is what the configuration asks for; raises as `compare`."""
    wanted = _current.of(path) if _current else None
    if wanted is not None:
        compare(path, provenance, wanted)


def compare(path: str | Path, provenance: Mapping[str, Any], wanted: str) -> None:
    """An artefact comes from the job of which `wanted` was asked.

    Raises:
        StoreError: it was made with other settings, from other inputs, by another version, or for another place.
    """
    if provenance.get("asked") != wanted:
        raise StoreError(
            f"{path}: not what the configuration asks for now: {_made(provenance)}; delete it and run snakemake again"
        )


def _made(provenance: Mapping[str, Any]) -> str:
    """What an artefact says of its maker, in short."""
    if "stage" not in provenance:
        return f"it holds {provenance['about']}" if "about" in provenance else "it does not say what made it"
    params = provenance.get("params") or {}
    shown: list[str] = []
    for name, value in params.items():
        shown.append(f"{name}: {json.dumps(value, default=str)}")
        if len(", ".join(shown)) > _SHOWN:
            shown[-1] = "..."
            break
    return (
        f"it was made by stage {provenance.get('stage')} (version {provenance.get('version')}; {', '.join(shown)}) with"
        " other settings before that stage, or these differ, or for another shard, recipe or seed"
    )
