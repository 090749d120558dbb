"""A few labelled images name the classes: how good are the masks, by labelled images, by method, by names given?

    python bench/taxonomy.py [--cache FOLDER] [--parts camvid voc person suggest all student] [--draws 5] [--out FILE]

Tokens of the embedded EfficientNet-Lite0 at stride 16: CamVid at short side 360, other sets squeezed to 448 x 448.
Features and clusterings (spherical k-means, 800 clusters where nothing else is said) are computed once into the cache.

* camvid: 1, 3 or 10 frames of train.txt, drawn at random, name the classes; val.txt is scored. The clusters are
  those of the frames of train.txt. all: every frame of train.txt is labelled. student: a linear student of what the
  clusters say of 12 000 tokens of train.txt, which holds the labelled ones fixed: about what a round of training gives.
* voc: 1, 3 or 5 photos of each class name the classes; every eighth photo is scored, and never labelled. The clusters
  are those of all photos, without their labels.
* person: somebody names clusters, largest first, as what most of their labelled pixels are. CamVid as above; of the
  other sets, every second image shows the person what the clusters are, and the rest is scored.
* suggest: which clusters are named first (suggested, largest first, random), and which frames are labelled (suggested,
  random), on CamVid.

Methods see the same images. Scores are mIoU and pixel accuracy in percent, from one confusion matrix over all scored
pixels, at the size of the labels; class scores are interpolated before the best one is taken.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _photos import data_folder
from _tokens import SETS, Tokens, camvid_split, clustered, tokens_of

from maskmill.evaluate.readout import argmax_at
from maskmill.numerics import multinomial
from maskmill.numerics.neighbours import unit_rows
from maskmill.recipe.sections import FeatureSet, Size
from maskmill.store.codebook import Codebook, assign
from maskmill.taxonomy import _neighbours, _probe, _suggest, _votes

CLUSTERS = 800
STUDENT_TOKENS, STUDENT_PENALTY = 12_000, 1e-2
Method = Callable[[Tokens, Sequence[int], Codebook, np.ndarray], np.ndarray]


def tokens(name: str, cache: Path) -> Tokens:
    """Tokens of a set."""
    size = Size(short_side=360) if name == "camvid" else Size(square=448)
    return tokens_of(name, FeatureSet(backbone="efficientnet_lite0", stride=16, size=size), cache)


def by_clusters(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """Names of clusters, spread and mixed."""
    rows = known.rows(labelled)
    named = _votes.fit(known.vectors[rows], known.shares[rows], book)
    return _votes.score(x, book, named.shares)


def by_majority(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """The plain way: the most frequent class of each cluster that has labels; vectors go to the nearest of these."""
    rows = known.rows(labelled)
    cells, shares = assign(known.vectors[rows], book)[0], known.shares[rows]
    votes = np.zeros((len(book), shares.shape[1]))
    np.add.at(votes, cells, shares)
    seen = np.flatnonzero(votes.any(axis=1))
    best = np.eye(shares.shape[1], dtype=np.float32)[votes[seen].argmax(axis=1)]
    return best[assign(x, Codebook(book.centroids[seen], book.counts[seen], 0.0, book.spherical))[0]]


def by_probe(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """A linear probe of the labelled images alone."""
    rows = known.rows(labelled)
    image = np.repeat(np.arange(len(labelled)), known.grids[list(labelled)].prod(axis=1))
    return _probe.score(x, _probe.fit(known.vectors[rows], known.shares[rows], image))


def by_neighbours(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray) -> np.ndarray:
    """The nearest labelled tokens."""
    rows = known.rows(labelled)
    return _neighbours.score(x, _neighbours.fit(known.vectors[rows], known.shares[rows]))


METHODS: dict[str, Method] = {
    "majority of a cluster": by_majority,
    "clusters": by_clusters,
    "probe": by_probe,
    "neighbours": by_neighbours,
}


def scored(known: Tokens, images: Sequence[int], chances: np.ndarray) -> tuple[float, float]:
    """MIoU and pixel accuracy, in percent, of class probabilities [n, K] of all tokens of some images."""
    classes, at = len(known.classes), 0
    counts = np.zeros((classes, classes), np.int64)
    for i in images:
        h, w = known.grids[i]
        maps = np.ascontiguousarray(chances[at : at + h * w].T.reshape(classes, h, w))
        at += h * w
        label = known.labels[i]
        best, valid = argmax_at(maps, label.shape), label < classes
        pairs = label[valid].astype(np.int64) * classes + best[valid]
        counts += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    hits = np.diag(counts)
    union = counts.sum(axis=0) + counts.sum(axis=1) - hits
    present = counts.sum(axis=1) > 0
    return 100 * float((hits / np.maximum(union, 1))[present].mean()), 100 * float(hits.sum() / counts.sum())


class Results:
    """Scores by (part, row, column), written as they come; what is there already is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def of(self, key: str, compute: Callable[[], Any]) -> Any:
        """The value of a key."""
        if key not in self.found:
            began = time.process_time()
            self.found[key] = compute()
            print(f"{key}: {self.found[key]}, {time.process_time() - began:.0f} CPU s", flush=True)
            self.path.write_text(json.dumps(self.found, indent=1))
        return self.found[key]

    def table(self, part: str) -> str:
        """Mean and standard deviation over draws, as Markdown."""
        cells: dict[str, dict[str, list[Any]]] = {}
        for key, value in self.found.items():
            name, row, column = key.split("|")[:3]
            if name == part:
                cells.setdefault(row, {}).setdefault(column, []).append(value)
        columns = list(dict.fromkeys(column for row in cells.values() for column in row))
        lines = [f"| {part} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
        for row, found in cells.items():
            lines.append(f"| {row} | " + " | ".join(_cell(found.get(column, [])) for column in columns) + " |")
        return "\n".join(lines)


def _cell(values: Sequence[Any]) -> str:
    if not values:
        return ""
    table = np.array(values, float)
    spread = f" ± {table[:, 0].std():.1f}" if len(table) > 1 else ""
    return f"{table[:, 0].mean():.1f}{spread} / {table[:, 1].mean():.1f}"


def curves(
    part: str, known: Tokens, book: Codebook, held: Sequence[int], draws: Mapping[str, list[list[int]]], out: Results
) -> None:
    """Every method on every draw of labelled images: mIoU and accuracy on the held images."""
    x = known.vectors[known.rows(held)]
    for column, several in draws.items():
        for d, labelled in enumerate(several):
            for name, method in METHODS.items():
                key = f"{part}|{name}|{column}|{d}"
                out.of(key, lambda m=method, rows=labelled: scored(known, held, m(known, rows, book, x)))


def camvid_curves(asked: argparse.Namespace, out: Results) -> None:
    """CamVid by labelled frames."""
    known = tokens("camvid", asked.cache)
    train, held = camvid_split(known)
    draws = {f"{n}": [drawn(train, n, d) for d in range(asked.draws)] for n in (1, 3, 10)}
    book = clustered(known, train, CLUSTERS, 0, asked.cache)
    curves("camvid", known, book, held, draws, out)


def camvid_all(asked: argparse.Namespace, out: Results) -> None:
    """Every frame of train.txt is labelled."""
    known = tokens("camvid", asked.cache)
    train, held = camvid_split(known)
    book = clustered(known, train, CLUSTERS, 0, asked.cache)
    curves("camvid", known, book, held, {f"all {len(train)}": [list(train)]}, out)


def camvid_student(asked: argparse.Namespace, out: Results) -> None:
    """A linear student on tokens of all frames of train.txt, of what the clusters say of them."""
    known = tokens("camvid", asked.cache)
    train, held = camvid_split(known)
    book, x = clustered(known, train, CLUSTERS, 0, asked.cache), known.vectors[known.rows(held)]
    sample = np.sort(np.random.default_rng(0).choice(known.rows(train), STUDENT_TOKENS, replace=False))
    for n in (1, 3, 10):
        for d in range(asked.draws):
            labelled = drawn(train, n, d)
            key = f"camvid|student of the clusters|{n}|{d}"
            out.of(key, lambda rows=labelled: scored(known, held, by_student(known, rows, book, x, sample)))


def by_student(known: Tokens, labelled: Sequence[int], book: Codebook, x: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """A linear student of tokens whose targets the clusters say, and of labelled ones, half as heavy together."""
    rows = known.rows(labelled)
    told = known.shares[rows] * _votes.weights(known.shares[rows], 0.5)
    guessed = by_clusters(known, labelled, book, known.vectors[sample])
    targets = np.concatenate([guessed, told * (0.5 * len(guessed) / told.sum())]).astype(np.float32)
    points = unit_rows(known.vectors[np.concatenate([sample, rows])].astype(np.float32))
    model, _ = multinomial.fit(points, targets, STUDENT_PENALTY, 1, "cpu")
    return _probe.score(x, _probe.Probe(model.weight, model.bias, STUDENT_PENALTY))


def drawn(images: Sequence[int], count: int, draw: int) -> list[int]:
    """Some of the images, by the draw."""
    return sorted(np.random.default_rng((count, draw)).choice(images, count, replace=False).tolist())


def voc_curves(asked: argparse.Namespace, out: Results) -> None:
    """VOC animals by labelled photos of each class."""
    known = tokens("voc_animals", asked.cache)
    held, draws = photo_draws(known, asked.draws)
    book = clustered(known, range(len(known.ids)), CLUSTERS, 0, asked.cache)
    curves("voc_animals", known, book, held, draws, out)


def photo_draws(known: Tokens, several: int) -> tuple[list[int], dict[str, list[list[int]]]]:
    """Every eighth photo, to be scored, and draws of 1, 3 or 5 of the others for each class but the background."""
    held = list(range(0, len(known.ids), 8))
    others = [i for i in range(len(known.ids)) if i % 8]
    shows = np.array([np.bincount(known.labels[i].ravel(), minlength=256)[: len(known.classes)] for i in others])
    area = np.array([known.labels[i].size for i in others])
    shows = shows > 0.01 * area[:, None]  # at least a hundredth of the photo
    draws: dict[str, list[list[int]]] = {}
    for n in (1, 3, 5):
        for d in range(several):
            rng = np.random.default_rng((n, d))
            photos = {
                others[i] for c in range(1, len(known.classes)) for i in rng.choice(np.flatnonzero(shows[:, c]), n)
            }
            draws.setdefault(f"{n} a class", []).append(sorted(photos))
    return held, draws


def majority_names(known: Tokens, images: Sequence[int], book: Codebook) -> np.ndarray:
    """What a person calls each cluster [k]: the class of most of its labelled pixels; -1 where it has none."""
    rows = known.rows(images)
    votes = np.zeros((len(book), len(known.classes)))
    np.add.at(votes, assign(known.vectors[rows], book)[0], known.shares[rows])
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def by_names(book: Codebook, names: np.ndarray, chosen: np.ndarray, classes: int) -> _votes.Named:
    """Names of all clusters from those of the chosen ones, which weigh as much as they are large."""
    votes = np.zeros((len(book), classes))
    some = chosen[names[chosen] >= 0]
    votes[some, names[some]] = book.counts[some]
    return _votes.spread(votes, votes.sum(axis=1), book)


def person(asked: argparse.Namespace, out: Results) -> None:
    """MIoU by clusters named, the largest first (the codebook's order)."""
    for name in ("camvid", "voc_animals", "coco200"):
        known = tokens(name, asked.cache)
        every = range(len(known.ids))
        shown, held = camvid_split(known) if name == "camvid" else (every[::2], every[1::2])
        x = known.vectors[known.rows(held)]
        for k in (50, 200, 800):
            book = clustered(known, shown if name == "camvid" else every, k, 0, asked.cache)
            names = majority_names(known, shown, book)
            for count in (10, 50, 200, 800):
                if count <= k:
                    key = f"person|{name}, {k} clusters|{count}|0"
                    out.of(key, partial(named_score, known, held, x, book, names, np.arange(count)))


def named_score(
    known: Tokens, held: Sequence[int], x: np.ndarray, book: Codebook, names: np.ndarray, chosen: np.ndarray
) -> tuple[float, float]:
    """Scores when the chosen clusters have names."""
    shares = by_names(book, names, chosen, len(known.classes)).shares
    return scored(known, held, _votes.score(x, book, shares))


def suggested(book: Codebook, names: np.ndarray, classes: int, count: int, step: int = 10) -> np.ndarray:
    """Clusters in the order in which they are suggested to a person who names `step` of them at a time."""
    alike = _suggest.likeness(book)
    chosen: np.ndarray = np.zeros(0, np.int64)
    unsure = np.ones(len(book))
    while len(chosen) < count:
        done = np.zeros(len(book), bool)
        done[chosen] = True
        more, _ = _suggest.clusters(book.counts, unsure, alike, min(step, count - len(chosen)), done)
        chosen = np.concatenate([chosen, more])
        unsure = 1 - by_names(book, names, chosen, classes).confidence
    return chosen


def suggest(asked: argparse.Namespace, out: Results) -> None:
    """Orders of naming, and of labelling, on CamVid."""
    known = tokens("camvid", asked.cache)
    train, held = camvid_split(known)
    x = known.vectors[known.rows(held)]
    for k in asked.clusters:
        book = clustered(known, train, k, 0, asked.cache)
        names = majority_names(known, train, book)
        orders = {"suggested": [suggested(book, names, len(known.classes), k // 2)], "largest first": [np.arange(k)]}
        orders["random"] = [np.random.default_rng(d).permutation(k) for d in range(asked.draws)]
        for share in (0.05, 0.1, 0.25, 0.5):
            for row, several in orders.items():
                for d, order in enumerate(several):
                    key = f"suggest|{k} clusters, {row}|{100 * share:.0f} % of the names|{d}"
                    out.of(key, partial(named_score, known, held, x, book, names, order[: int(share * k)]))
        key = f"suggest|{k} clusters, {next(iter(orders))}|all names|0"
        out.of(key, partial(named_score, known, held, x, book, names, np.arange(k)))
    book = clustered(known, train, CLUSTERS, 0, asked.cache)
    tallies = np.array(
        [np.bincount(assign(known.vectors[known.rows([i])], book)[0], minlength=len(book)) for i in train]
    )
    alike = _suggest.likeness(book)
    order, _ = _suggest.images(tallies, tallies.sum(axis=0), np.ones(len(book)), alike, 10)
    for n in (1, 3, 10):
        some = [train[i] for i in order[:n]]
        for name in ("clusters", "probe"):
            key = f"frames|{name}, suggested frames|{n}|0"
            out.of(key, lambda m=METHODS[name], s=some: scored(known, held, m(known, s, book, x)))


PARTS = {
    "camvid": camvid_curves,
    "voc": voc_curves,
    "person": person,
    "suggest": suggest,
    "all": camvid_all,
    "student": camvid_student,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("bench_taxonomy"), help="of features and clusterings")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--clusters", nargs="+", type=int, default=[200, 800], help="of the part suggest")
    parser.add_argument("--out", type=Path, help="JSON of all scores; a run goes on where it ended")
    asked = parser.parse_args()
    missing = [name for name in SETS if data_folder(name) is None]
    if missing:
        print(f"no labelled sets ({', '.join(missing)}): nothing to measure; see MASKMILL_DATA")
        return
    out = Results(asked.out or asked.cache / "taxonomy.json")
    for part in asked.parts:
        PARTS[part](asked, out)
    for part in dict.fromkeys(key.partition("|")[0] for key in out.found):
        print("\n" + out.table(part))


if __name__ == "__main__":
    main()
