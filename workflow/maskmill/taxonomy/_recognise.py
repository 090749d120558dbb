"""Which class each cluster looks like: embeddings of its places against those of the classes' sentences."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from maskmill.errors import InputError, NumericsError, StoreError
from maskmill.images.photos import PhotoFile, read_ahead, reader_count
from maskmill.images.sample import read
from maskmill.progress import track
from maskmill.store.classes import IGNORE, Classes
from maskmill.store.codebook import Codebook
from maskmill.taxonomy import Clustered
from maskmill.taxonomy._clip import Tower
from maskmill.taxonomy._merge import owned
from maskmill.taxonomy._places import Look, Place, View, read_crops, typical
from maskmill.taxonomy._prompts import sentences
from maskmill.taxonomy._survey import maps
from maskmill.taxonomy._words import listed

BATCH = 32  # crops that the image tower sees at once
TIE = 1e-6  # of probability: nearer ones are as good, but for rounding


@dataclass(frozen=True)
class Settings:
    """How clusters are named; the attributes are the keys of the section.

    Attributes:
        phrases: of each class. outside: of what becomes background.
    """

    phrases: Sequence[Sequence[str]]
    outside: Sequence[Sequence[str]]
    templates: Sequence[str]
    crops: int
    context: float
    view: View
    temperature: float | None
    threshold: float
    margin: float
    unnamed: Literal["ignore", "background", "keep"]


def recognise(settings: Settings, tower: Tower, given: Clustered) -> Classes:
    """The classes that own the clusters which look like their names.

    Raises:
        InputError: no cluster looks enough like any name, or a photo has changed. StoreError: vectors are missing.
    """
    texts = np.stack([of_text(tower, each, settings.templates) for each in (*settings.phrases, *settings.outside)])
    clusters = of_clusters(settings, tower, given)
    odds = probabilities(clusters, texts, settings.temperature or 1 / tower.scale)
    return classes_of(odds, settings, given.book)


def of_text(tower: Tower, phrases: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """The embedding [d] of a class: the mean over its phrases in all templates, of length 1."""
    return unit(unit(tower.encode_text(sentences(phrases, templates))).mean(axis=0, dtype=np.float64)[None])[0]


def of_clusters(settings: Settings, tower: Tower, given: Clustered) -> np.ndarray:
    """The embeddings [k, d] of the clusters: the means over crops of their most typical places, of length 1.

    NaN for a cluster that is nowhere in the sample of the images. Memory depends on the sample, which is bounded.
    """
    import torch

    work = _work(settings.crops, given)
    look = Look(tower.size, settings.context, settings.view, _grey_levels(tower.mean))
    workers = reader_count(len(work), torch.get_num_threads(), tower.device)
    photos = track(read_ahead(work, partial(read_crops, look=look), workers), len(work), "taxonomy: photos")
    clusters, sums = len(given.book), np.zeros((0, 0))
    for mine, images in batches((crop for _, crops in photos for crop in crops), BATCH):
        vectors = unit(tower.encode_image(images))
        sums = sums if len(sums) else np.zeros((clusters, vectors.shape[1]))
        np.add.at(sums, mine, vectors)
    there = np.unique([place.cluster for _, places in work for place in places])
    print(f"taxonomy: {tower.about}: {len(there)} clusters seen in {len(work)} images", file=sys.stderr)
    embedded = np.full_like(sums, np.nan)
    embedded[there] = unit(sums[there])
    return embedded


def _work(crops: int, given: Clustered) -> list[tuple[PhotoFile, Sequence[Place]]]:
    """The photos to look at, sorted by id, each with the typical places in it."""
    sample = read(Path(given.manifest), 0)
    at = {shard.vectors.stem: shard for shard in given.shards}
    if missing := sorted(set(sample.statistics) - set(at)):
        raise StoreError(f"--vectors: nothing for shard {missing[0]!r}; run snakemake again to make it")
    found = (
        each for shard, ids in sample.statistics.items() for each in maps(at[shard], given.book, ids, given.ground)
    )
    places = typical(found, crops)
    if not places:
        raise InputError("taxonomy: no cluster has a place in the sample of the images; look at them in the report")
    rows = sample.pictures([place.image for place in places])
    return [(rows[image], tuple(mine)) for image, mine in groupby(places, key=lambda place: place.image)]


def _grey_levels(mean: Sequence[float]) -> tuple[int, int, int]:
    """The colour that a model's normalisation makes zero, to within half a grey level."""
    red, green, blue = (round(255 * min(max(value, 0.0), 1.0)) for value in mean)
    return red, green, blue


