"""`taxonomy.yaml`: classes and the clusters that they own, as a person writes it by hand or saves it in the report.

Clusters have the numbers that the report shows, which are the values of the masks of a run without a taxonomy: 1..k.
`17b` is the second part of cluster 17 where `split` says that 17 is clustered again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, model_validator

from maskmill.errors import ConfigError, nearest, shown
from maskmill.recipe.base import Model, validate
from maskmill.recipe.documents import read_mapping
from maskmill.store.class_names import check_class_name
from maskmill.store.classes import BACKGROUND, IGNORE, Correction
from maskmill.store.hashing import json_hash

VERSION = 1
RESERVED = {"background": BACKGROUND, "ignore": IGNORE}
MOST_PARTS = 26  # a letter each
MOST_BYTES, MOST_VALUES = 32 << 20, 1_000_000  # of a file: 65534 clusters, each a class of its own, are 6 MiB
EMPTY = ("classes", "background", "ignore", "corrections", "split")  # keys that may stand there without a value
Cluster = StrictInt | StrictStr


def _quoted(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError("put the id in quotes, because YAML takes it for a number")
    return value


class Class(Model):
    """A class: its name, its number 1..K (by default its place in the list), its colour, the clusters that it owns."""

    name: str = Field(min_length=1, max_length=200)
    id: int | None = Field(None, ge=1, le=65534)
    colour: str | None = Field(None, pattern="^#[0-9a-fA-F]{6}$")
    clusters: Annotated[list[Cluster], BeforeValidator(lambda value: value or [])] = Field(default_factory=list)


class ImageCorrection(Model):
    """What is known better of one image; see `maskmill.store.classes.Correction`."""

    image: Annotated[str, BeforeValidator(_quoted)] = Field(min_length=1)
    to: str = Field(alias="class")
    region: int | None = Field(None, ge=1, le=255)
    was: str | None = None


class Document(Model):
    """The whole file."""

    taxonomy: Literal[1]
    recipe: str | None = None
    seed: int | None = Field(None, ge=0)
    codebook: str | None = None
    classes: list[Class] = Field(default_factory=list)
    background: list[Cluster] = Field(default_factory=list)
    ignore: list[Cluster] = Field(default_factory=list)
    unnamed: Literal["ignore", "background", "keep"] = "ignore"
    split: dict[StrictInt, StrictInt] = Field(default_factory=dict)
    corrections: list[ImageCorrection] = Field(default_factory=list)
    members: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Document:
        _check_names(self.classes)
        _check_ids(self.classes)
        for cluster, parts in self.split.items():
            if cluster < 1 or not 2 <= parts <= MOST_PARTS:
                raise ValueError(f"split: {{{cluster}: {parts}}}: a cluster is split into 2 to {MOST_PARTS} parts")
        owners: dict[tuple[int, int | None], str] = {}
        for owner, given in self.owned():
            leaf = leaf_of(given)
            self._check_leaf(leaf, given)
            if leaf in owners:
                raise ValueError(f"cluster {given} is in {owners[leaf]} and in {owner}; keep it in one of them")
            owners[leaf] = owner
        for entry in self.corrections:
            for name in (entry.to, entry.was):
                self._check_class(name)
            if entry.region is not None and entry.was is not None:
                raise ValueError(f"corrections: {entry.image}: gives region and was; give one of them")
        return self

    def owned(self) -> Iterator[tuple[str, Cluster]]:
        """(owner, cluster) of every cluster that the file names."""
        for each in self.classes:
            yield from ((f"class {each.name!r}", cluster) for cluster in each.clusters)
        for name in RESERVED:
            yield from ((name, cluster) for cluster in getattr(self, name))

    def _check_leaf(self, leaf: tuple[int, int | None], given: Cluster) -> None:
        cluster, part = leaf
        parts = self.split.get(cluster)
        if part is None and parts is not None:
            raise ValueError(f"cluster {cluster} is split; name its parts {cluster}a to {cluster}{letter(parts - 1)}")
        if part is not None and (parts is None or part >= parts):
            raise ValueError(f"cluster {given}: split does not say that {cluster} has so many parts; add it there")

    def _check_class(self, name: str | None) -> None:
        if name is not None and name not in self.numbers and name not in RESERVED:
            raise ValueError(f"corrections: no class {name!r}{nearest(name, [*self.numbers, *RESERVED])}")

    def value(self, name: str) -> int:
        """The value of a class in the masks: 1..K, BACKGROUND or IGNORE."""
        return RESERVED[name] if name in RESERVED else self.numbers[name]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Name -> number 1..K."""
        return {each.name: each.id or place for place, each in enumerate(self.classes, 1)}

    @cached_property
    def leaves(self) -> dict[tuple[int, int | None], int]:
        """(cluster 1..k, part or None) -> the value of its owner."""
        found: dict[tuple[int, int | None], int] = {}
        for each in self.classes:
            found |= {leaf_of(cluster): self.numbers[each.name] for cluster in each.clusters}
        for name, value in RESERVED.items():
            found |= {leaf_of(cluster): value for cluster in getattr(self, name)}
        return found

    @property
    def fixes(self) -> tuple[Correction, ...]:
        """The corrections with values instead of names."""
        return tuple(
            Correction(each.image, self.value(each.to), each.region, None if each.was is None else self.value(each.was))
            for each in self.corrections
        )

    @cached_property
    def content(self) -> str:
        """Hash of all that decides which vectors belong together: of everything but names and colours."""
        leaves = sorted([leaf_name(*leaf), value] for leaf, value in self.leaves.items())
        fixes = [[c.image, c.value, c.region, c.was] for c in self.fixes]
        made_for = [self.codebook, self.members]
        return json_hash(
            [VERSION, len(self.classes), leaves, self.unnamed, sorted(self.split.items()), fixes, made_for]
        )


