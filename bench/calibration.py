"""Is the confidence of named classes right? Expected calibration error on images that named nothing.

    python bench/calibration.py [--cache FOLDER] [--parts camvid voc regions] [--methods clusters neighbours probe]
        [--draws 5] [--out FILE]

Some images have labels; their classes and the calibration (maskmill.taxonomy._calibrate, cross-validation over these
images) come from them alone. Scored are tokens, or regions, of other images: how far the probability of the best class
("before") and the calibrated confidence ("after") are from the share that is right, in 15 equal bins. "Foreseen" is the
error after calibration that the cross-validation expects; "right" is the share of tokens or regions that are right.

* camvid: 3, 10 or 30 frames of train.txt, drawn at random, have labels; val.txt is scored.
* voc: 1, 3 or 5 photos of each of six classes; every eighth photo is scored, and never labelled.
* regions: the same photos, cut into 8 parts each by k-means of their tokens; 200 clusters of the parts' mean tokens.

Tokens and clusters are those of bench/taxonomy.py, and so are the draws.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _naming import Results, drawn
from _photos import data_folder
from _tokens import SETS, Tokens, camvid_split, clustered
from taxonomy import CLUSTERS, tokens

from maskmill.cut import kmeans
from maskmill.store.codebook import Codebook
from maskmill.taxonomy import Clustered
from maskmill.taxonomy._calibrate import calibrate, expected_error, judged
from maskmill.taxonomy._labelled import Labelled
from maskmill.taxonomy._learn import learn

METHODS = ("clusters", "neighbours", "probe")
PARTS_A_PHOTO, PART_CLUSTERS = 8, 200
COLUMNS = ("before", "after", "foreseen", "right")


def labelled(known: Tokens, images: Sequence[int]) -> Labelled:
    """What the stage reads of labelled images."""
    rows = known.rows(images)
    at = np.repeat(np.arange(len(images)), known.grids[list(images)].prod(axis=1))
    labels = tuple(range(len(known.classes)))
    return Labelled(tuple(known.ids[i] for i in images), labels, known.vectors[rows], known.shares[rows], at, {})


def errors(known: Tokens, images: Sequence[int], held: Sequence[int], book: Codebook, method: str) -> list[float]:
    """The figures of `COLUMNS`, in percent; NaN after where there are too few labels."""
    found = labelled(known, images)
    learnt = partial(learn, method, background=None, given=Clustered(book, None, [], Path()))
    calibration, classes = calibrate(found, learnt), learnt(found)
    rows = known.rows(held)
    rows = rows[known.shares[rows].sum(axis=1) >= 0.5]
    odds, right = judged(known.vectors[rows], known.shares[rows], found.classes, classes)
    said = np.isfinite(odds)
    odds, right = odds[said], right[said]
    after = expected_error(calibration.confidence(odds), right) if calibration else float("nan")
    return [100 * float(v) for v in (expected_error(odds, right), after, calibration.after, right.mean())]


def curves(
    part: str,
    known: Tokens,
    book: Codebook,
    held: Sequence[int],
    draws: Mapping[str, Any],
    methods: Sequence[str],
    out: Results,
) -> None:
    """Some methods on every draw of labelled images."""
    for column, several in draws.items():
        for d, images in enumerate(several):
            for method in methods:
                out.of(f"{part}|{method}|{column}|{d}", partial(errors, known, images, held, book, method))


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


def camvid(asked: argparse.Namespace, out: Results) -> None:
    """Frames of a film."""
    known = tokens("camvid", asked.cache)
    train, held = camvid_split(known)
    draws = {f"{n}": [drawn(train, n, d) for d in range(asked.draws)] for n in (3, 10, 30)}
    curves("camvid", known, clustered(known, train, CLUSTERS, 0, asked.cache), held, draws, asked.methods, out)


def voc(asked: argparse.Namespace, out: Results) -> None:
    """Photos, by their tokens."""
    known = tokens("voc_animals", asked.cache)
    held, draws = photo_draws(known, asked.draws)
    curves(
        "voc", known, clustered(known, range(len(known.ids)), CLUSTERS, 0, asked.cache), held, draws, asked.methods, out
    )


def regions(asked: argparse.Namespace, out: Results) -> None:
    """Photos, by parts of them."""
    known = tokens("voc_animals", asked.cache)
    held, draws = photo_draws(known, asked.draws)
    parts = in_parts(known)
    curves(
        "regions",
        parts,
        clustered(parts, range(len(parts.ids)), PART_CLUSTERS, 0, asked.cache),
        held,
        draws,
        asked.methods,
        out,
    )


def in_parts(known: Tokens) -> Tokens:
    """The same images, with the mean tokens of the parts of a cut for tokens."""
    vectors, shares, counts = [], [], []
    params = kmeans.Params(segments=PARTS_A_PHOTO)
    for i, (start, (h, w)) in enumerate(zip(known.starts, known.grids, strict=False)):
        own = slice(start, start + h * w)
        x = known.vectors[own].astype(np.float32)
        segments = kmeans.cut(x.reshape(h, w, -1), params, 0, known.ids[i])[0].ravel()
        several = np.unique(segments[segments > 0])
        member = (segments == several[:, None]) / np.maximum((segments == several[:, None]).sum(1, keepdims=True), 1)
        vectors.append(member @ x)
        shares.append(member @ known.shares[own])
        counts.append((1, len(several)))
    return replace(
        known,
        vectors=np.concatenate(vectors).astype(np.float16),
        shares=np.concatenate(shares).astype(np.float32),
        grids=np.array(counts),
    )


def table(part: str, found: Mapping[str, Sequence[float]]) -> str:
    """Means over draws, as Markdown: one line a method and a number of labelled images."""
    rows: dict[tuple[str, str], list[Sequence[float]]] = {}
    for key, values in found.items():
        name, method, column, _ = key.split("|")
        if name == part:
            rows.setdefault((method, column), []).append(values)
    lines = [f"| {part} | labelled | " + " | ".join(COLUMNS) + " |", "|---|---:|" + "---:|" * len(COLUMNS)]
    for (method, column), several in rows.items():
        mean, spread = np.mean(several, axis=0), np.std(several, axis=0)
        cells = [f"{m:.1f} ± {s:.1f}" if np.isfinite(m) else "uncalibrated" for m, s in zip(mean, spread, strict=True)]
        lines.append(f"| `{method}` | {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


PARTS = {"camvid": camvid, "voc": voc, "regions": regions}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("bench_taxonomy"), help="of features and clusterings")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON of all figures; a run goes on where it ended")
    asked = parser.parse_args()
    missing = [name for name in SETS if data_folder(name) is None]
    if missing:
        print(f"no labelled sets ({', '.join(missing)}): nothing to measure; see MASKMILL_DATA")
        return
    out = Results(asked.out or asked.cache / "calibration.json")
    for part in asked.parts:
        PARTS[part](asked, out)
        print("\n" + table(part, out.found))


if __name__ == "__main__":
    main()
