"""Read-outs: how well the labels of one half of the images explain those of the other half through frozen tokens.

A read-out looks at a feature set, or at the codes that a head has made of one, and at the labels of half of the images.
It predicts the other half. The split, the targets of the tokens, the prediction at pixels and the scoring are the same
for all of them and stand here; each is a module of this package, a `Readout`, listed in `READERS`.

The labelled images are split by a hash of their ids. A token's target is the share of each class among the pixels that
it covers; void pixels are missing from it. Frames of one video, or photos of one place, fall into both halves: all
read-outs of such sets are optimistic.
"""

from __future__ import annotations

import hashlib
import importlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from maskmill.errors import InputError, StoreError
from maskmill.evaluate.confusion import Confusion, at_frame, frame
from maskmill.evaluate.labelled import digest, labelled_rows, read_label, scored_once
from maskmill.evaluate.protocol import protocol
from maskmill.evaluate.score import drop_absent, score
from maskmill.images.interpolate import resize_maps
from maskmill.numerics.blocks import one_thread
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.run_checks import check_labels
from maskmill.recipe.scoring import Evaluate
from maskmill.store.artefact import write_json
from maskmill.store.manifest import Row, read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged

KEPT_BYTES = 1 << 30  # of compressed labels in memory
STRIP = 1 << 24  # interpolated scores held at once
READERS = {
    "linear_probe": "maskmill.evaluate.linear_probe",
    "linear_probe_online": "maskmill.evaluate.linear_probe_online",
    "retrieval": "maskmill.evaluate.retrieval",
    "segment_retrieval": "maskmill.evaluate.segment_retrieval",
}


class Reader(Protocol):
    """What a read-out has learnt from the labelled half."""

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Scores [classes, h, w] float32 of tokens [h, w, d]; the class with the largest one is predicted."""


@dataclass(frozen=True)
class Reading:
    """A read-out at the end of its training.

    Attributes:
        details: what its numbers depend on besides what all read-outs share; goes into the protocol.
        diagnostics: how the training went.
    """

    reader: Reader
    details: Mapping[str, Any]
    diagnostics: Mapping[str, float]


class Readout(Protocol):
    """A module of `READERS`."""

    def learn(self, half: Half, settings: Evaluate, seed: int, threads: int) -> Reading:
        """Learn from the labelled half; the result depends on the half, the settings and the seed only.

        Raises:
            NumericsError: tokens that are not finite.
        """


class Labels:
    """The labels of a run, each of them decoded once: what was read is kept in memory, compressed.

    Labels beyond KEPT_BYTES are read again instead.
    """

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self._kept: dict[str, tuple[bytes, np.dtype]] = {}
        self._room = KEPT_BYTES

    def read(self, image_id: str) -> np.ndarray:
        """Label int32 [height, width] of an image; raises as `read_label`."""
        row = self.rows[image_id]
        if image_id in self._kept:
            packed, dtype = self._kept[image_id]
            flat = np.frombuffer(zlib.decompress(packed), dtype)
            return flat.reshape(row.height, row.width).astype(np.int32)
        label = read_label(row)
        small = label.astype(np.uint8 if label.max() < 256 else np.uint16)  # ids are in 0..65535
        packed = zlib.compress(small.tobytes(), 1)
        if len(packed) <= self._room:
            self._room -= len(packed)
            self._kept[image_id] = packed, small.dtype
        return label


@dataclass(frozen=True)
class Half:
    """The labelled images that a read-out learns from.

    Attributes:
        ids: sorted. labels: of all images. stores: image id -> the store of its tokens. classes: scored label ids.
    """

    ids: Sequence[str]
    labels: Labels
    stores: Mapping[str, Ragged]
    classes: Sequence[int]

    def images(self, ids: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(id, tokens [h*w, d] in the type of their store, target mass [h*w, classes] float32) of every image, or some.

        A row of the mass is what share of the token's pixels has each scored class; its sum is below 1 where some
        pixels are void, and 0 where all are or the token shows no data.
        """
        for image_id in self.ids if ids is None else ids:
            tokens = self.stores[image_id][image_id]  # [h, w, d]
            mass = class_mass(self.labels.read(image_id), tokens.shape[:2], self.classes)
            valid = self.stores[image_id].valid(image_id)
            if valid is not None:
                mass[~valid.ravel()] = 0
            yield image_id, tokens.reshape(-1, tokens.shape[2]), mass

    def depth(self) -> int:
        """Length of a token."""
        return int(self.stores[self.ids[0]].depth or 1)


def no_pixel() -> InputError:
    """The labelled half holds nothing to learn from."""
    return InputError("evaluate.classes: the training half has no pixel of the scored classes; label more images")


@dataclass(frozen=True)
class Asked:
    """Which read-out, in `READERS`, and of what.

    Attributes:
        seed: of whatever is drawn; for codes, the seed of their head. recipe: the recipe whose codes are read out; None
            for a feature set, which its folder names.
    """

    name: str
    seed: int = 0
    recipe: str | None = None

    def subject(self, folder: Path) -> dict[str, str]:
        """What is read out, for the file of scores."""
        return {"features": folder.name} if self.recipe is None else {"recipe": self.recipe, "features": "codes"}


