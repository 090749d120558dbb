"""What the configuration asks of a job, as one hash: of its own values and of all jobs that it builds on.

An artefact carries the hash of the job that wrote it, and every job is told the hashes of what it reads
(`maskmill.store.expected`). The hash changes where the configuration makes Snakemake run a job again, and with it that
of every job that follows, so that what another configuration has made is never taken for what this one asks for. The
content of images and labels is not part of it: digests and the names of shards tell that. The content of a local
checkpoint is, because its path is the same whatever lies there. Files whose time means nothing to a job
(`Source.timeless`) do not count, but are compared.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from maskmill.dag.files import Graph, Source, Wildcards, jobs_of_rules, listed
from maskmill.dag.jobs import CONSTRAINTS, ONE_PART, ONE_SHARD, producer
from maskmill.images.listing import content_fingerprint
from maskmill.store.expected import Expected, of_shard, render
from maskmill.store.hashing import json_hash

_SHARD = re.compile(f"{CONSTRAINTS['shard']}|{CONSTRAINTS['part']}")  # of the images, or of their list
_SHARED = ("weights", "demo")
Key = tuple[str, tuple[tuple[str, str], ...]]  # rule, wildcards but for the shard


@dataclass(frozen=True)
class Asked:
    """The hashes of the jobs of one run; each is computed once.

    Attributes:
        graph: the jobs. content: gives the hash of what a local checkpoint holds.
    """

    graph: Graph
    content: Callable[[str], str] = content_fingerprint
    _known: dict[Key, str] = field(default_factory=dict)
    _makers: dict[tuple[str, str], Key] = field(default_factory=dict)

    def of(self, rule: str, wildcards: Wildcards) -> str:
        """16 hex digits of what is asked of a job."""
        base = self._base(_key(rule, wildcards))
        piece = wildcards.get("shard") or wildcards.get("part")
        return of_shard(base, piece) if piece else base

    def of_file(self, file: str) -> str:
        """The same of the job that writes a file, as the graph names it."""
        rule, wildcards = producer(file)
        return self.of(rule, wildcards)

    def job(self, rule: str, wildcards: Wildcards, given: Mapping[str, Any], made: Iterable[str]) -> str:
        """The text that tells a job what is expected of it (`maskmill --job`).

        Args:
            given: the files of the job's sources by name, as the workflow knows them (a module may have moved them).
            made: the files that it writes, likewise; it claims them, unless folders of several runs may share them.
        """
        reads: dict[str, str] = {}
        for name, source in self.graph.inputs(rule, wildcards).items():
            reads |= self._reads(source, listed(given[name]))
        claimed = () if rule in _SHARED else tuple(made)
        return render(Expected(self.of(rule, wildcards), reads, claimed))

    def _reads(self, source: Source, given: list[str]) -> dict[str, str]:
        """What is asked of the files of a source; files of the shards of one folder are told together."""
        found: dict[str, str] = {}
        for file, moved in zip(source.files, given, strict=True):
            above = f"{os.path.dirname(moved)}/"
            if above in found:
                continue
            key, shard = self._maker(file)
            if source.passed == "file" or not shard:
                found[moved] = of_shard(self._base(key), shard) if shard else self._base(key)
            else:
                found[above] = self._base(key)
        return found

    def _maker(self, file: str) -> tuple[Key, str]:
        """The job that writes a file, but for its shard, and the shard; nothing where the file is of no shard.

        Files of shards in one folder have one rule, which is looked up once: a run has many of them.
        """
        folder, name = os.path.split(file)
        piece = _SHARD.match(name)
        shard = piece[0] if piece else ""
        place = folder, name[len(shard) :]
        if place not in self._makers:
            rule, wildcards = producer(file)
            self._makers[place] = _key(rule, wildcards)
        return self._makers[place], shard

    def _base(self, key: Key) -> str:
        """What is asked of the jobs of all shards."""
        if key not in self._known:
            rule, known = key
            wildcards = dict(known)
            for piece, one in (("shard", ONE_SHARD), ("part", ONE_PART)):
                if any(f"{{{piece}}}" in pattern for pattern in jobs_of_rules()[rule].outputs.values()):
                    wildcards[piece] = one  # stands for the job's own
            sources = self.graph.inputs(rule, wildcards)
            before = {
                name: self._before(source) for name, source in sources.items() if source.asked and not source.timeless
            }
            self._known[key] = json_hash([rule, known, self._depends(rule, wildcards), before])
        return self._known[key]

    def _depends(self, rule: str, wildcards: Wildcards) -> dict[str, Any]:
        """What a job depends on, with what its rule says of its own.

        Weights may be shared by several folders and versions: what they are depends on their origin alone.
        """
        told = json.loads(self.graph.depends(rule, wildcards))
        if rule == "weights":
            del told["version"]
            if told["checkpoint"] is not None:
                told["content"] = self.content(told["checkpoint"])
        if rule in ("inputs", "inputs_list"):
            config = self.graph.run.config
            told |= {"images": config.images, "labels": config.labels or ""}
        return told

    def _before(self, source: Source) -> list[Any]:
        """What is asked of the jobs that write a source, and of which shards."""
        makers: dict[Key, list[str]] = {}
        for file in source.files:
            key, shard = self._maker(file)
            makers.setdefault(key, []).append(shard)
        return [[self._base(key), shards] for key, shards in makers.items()]


def _key(rule: str, wildcards: Wildcards) -> Key:
    return rule, tuple(sorted((name, value) for name, value in wildcards.items() if name not in ("shard", "part")))
