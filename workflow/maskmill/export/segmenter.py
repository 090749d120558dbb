"""The folder `segmenter/`: all that `maskmill predict` needs to do to new images what the recipe did to its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskmill.backbones import weights_file
from maskmill.errors import StoreError
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store.artefact import read_metadata, read_tensors, write_json
from maskmill.store.classes import read_labels
from maskmill.store.manifest import RENDERING
from maskmill.store.provenance import Provenance
from maskmill.store.seal import file_crc32c


@dataclass(frozen=True)
class SegmenterParts:
    """What segments images: the last student, or the clusters of tokens and what made the tokens into vectors.

    Attributes:
        files: name -> safetensors. `student`; or `codebook`, with `head` (its codes are clustered), `reduction` and
            `foreground` (the codebook of background and foreground) where the recipe has them.
        feature_sets: {name: parameters}; a student says which of them it sees, clusters are those of the only one.
        weights: folder of backbone weights, copied too, so that the folder works on another machine.
        refine: how masks of the last round are fitted to the photos. upsample: of clusters, mask cells a token side.
        codecs: feature set -> the codec of its tokens, where they are codes.
        trained: feature set -> the weights of its backbone, where the stage pretrain has made them.
    """

    files: Mapping[str, Path]
    feature_sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Path | None = None
    refine: Mapping[str, Any] = field(default_factory=dict)
    upsample: int = 1
    codecs: Mapping[str, Path] = field(default_factory=dict)
    trained: Mapping[str, Path] = field(default_factory=dict)

    @staticmethod
    def reading(manifest: str | Path) -> dict[str, Any]:
        """{"inputs": how the run has read its images}: what `maskmill predict` reads new ones with, as far as
        that is not how photos of eight bits are read anyway; else nothing.
        """
        found = read_metadata(manifest)
        window = (json.loads(found.get(b"maskmill", b"{}")).get("params") or {}).get("window")
        rendering = found.get(RENDERING)
        kept = {"rendering": rendering and rendering.decode(), "window": window}
        kept = {key: value for key, value in kept.items() if value is not None}
        return {"inputs": kept} if kept else {}

    @property
    def kind(self) -> str | None:
        """`student`, `clusters`, or None: regions of a cut, whose clusters segment no other image."""
        return "student" if "student" in self.files else "clusters" if "codebook" in self.files else None

    def write(self, folder: Path, about: Mapping[str, Any], made: Provenance) -> None:
        """Copy everything into a new folder; its size depends on the recipe, not on the number of images.

        Args:
            about: facts of the export for features.json. made: what made the export.

        Raises:
            StoreError: the parts do not belong together, one is missing or damaged. WeightsError: weights are damaged.
        """
        names = self._student_sets() if self.kind == "student" else self._cluster_set(int(about["clusters"]))
        sets = {name: validate(FeatureSet, self.feature_sets[name], "--feature-sets", name) for name in names}
        more = {} if self.kind == "student" else {"upsample": self.upsample}
        folder.mkdir()
        parts = [(name, part) for name, chosen in sets.items() for part in chosen.parts]
        slugs = {part.weights_slug: file for name, part in parts if (file := self._weights(name, part))}
        copied = {name: _copied_tensors(file, folder / f"{name}.safetensors") for name, file in self.files.items()}
        if slugs:
            (folder / "weights").mkdir()
        for slug, file in sorted(slugs.items()):
            copied[f"weights/{slug}"] = _copied_weights(file, folder / f"weights/{slug}.safetensors")
        coded = [name for name in sorted(self.codecs) if name in sets]
        if coded:
            (folder / "codecs").mkdir()
        for name in coded:
            copied[f"codecs/{name}"] = _copied_tensors(self.codecs[name], folder / f"codecs/{name}.safetensors")
        files = [
            *sorted(self.files),
            *(f"weights/{slug}" for slug in sorted(slugs)),
            *(f"codecs/{name}" for name in coded),
        ]
        body = dict(about) | {"files": files, "crc32c": copied, "refine": dict(self.refine)} | more
        body["features"] = {name: chosen.model_dump() for name, chosen in sets.items()}
        write_json(folder / "features.json", body, made)

    def _weights(self, name: str, chosen: FeatureSet) -> Path | None:
        """The weights of the backbone of a feature set; none where no backbone runs on new images."""
        if name in self.trained:
            return self.trained[name]
        return None if self.weights is None else self.weights / f"{chosen.weights_slug}.safetensors"

    def _student_sets(self) -> list[str]:
        """The feature sets that the student sees."""
        student = self.files["student"]
        _, provenance = read_tensors(student)
        seen = list(provenance.get("params", {}).get("features", self.feature_sets))
        missing = [name for name in seen if name not in self.feature_sets]
        if missing:
            raise StoreError(
                f"{student}: sees feature set {missing[0]!r}, which the recipe does not have; train it again"
            )
        return seen

    def _cluster_set(self, clusters: int) -> list[str]:
        """The feature set whose tokens are clustered, or behind the codes that are."""
        book, found = self.files["codebook"], list(self.feature_sets)
        if len(found) != 1:
            raise StoreError(f"--feature-sets: {', '.join(found) or 'none'}; clusters are those of one, give that")
        if len(read_labels(book)) != clusters:
            raise StoreError(f"{book}: not the clusters of the masks, which have {clusters}; run snakemake again")
        return found


def _copied_tensors(source: Path, target: Path) -> int:
    """Copy a file of `write_tensors`, which must be whole; its CRC32C."""
    _copy(source, target, "file", "make it")
    read_tensors(source)
    return file_crc32c(source)


def _copied_weights(source: Path, target: Path) -> int:
    """Copy a file of weights, which must be whole; its CRC32C."""
    _copy(source, target, "weights", "fetch them")
    weights_file.read(source)
    return file_crc32c(source)


def _copy(source: Path, target: Path, what: str, advice: str) -> None:
    if not source.is_file():
        raise StoreError(f"{source}: no such {what}; run snakemake to {advice}")
    shutil.copyfile(source, target)