def _key(leaf: tuple[int, int | None]) -> tuple[int, int]:
    cluster, part = leaf
    return cluster, -1 if part is None else part


def _check_names(classes: Sequence[Class]) -> None:
    seen: set[str] = set()
    for each in classes:
        if each.name in RESERVED:
            raise ValueError(f"classes: {each.name!r} is no name of a class; list its clusters under {each.name}:")
        if each.name in seen:
            raise ValueError(f"classes: {each.name!r} is there twice; put all of its clusters into one entry")
        check_class_name(each.name)
        seen.add(each.name)


def _check_ids(classes: Sequence[Class]) -> None:
    ids = [each.id or place for place, each in enumerate(classes, 1)]
    if sorted(ids) != list(range(1, len(ids) + 1)):
        raise ValueError(f"classes: their ids are {ids}; give each of 1 to {len(ids)} once, or leave all of them out")


def leaf_of(cluster: Cluster) -> tuple[int, int | None]:
    """(cluster, part) of 17, "17" or "17b"; anything else is a ValueError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([a-z]?)", str(cluster))
    if found is None:
        raise ValueError(f"{shown(cluster)} is no cluster; write its number, as 17, or 17b for a part of it")
    return int(found[1]), ord(found[2]) - ord("a") if found[2] else None


def letter(part: int) -> str:
    """A for the first part of a split cluster, b for the second."""
    return chr(ord("a") + part)


def leaf_name(cluster: int, part: int | None) -> str:
    """17, or 17b."""
    return str(cluster) if part is None else f"{cluster}{letter(part)}"


def check_clusters(document: Document, file: str, clusters: int) -> None:
    """Every cluster that a document names or splits is one of so many.

    Raises:
        ConfigError: one is not; names it and the file.
    """
    for cluster, part in [*document.leaves, *((cluster, None) for cluster in document.split)]:
        if cluster > clusters:
            raise ConfigError(
                f"{file}: cluster {leaf_name(cluster, part)}: the clustering has {clusters}, numbered 1 to {clusters}; "
                "remove it, or name clusters in the report of this run"
            )


def read(path: str) -> Document:
    """Read a taxonomy.

    Raises:
        ConfigError: it cannot be read, or is impossible; names the file, the key and the value.
    """
    try:
        stat = os.stat(path)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ConfigError(
            f"taxonomy.file: {os.path.abspath(path)}: {reason}; save one in the report, or start from that of the "
            "folder taxonomy of an earlier run"
        ) from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=64)
def _read(path: str, mtime_ns: int, size: int) -> Document:
    body: Mapping[str, Any] = read_mapping(path, MOST_BYTES, MOST_VALUES)
    if "taxonomy" not in body:
        raise ConfigError(f"{path}: taxonomy: is required; a file of classes begins with `taxonomy: {VERSION}`")
    if body["taxonomy"] != VERSION:
        raise ConfigError(f"{path}: taxonomy: version {shown(body['taxonomy'])}, this maskmill reads {VERSION}")
    return validate(
        Document, {key: value for key, value in body.items() if value is not None or key not in EMPTY}, path
    )
