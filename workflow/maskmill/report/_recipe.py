"""One recipe as the page shows it: panels of the gallery, clusters with their pieces, facts by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maskmill.errors import InputError
from maskmill.images.masks import ignore_value
from maskmill.images.palette import class_palette, hexadecimal, palette
from maskmill.images.photos import unchanged
from maskmill.images.sample import Picture, Sample, read_images
from maskmill.redact import redact
from maskmill.report import _editor, _facts, _pictures, _scores, _selection
from maskmill.store.class_names import ClassNames
from maskmill.store.class_names import read as read_names
from maskmill.store.ragged import Ragged

PRESENT = 0.004  # a cluster below this share of an image does not count as being in it


class ReportPhotos:
    """Photos of the run: decoded on demand, a few kept; unreadable ones become grey and are named."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.broken: dict[str, str] = {}
        self._read = lru_cache(maxsize=8)(self._decode)

    def read(self, picture: Picture) -> np.ndarray:
        """uint8 [H, W, 3]."""
        return self._read(picture)

    def _decode(self, picture: Picture) -> np.ndarray:
        try:
            return unchanged(picture)
        except InputError as error:
            self.broken[picture.id] = str(error)
            scale = min(1.0, 64 / max(picture.height, picture.width))
            return np.full(
                (max(1, round(picture.height * scale)), max(1, round(picture.width * scale)), 3), 128, np.uint8
            )

    def gallery(self) -> list[dict[str, Any]]:
        """Picture and data URI of every image of the gallery."""
        side = _pictures.photo_side(len(self.sample.gallery))
        return [{"picture": p, "uri": _pictures.photo_uri(self.read(p), side)} for p in self.sample.gallery]


@dataclass(frozen=True)
class Panel:
    """One mask over a photo: which step, its PNG, the clusters in it with their shares, a note."""

    step: str
    uri: str
    shares: dict[int, float]
    note: str
    last: bool


@dataclass(frozen=True)
class ClusterView:
    """One value of the masks: its colour, and its name by labels."""

    value: int
    colour: str
    name: str


@dataclass(frozen=True)
class View:
    """A recipe, ready for the template: panels by image id, facts by round, and its clusters to be named.

    With `named` the values of the masks are classes.
    """

    name: str
    description: str
    tokens: bool
    rounds: int
    clusters: tuple[ClusterView, ...]
    editor: _editor.Editor
    named: bool
    panels: dict[str, list[Panel]]
    facts: list[dict[str, str]]
    config: str
    hashes: dict[str, str] = field(default_factory=dict)
    number: _selection.NumberChart | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ViewContext:
    """What the views of all recipes of a report share.

    Attributes:
        results: the folder of the run. seeds: of the run. recipes: how many there are, among which crops are divided.
        typical: regions to show a cluster. sample, photos: the images that are shown. scores: every scores.json.
    """

    results: Path
    seeds: Sequence[int]
    recipes: int
    typical: int
    sample: Sample
    photos: ReportPhotos
    scores: Sequence[Mapping[str, Any]]


def view(name: str, body: Mapping[str, Any], context: ViewContext) -> View:
    """Everything that the page shows of one recipe; pictures are those of the first seed."""
    results, seeds, sample = context.results, context.seeds, context.sample
    rounds, tokens, seed = int(body["rounds"]), bool(body["tokens"]), seeds[0]
    counts = [_cluster_count(results, name, s, body, sample) for s in seeds]  # some methods find the number themselves
    clusters = counts[0]
    naming = _naming(results, name, seed) if body.get("named") else None
    colours = _pictures.distinct(palette(clusters + 1) if naming is None else _colours(naming))
    facts = [_facts.measure(results, name, s, rounds, k, sample) for s, k in zip(seeds, counts, strict=True)]
    names = _scores.cluster_names(context.scores, name, rounds, seed) if naming is None else naming.names
    values = range(1, clusters + 1)
    steps = [f"round {r}" for r in range(rounds + 1)] if rounds else ["clusters" if naming is None else "classes"]
    selection = _selection.read_selection(results, name, seeds)
    return View(
        name,
        str(body.get("description") or ""),
        tokens,
        rounds,
        tuple(ClusterView(v, hexadecimal(colours[v]), names.get(v, "")) for v in values),
        _clusters(name, context, tokens, names if naming is None else {}, naming is not None),
        naming is not None,
        _panels(results, name, seed, steps, tokens, colours, sample),
        _fact_rows(facts, selection),
        redact(yaml.safe_dump(dict(body.get("sections") or {}), sort_keys=False, width=100).strip()),
        _hashes(results, name, seed, rounds, sample),
        _selection.number_chart(selection),
        () if naming is None else tuple(redact(str(note)) for note in naming.body.get("notes", ())),
    )


def _naming(results: Path, name: str, seed: int) -> ClassNames:
    return read_names(results / f"recipes/{name}/seed{seed}/taxonomy/classes.json")


