"""A few labelled images name the classes: how good are the masks, by labelled images, by method, by names given?

    python bench/taxonomy.py [--cache FOLDER] [--parts camvid camvid720 voc ...] [--draws 5] [--out FILE]
        [--unnamed NAME=RUN/results/recipes/comus/seed0/round1/masks ...]

Tokens of the embedded EfficientNet-Lite0. Features and clusterings (spherical k-means, 800 clusters where nothing else
is said) are computed once into the cache. Each part is one table of docs/benchmarks.md:

* camvid: 1, 3 or 10 frames of train.txt, drawn at random, or all of them, name the classes; val.txt is scored. The
  clusters are those of the frames of train.txt. Stride 16 at short side 360. camvid720: stride 32 at short side 720.
* student: a linear student of what the clusters say of 12 000 tokens of train.txt, which holds the labelled ones fixed:
  about what a round of training gives.
* voc: 1, 3 or 5 photos of each class name the classes. Draw d is scored on every eighth photo from the d-th on, and
  labels none of them. The clusters are those of all photos, without their labels. Beside them, on the same photos,
  clusters without names, which are matched to the scored labels: k-means with as many clusters as classes, and the
  masks of finished runs (--unnamed). 448 x 448, stride 16.
* person: somebody names clusters, largest first, as what most of their labelled pixels are. CamVid as above; of the
  other sets, every second image shows the person what the clusters are, and the rest is scored.
* suggest: which clusters are named first (suggested, largest first, random), on the same sets and images.
* frames: which frames of CamVid are labelled (suggested).

Methods see the same images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from _naming import (
    METHODS,
    Results,
    by_student,
    confusion,
    drawn,
    masks_of,
    matched,
    metrics,
    of_each_class,
    pairs,
    refined,
    scored,
)
from _orders import largest_first, majority_names, mixture, named_score, suggested
from _photos import data_folder
from _tokens import SETS, Tokens, camvid_split, clustered, photos_of, tokens_of

from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.store.codebook import Codebook, assign
from maskmill.taxonomy import _suggest

CLUSTERS, SEVERAL = 800, (50, 200, 800)
STUDENT_TOKENS = 12_000
SHARES = (0.05, 0.1, 0.25, 0.5)
FOLDS = 8
SIZES = {"camvid": (16, Size(short_side=360)), "camvid720": (None, Size(short_side=720))}

Draws = dict[str, list[tuple[Sequence[int], Sequence[int]]]]
"""Images that are labelled and images that are scored, of every draw of a column."""


@cache
def tokens(name: str, folder: Path) -> Tokens:
    """Tokens of a set, or of CamVid at another size."""
    stride, size = SIZES.get(name, (16, Size(square=448)))
    feature_set = FeatureSet(backbone="efficientnet_lite0", stride=stride, size=size)
    return tokens_of(name.removesuffix("720"), feature_set, folder)


def curves(
    part: str,
    known: Tokens,
    book: Codebook,
    draws: Draws,
    out: Results,
) -> None:
    """Every method on every draw of labelled images: mIoU and accuracy on the draw's other images."""
    for column, several in draws.items():
        for d, (labelled, held) in enumerate(several):
            x = known.vectors[known.rows(held)]
            for name, method in METHODS.items():
                key = f"{part}|{name}|{column}|{d}"
                out.of(key, lambda m=method, rows=labelled, h=held, x=x: scored(known, h, m(known, rows, book, x)))


def camvid_curves(part: str, asked: argparse.Namespace, out: Results) -> None:
    """CamVid by labelled frames, and with all of them."""
    known = tokens(part, asked.cache)
    train, held = camvid_split(known)
    draws: Draws = {f"{n}": [(drawn(train, n, d), held) for d in range(asked.draws)] for n in (1, 3, 10)}
    draws[f"all {len(train)}"] = [(list(train), held)]
    curves(part, known, clustered(known, train, CLUSTERS, 0, asked.cache), draws, out)


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


def voc_curves(asked: argparse.Namespace, out: Results) -> None:
    """VOC animals by labelled photos of each class, beside clusters without names."""
    known = tokens("voc_animals", asked.cache)
    every, draws = range(len(known.ids)), range(asked.draws)
    held = [every[d % FOLDS :: FOLDS] for d in draws]
    named: Draws = {
        f"{n} a class": [(of_each_class(known, sorted(set(every) - set(held[d])), n, d), held[d]) for d in draws]
        for n in (5, 3, 1)
    }
    book = clustered(known, every, CLUSTERS, 0, asked.cache)
    curves("voc_animals", known, book, named, out)
    for column, several in named.items():
        for d, (labelled, rest) in enumerate(several):
            key = f"voc_animals|clusters, paint.refine: crf|{column}|{d}"
            out.of(key, partial(_refined, known, labelled, rest, book))
    rows = {f"unnamed: k-means, {len(known.classes)} clusters": _kmeans_counts(known, asked.cache)}
    for text in asked.unnamed:
        name, _, folder = text.partition("=")
        rows[f"unnamed: {name}"] = _mask_counts(known, Path(folder))
    for name, counts in rows.items():
        for d in draws:
            out.of(f"voc_animals|{name}|none|{d}", lambda c=counts, h=held[d]: matched(c[list(h)].sum(axis=0)))