def batches(crops: Iterator[tuple[int, np.ndarray]], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clusters [b] and crops [b, H, W, 3], in order."""
    held: list[tuple[int, np.ndarray]] = []
    for each in crops:
        held.append(each)
        if len(held) == size:
            yield np.array([cluster for cluster, _ in held]), np.stack([crop for _, crop in held])
            held = []
    if held:
        yield np.array([cluster for cluster, _ in held]), np.stack([crop for _, crop in held])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows [n, d] in float64, of length 1; a row of zeros stays. NaN and infinite values are a NumericsError."""
    rows = np.asarray(vectors, np.float64)
    if not np.isfinite(rows).all():
        raise NumericsError("taxonomy.model: its embeddings hold NaN or infinite values; its weights are damaged")
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))


def probabilities(clusters: np.ndarray, texts: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax [k, c] of the cosines over the temperature; NaN rows stay NaN."""
    logits = clusters @ texts.T / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def classes_of(odds: np.ndarray, settings: Settings, book: Codebook) -> Classes:
    """Classes that own the clusters of which they are sure.

    Args:
        odds: [k, K + b] of the K classes, then of what becomes background, which is one owner of all of its clusters.

    Raises:
        InputError: no cluster is named.
    """
    names = len(settings.phrases)
    rival = np.concatenate([odds[:, names:].sum(axis=1, keepdims=True), odds[:, :names]], axis=1)  # [k, 1 + K]
    best = np.where(np.isnan(rival), -1, rival).argmax(axis=1)
    two = np.sort(rival, axis=1)[:, -2:]  # NaN comes last
    sure = (two[:, 1] >= settings.threshold) & (two[:, 1] - two[:, 0] > settings.margin + TIE)  # NaN: False
    if not (sure & (best > 0)).any():
        raise InputError(_nothing(rival, settings))
    owners: dict[tuple[int, int | None], int] = {(int(c) + 1, None): int(best[c]) for c in np.flatnonzero(sure)}
    found = owned(book, owners, names, settings.unnamed)
    confidence = _confidence(rival, np.where(sure, best, IGNORE), book, len(found))
    notes = tuple(_notes(rival, sure, best, settings))
    return replace(found, confidence=confidence, notes=notes)


def _confidence(rival: np.ndarray, value: np.ndarray, book: Codebook, count: int) -> np.ndarray:
    """[count] float32: the mean probability over the clusters of each class, by their points; NaN without clusters."""
    found = np.full(count, np.nan, np.float32)
    for number in np.unique(value[value > 0]).tolist():
        mine = np.flatnonzero(value == number)
        found[number - 1] = np.average(rival[mine, number], weights=np.maximum(book.counts[mine], 1))
    return found


def _notes(rival: np.ndarray, sure: np.ndarray, best: np.ndarray, settings: Settings) -> Iterator[str]:
    """Which clusters nothing is said of, and which classes have none."""
    nowhere = np.flatnonzero(np.isnan(rival).any(axis=1))
    if len(nowhere):
        yield f"clusters without a place in the sample of the images: {listed(i + 1 for i in nowhere)}"
    unsure = np.setdiff1d(np.flatnonzero(~sure), nowhere)
    if len(unsure):
        yield f"clusters that stay unnamed: {listed([_doubt(i + 1, rival[i], settings) for i in unsure], '; ')}"
    missing = [phrases[0] for i, phrases in enumerate(settings.phrases, 1) if not (sure & (best == i)).any()]
    if missing:
        yield f"no cluster looks like: {listed(missing)}"


def _doubt(cluster: int, odds: np.ndarray, settings: Settings) -> str:
    called = ["background", *(phrases[0] for phrases in settings.phrases)]
    order = np.argsort(-odds, kind="stable")[:2].tolist()
    rivals = [f"{called[i]} {odds[i]:.2f}" for i in order if i > 0 or settings.outside]
    return f"{cluster} ({', '.join(rivals)})"


def _nothing(rival: np.ndarray, settings: Settings) -> str:
    """Why no class has a cluster."""
    known = np.flatnonzero(~np.isnan(rival).any(axis=1))
    best = known[rival[known, 1:].max(axis=1).argmax()]
    return (
        f"taxonomy.threshold: {settings.threshold}, margin: {settings.margin}: none of {len(rival)} clusters looks "
        f"enough like any of {len(settings.phrases)} names (best: {_doubt(int(best) + 1, rival[best], settings)}); "
        "lower them, or choose other names"
    )