def _colours(naming: ClassNames) -> np.ndarray:
    """uint8 [k + 1, 3]: the background's, then those of the classes."""
    return class_palette(len(naming.classes), {each.value: each.colour for each in naming.classes})


def _clusters(name: str, context: ViewContext, tokens: bool, hints: Mapping[int, str], named: bool) -> _editor.Editor:
    """The clusters of the first seed, to be looked at and named."""
    results, seed, sample = context.results, context.seeds[0], context.sample
    survey = _editor.read_survey(results, name, seed, sample, named) if sample.shards else _editor.NOTHING
    counts = None if tokens else _facts.region_counts(results, name, seed, len(survey.book), sample.shards)
    wanted = _editor.Wanted(
        name,
        seed,
        context.typical,
        context.recipes,
        [picture.id for picture in sample.gallery],
        dict(hints),
        counts,
        {} if tokens else _facts.region_maps(results, name, seed, sample),
    )
    return _editor.editor(survey, wanted, sample.pictures, context.photos.read)


def _panels(
    results: Path, name: str, seed: int, steps: Sequence[str], tokens: bool, colours: np.ndarray, sample: Sample
) -> dict[str, list[Panel]]:
    """Panels of every image of the gallery: the cut where there is one, then the rounds. A shard is opened once."""
    groups: dict[str, list[str]] = {}
    for picture in sample.gallery:
        groups.setdefault(picture.shard, []).append(picture.id)
    found: dict[str, list[Panel]] = {picture.id: [] for picture in sample.gallery}
    for shard, ids in groups.items():
        if not tokens:
            cut = Ragged(results / f"recipes/{name}/cut/{shard}.zarr", "segments")
            confidence = cut.per_image("confidence")
            for image_id, segments in read_images(cut, ids).items():
                note = f"confidence {float(confidence[cut.index(image_id)]):.2f}"
                uri = _pictures.segments_uri(segments, cut.valid(image_id))
                found[image_id].append(Panel("cut", uri, {}, note, False))
        for r, step in enumerate(steps):
            store = _facts.mask_store(results, name, seed, r, shard)
            for image_id, mask in read_images(store, ids).items():
                valid = store.valid(image_id)
                uri = _pictures.mask_uri(mask, colours, valid)
                found[image_id].append(Panel(step, uri, _shares(_facts.shown(mask, valid)), "", r == len(steps) - 1))
    return found


def _shares(mask: np.ndarray) -> dict[int, float]:
    """Mask value -> share of the cells [n] of an image, of the clusters that matter in it, largest first."""
    values, cells = np.unique(mask[(mask > 0) & (mask != ignore_value(mask.dtype))], return_counts=True)
    pairs = [(int(v), float(n) / mask.size) for v, n in zip(values, cells, strict=True) if n >= PRESENT * mask.size]
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def _cluster_count(results: Path, name: str, seed: int, body: Mapping[str, Any], sample: Sample) -> int:
    """Number of clusters of a seed: that of its masks, or the planned one where there are no shards."""
    if not sample.shards:
        return body["clusters"] if isinstance(body["clusters"], int) else 0  # else it comes from the data
    return int(_facts.mask_store(results, name, seed, 0, sample.shards[0]).attrs["clusters"])


def _fact_rows(facts: Sequence[_facts.Facts], selection: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Facts of every round, mean and spread over the seeds, as text; those of the clustering itself at round 0."""
    rows = []
    clustering = _spread(_selection.silhouettes(selection), 1, 2), _spread(_selection.stability(selection), 1, 2)
    of = _several([str(f.shares.shape[1] - 1) for f in facts])
    for r in range(len(facts[0].ignored)):
        rows.append(
            {
                "round": str(r),
                "used": f"{_several([str(int(f.used[r])) for f in facts])} of {of}",
                "balance": _spread([f.balance[r] for f in facts], 1, 2),
                "background": _spread([f.shares[r, 0] for f in facts], 100, 1, " %"),
                "ignored": _spread([f.ignored[r] for f in facts], 100, 1, " %"),
                "silhouette": "–" if r else clustering[0],
                "stability": "–" if r else clustering[1],
                "changed": _spread([f.changed[r] for f in facts], 100, 1, " %"),
            }
        )
    return rows


def _several(values: Sequence[str]) -> str:
    """One value where all seeds agree, else all of them."""
    return values[0] if len(set(values)) == 1 else " / ".join(values)


def _spread(values: Sequence[float], scale: float, digits: int, unit: str = "") -> str:
    """`mean ± sd` over the seeds; a dash where nothing was measured."""
    numbers = [scale * float(v) for v in values if not np.isnan(v)]
    if not numbers:
        return "–"
    sd = f" ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.{digits}f}{sd}{unit}"


def _hashes(results: Path, name: str, seed: int, rounds: int, sample: Sample) -> dict[str, str]:
    """Hash of what made the first shard's masks after every round."""
    return {
        f"round {r}": _facts.mask_store(results, name, seed, r, shard).hash
        for shard in sample.shards[:1]
        for r in range(rounds + 1)
    }