def read_out(
    asked: Asked,
    feature_stores: Sequence[str | Path],
    manifest: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    threads: int = 1,
) -> None:
    """Learn and score one read-out of one feature set, or of a recipe's codes of one seed.

    Args:
        feature_stores: Ragged "features" of all shards.
        params: the `evaluate` section.
        out: JSON to write: features, dimensions, seed, `scores` with one entry, as `evaluate.run.run` writes them; for
            codes also recipe, and features is "codes".

    Raises:
        InputError: one half has no labelled image, or nothing of the scored classes.
        StoreError: a labelled image has no features.
    """
    settings, folder = validate(Evaluate, params, "--params", "evaluate"), Path(feature_stores[0]).parent
    rows = labelled_rows(read_manifest(manifest))
    settings = scored_once(settings, rows)
    train, test = split(list(rows), asked.name, {row.id: row.owner for row in rows.values()})
    stores = [Ragged(path, "features") for path in feature_stores]
    where = {image_id: store for store in stores for image_id in store.ids if image_id in rows}
    missing = sorted(set(rows) - set(where))
    if missing:
        raise StoreError(f"{folder}: no features of {missing[0]!r}; run snakemake again")
    labels = Labels(rows)
    classes, digests = _classes(labels, settings)
    half = Half(train, labels, where, classes)
    module: Readout = importlib.import_module(READERS[asked.name])  # type: ignore[assignment]
    reading = module.learn(half, settings, asked.seed, threads)
    confusion = _confusion(reading.reader, Half(test, labels, where, classes), settings, asked.name)
    details = {"train_images": len(train), "split": "blake2b(id) parity", **reading.details}
    seen, scored = ({image_id: digests[image_id] for image_id in ids} for ids in (train, test))
    details["train_labels"] = protocol(asked.name, settings.size, (), (), seen).labels
    rule = protocol(asked.name, settings.size, settings.ignore, classes, scored, **details)
    counts, present = drop_absent(confusion.counts, classes)
    match = np.array([present.index(c) if c in present else -1 for c in classes])
    entry = score(counts, match, rule, present, settings.class_names) | {"diagnostics": dict(reading.diagnostics)}
    del entry["matching"]
    made = Provenance.of("evaluate", dict(params) | {"seed": asked.seed}, [*(s.hash for s in stores), rule.labels])
    body = {"dimensions": half.depth(), "seed": asked.seed, "scores": [entry]}
    write_json(out, asked.subject(folder) | body, made)


def _confusion(reader: Reader, half: Half, settings: Evaluate, name: str) -> Confusion:
    """What a read-out predicts of a half, against its labels."""
    confusion = Confusion(len(half.classes), half.classes, settings.ignore)
    with one_thread():
        for image_id in track(half.ids, len(half.ids), name):
            row = half.labels.rows[image_id]
            shape, window = frame(row.height, row.width, settings.size)
            store = half.stores[image_id]
            predicted, valid = argmax_at(reader.scores(store[image_id]), shape), store.valid(image_id)
            shown = None if valid is None else at_frame(valid, shape, window)
            confusion.add(predicted[window], at_frame(half.labels.read(image_id), shape, window), shown)
    return confusion


def split(
    ids: Sequence[str], name: str = "linear_probe", owners: Mapping[str, str] | None = None
) -> tuple[list[str], list[str]]:
    """Training and test ids, sorted, by the parity of each image's hash: it never changes sides, and what is cut from
    one file is on one side.

    Args:
        name: the read-out that asks, for messages. owners: id of a window, page or composite -> that of its image.

    Raises:
        InputError: a half is empty.
    """
    odd = {i for i in ids if hashlib.blake2b((owners or {}).get(i, i).encode(), digest_size=1).digest()[0] % 2}
    halves = sorted(set(ids) - odd), sorted(odd)
    if not all(halves):
        raise InputError(
            f"evaluate.{name}: {len(ids)} labelled images, all in one half of the split by id; "
            f"label more images, or set {name}: false"
        )
    return halves


def _classes(labels: Labels, settings: Evaluate) -> tuple[list[int], dict[str, str]]:
    """Scored label ids, and the digest of every label."""
    confusion = Confusion(1, settings.classes, settings.ignore)
    digests = {}
    for image_id in track(labels.rows, len(labels.rows), "labels"):
        label = labels.read(image_id)
        digests[image_id] = digest(label)
        confusion.add(np.zeros(label.shape, np.uint8), label)
    check_labels(settings, confusion.seen)
    _, present = drop_absent(confusion.counts, confusion.classes)
    return present, digests


def class_mass(label: np.ndarray, grid: tuple[int, ...], classes: Sequence[int]) -> np.ndarray:
    """Share of each cell's pixels that have each class, [h*w, classes] float32; void pixels are missing from it."""
    (height, width), (h, w) = label.shape, grid
    rows = np.minimum(((np.arange(height) + 0.5) * h / height).astype(np.int64), h - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * w / width).astype(np.int64), w - 1)
    cell = rows[:, None] * w + columns[None]
    order = np.argsort(classes)
    found = np.searchsorted(np.asarray(classes)[order], label).clip(max=len(classes) - 1)
    column = order[found]  # [H, W]
    scored = np.asarray(classes)[column] == label
    counts = np.bincount(cell[scored] * len(classes) + column[scored], minlength=h * w * len(classes))
    pixels = np.bincount(cell.ravel(), minlength=h * w)
    return (counts.reshape(h * w, -1) / np.maximum(pixels, 1)[:, None]).astype(np.float32)


def argmax_at(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Best class [H, W] of scores [classes, h, w], bilinear; computed in strips of columns to bound the memory."""
    from maskmill.images.interpolate import matrix

    classes, h, _ = scores.shape
    wide = resize_maps(scores, (h, size[1]))  # [classes, h, W]
    down = matrix(h, size[0])
    step = max(1, STRIP // (classes * size[0]))
    strips = [(down @ wide[:, :, left : left + step]).argmax(axis=0) for left in range(0, size[1], step)]
    return np.concatenate(strips, axis=1)