def _refined(known: Tokens, labelled: Sequence[int], held: Sequence[int], book: Codebook) -> tuple[float, float]:
    """Scores of the method clusters, fitted to the photos."""
    chances = METHODS["clusters"](known, labelled, book, known.vectors[known.rows(held)])
    return metrics(refined(known, held, chances, photos_of("voc_animals")))


def _kmeans_counts(known: Tokens, folder: Path) -> np.ndarray:
    """Pixels by true class and by cluster of k-means, one cluster a class: [images, K, K]."""
    count, every = len(known.classes), range(len(known.ids))
    book = clustered(known, every, count, 0, folder)
    unit = known.vectors.astype(np.float32)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    near = unit @ book.centroids.T
    return np.stack([confusion(known, [i], near[known.rows([i])]) for i in every])


def _mask_counts(known: Tokens, folder: Path) -> np.ndarray:
    """Pixels by true class and by mask value of a run: [images, K, 256]."""
    shape = (len(known.classes), 256)
    return np.stack(
        [pairs(label, mask, shape) for label, mask in zip(known.labels, masks_of(folder, known), strict=True)]
    )


def shown_and_held(known: Tokens, name: str) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Images that show a person what the clusters are, those that are scored, and those that are clustered."""
    if name == "camvid":
        train, held = camvid_split(known)
        return train, held, train
    every = range(len(known.ids))
    return every[::2], every[1::2], every


def person(asked: argparse.Namespace, out: Results) -> None:
    """MIoU by clusters named, the largest first."""
    for name in asked.sets:
        known = tokens(name, asked.cache)
        shown, held, of = shown_and_held(known, name)
        x = known.vectors[known.rows(held)]
        for k in asked.clusters:
            book = clustered(known, of, k, 0, asked.cache)
            names, mixed = majority_names(known, shown, book), mixture(x, book)
            for count in (10, 50, 200, 800):
                if count <= k:
                    key = f"person|{name}, {k} clusters|{count}|0"
                    order = largest_first(book)[:count]
                    out.of(key, partial(named_score, known, held, mixed, book, names, order))


def suggest(asked: argparse.Namespace, out: Results) -> None:
    """Orders of naming."""
    score = partial(named_score, pixels=not asked.tokens)
    for name in asked.sets:
        known = tokens(name, asked.cache)
        shown, held, of = shown_and_held(known, name)
        x = known.vectors[known.rows(held)]
        for k in asked.clusters:
            book = clustered(known, of, k, 0, asked.cache)
            names, mixed = majority_names(known, shown, book), mixture(x, book)
            orders = {
                "suggested": [suggested(book, names, len(known.classes), k // 2)],
                "largest first": [largest_first(book)],
                "random": [np.random.default_rng(d).permutation(k) for d in range(asked.draws)],
            }
            for share in asked.shares:
                for row, several in orders.items():
                    for d, order in enumerate(several):
                        key = f"suggest|{name}, {k}, {row}|{100 * share:.0f} %|{d}"
                        first = order[: max(1, int(share * k))]
                        out.of(key, partial(score, known, held, mixed, book, names, first))
            key = f"suggest|{name}, {k}, suggested|all|0"
            out.of(key, partial(score, known, held, mixed, book, names, np.arange(k)))


def frames(asked: argparse.Namespace, out: Results) -> None:
    """Frames of CamVid that are suggested for labelling."""
    known = tokens("camvid", asked.cache)
    train, held = camvid_split(known)
    x = known.vectors[known.rows(held)]
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


PARTS: dict[str, Callable[[argparse.Namespace, Results], None]] = {
    "camvid": partial(camvid_curves, "camvid"),
    "camvid720": partial(camvid_curves, "camvid720"),
    "student": camvid_student,
    "voc": voc_curves,
    "person": person,
    "suggest": suggest,
    "frames": frames,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("bench_taxonomy"), help="of features and clusterings")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="of person and suggest")
    parser.add_argument("--clusters", nargs="+", type=int, default=list(SEVERAL), help="of person and suggest")
    parser.add_argument(
        "--shares", nargs="+", type=float, default=list(SHARES), help="of the clusters named, of suggest"
    )
    parser.add_argument("--tokens", action="store_true", help="suggest scores tokens, not pixels")
    parser.add_argument("--unnamed", nargs="+", default=[], help="NAME=masks of a finished run on VOC animals")
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
