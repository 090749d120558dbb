"""Does clusters: auto find a number that is good for the labels? Prints the table of docs/cluster.md.

    python bench/number.py [--data DATA] [--cache FOLDER] [--sets camvid ...] [--limit 120]

Tokens of efficientnet_lite0 (photos squeezed to 448 x 448, stride 16), spherical k-means with K clusters for a grid of
K, mean over three seeds, mIoU by hungarian_iou on masks of two cells a token: one cluster is one class. The regret of a
rule is the mIoU of the best K of the grid minus that of the K which the rule takes; labels are used for nothing else.
Rules: the shipped one (maskmill.cluster._auto), and for comparison fixed numbers, the silhouette (Rousseeuw, 1987), the
index of Calinski and Harabasz (1974), the gap to the normal reference (after Tibshirani et al., 2001), and prediction
strength of at least 0.8 (Tibshirani and Walther, 2005), of the same sample and halves. Last, the rule that would be
taken by the smallest mean regret on all other sets, scored on the set that was left out.

many_to_one is another goal: there more clusters can only help, its best K is the end of every grid, and no rule is
needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from _photos import data_folder
from PIL import Image

from maskmill.cluster import _auto
from maskmill.evaluate.matching import hungarian_iou, metrics
from maskmill.images.interpolate import best_scores
from maskmill.numerics import kmeans
from maskmill.numerics.sampling import rng
from maskmill.store.codebook import Codebook, assign, scores

SETS = ("voc_animals", "camvid", "coco200", "ecssd", "dsb2018", "membrane")
SCORED = {"voc_animals": (0, 8, 10, 12, 13, 15, 17)}
SIDE, CELLS = 448, 2
FIRST, LAST = 2, 64
NUMBERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)  # that are scored, and that rules of comparison take


def tokens(folder: Path, limit: int, weights: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, h, w, d] float16 and label ids [n, CELLS * h, CELLS * w] of a set, images evenly spread."""
    from maskmill.backbones.network import load
    from maskmill.backbones.weights import prepare
    from maskmill.images.decode import decode, resize
    from maskmill.recipe.feature_set import FeatureSet, Size

    feature_set = FeatureSet(backbone="efficientnet_lite0", stride=16, size=Size(square=SIDE))
    if not weights.is_file():
        prepare(feature_set, weights)
    backbone = load(weights, feature_set, torch.device("cpu"))
    photos = sorted((folder / "images").iterdir())
    photos = [photos[i] for i in np.unique(np.linspace(0, len(photos) - 1, limit).round().astype(int))]
    values, labels = [], []
    for photo in photos:
        pixels = torch.from_numpy(resize(decode(photo), (SIDE, SIDE)))[None]
        values.append(backbone.forward(pixels)[0][0].numpy().astype(np.float16))
        label = np.asarray(Image.open(folder / "masks" / f"{photo.stem}.png"))
        side = CELLS * values[-1].shape[0]
        rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in label.shape)
        labels.append(label[rows][:, columns])
    return np.stack(values), np.stack(labels)


def miou(x: np.ndarray, y: np.ndarray, book: Codebook, scored: Sequence[int]) -> float:
    """MIoU of the masks of a codebook, by hungarian_iou."""
    h, w, d = x.shape[1:]
    column = np.full(256, -1)
    column[list(scored)] = np.arange(len(scored))
    counts = np.zeros((len(book), len(scored)), np.int64)
    for values, label in zip(x, column[y], strict=True):
        maps = np.moveaxis(scores(values.reshape(h * w, d).astype(np.float32), book).reshape(h, w, -1), 2, 0)
        mask = best_scores(maps, (CELLS * h, CELLS * w))
        np.add.at(counts, (mask[label >= 0], label[label >= 0]), 1)
    counts = counts[:, counts.any(axis=0)]
    return 100 * metrics(counts, hungarian_iou(counts)).miou


def curve(x: np.ndarray, y: np.ndarray, name: str, numbers: Sequence[int]) -> dict[int, float]:
    """{K: mIoU}, mean over three seeds."""
    scored = SCORED.get(name) or [int(i) for i in np.unique(y) if i != 255]
    rows = x.reshape(-1, x.shape[-1]).astype(np.float32)
    found = {}
    for k in numbers:
        books = [kmeans.fit(rows, kmeans.Settings(clusters=k), seed, "cpu")[0] for seed in (0, 1, 2)]
        found[k] = float(np.mean([miou(x, y, book, scored) for book in books]))
    return found


def drawn(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sample that the rule would see [m, d], evenly over the images, and the image of each row."""
    each = max(1, _auto.SAMPLE // len(x))
    flat = x.reshape(len(x), -1, x.shape[-1])
    picked = [
        np.sort(rng(0, str(i)).choice(flat.shape[1], min(each, flat.shape[1]), replace=False)) for i in range(len(x))
    ]
    rows = np.concatenate([flat[i][rows] for i, rows in enumerate(picked)]).astype(np.float32)
    return rows, np.repeat(np.arange(len(x)), [len(rows) for rows in picked])


def others(rows: np.ndarray, images: np.ndarray, numbers: Sequence[int]) -> dict[str, int]:
    """What the rules of comparison take."""
    from sklearn.metrics import calinski_harabasz_score, silhouette_score

    x = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    fits, null, one = _auto.by_kmeans(True), _auto.like(x)(0), _auto.half(images, 0)
    some = rng(0, "some").choice(len(x), min(2000, len(x)), replace=False)
    index: dict[str, list[float]] = {"silhouette": [], "Calinski-Harabasz": [], "gap": []}
    for book, apart in zip(fits(x, numbers, 0), fits(null, numbers, 0), strict=True):
        labels = assign(x, book)[0]
        index["silhouette"].append(silhouette_score(x[some], labels[some], metric="cosine"))
        index["Calinski-Harabasz"].append(calinski_harabasz_score(x, labels))
        index["gap"].append(float(np.log(apart.inertia / book.inertia)))
    strength = [
        (kept_together(x[one], a, b) + kept_together(x[~one], b, a)) / 2
        for a, b in zip(fits(x[one], numbers, 0), fits(x[~one], numbers, 1), strict=True)
    ]
    strong = [k for k, s in zip(numbers, strength, strict=True) if s >= 0.8]
    return {name: numbers[int(np.argmax(values))] for name, values in index.items()} | {
        "prediction strength": max(strong, default=numbers[0])
    }


def kept_together(x: np.ndarray, own: Codebook, other: Codebook) -> float:
    """Prediction strength: the least share of pairs in a cluster of x [n, d] that another codebook keeps together."""
    table = np.zeros((len(own), len(other)))
    np.add.at(table, (assign(x, own)[0], assign(x, other)[0]), 1)
    size = table.sum(axis=1)
    return float(((table * (table - 1)).sum(axis=1)[size > 1] / (size * (size - 1))[size > 1]).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="folder of the sets")
    parser.add_argument("--cache", default="bench_number", help="where tokens and scores are kept")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--limit", type=int, default=120, help="images of a set, evenly spread")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cache = Path(asked.cache)
    cache.mkdir(parents=True, exist_ok=True)
    truth, taken = {}, {}
    for name in asked.sets:
        folder = Path(asked.data) / name if asked.data else data_folder(name)
        if folder is None or not folder.is_dir():
            sys.exit(f"no set {name}: give --data, a folder with one folder a set: images/ and masks/")
        store, known = cache / f"{name}.{asked.limit}.npz", cache / f"{name}.{asked.limit}.json"
        if not store.is_file():
            x, y = tokens(folder, asked.limit, cache / "weights.safetensors")
            np.savez(store, x=x, y=y)
        x, y = np.load(store)["x"], np.load(store)["y"]
        if not known.is_file():
            known.write_text(json.dumps(curve(x, y, name, NUMBERS)))
        truth[name] = {int(k): value for k, value in json.loads(known.read_text()).items()}
        rows, images = drawn(x)
        start = time.process_time()
        choice = _auto.choose(rows, images, (FIRST, LAST), _auto.by_kmeans(True), True)
        spent = time.process_time() - start
        start = time.process_time()
        kmeans.fit(x.reshape(-1, x.shape[-1]).astype(np.float32), kmeans.Settings(clusters=16), 0, "cpu")
        fit = time.process_time() - start
        said = f"{choice.chosen} ({'' if choice.supported else 'not '}repeatable), search {spent:.1f} CPU s"
        print(f"{name}: {said}; k-means of {x[..., 0].size} tokens, K 16: {fit:.1f}")
        for sign, values in (("S ", choice.stability), ("S0", choice.reference)):
            cells = (f"{k}:{value:.2f}" for k, value in zip(choice.numbers, values, strict=True))
            print(f"  {sign} {' '.join(cells)}", flush=True)
        if choice.chosen not in truth[name]:
            truth[name] |= curve(x, y, name, [choice.chosen])
        taken[name] = {"auto": choice.chosen} | others(rows, images, NUMBERS) | {f"always {k}": k for k in (2, 4, 6, 8)}
    table(truth, taken)


def table(truth: Mapping[str, Mapping[int, float]], taken: Mapping[str, Mapping[str, int]]) -> None:
    """Markdown: K and regret of every rule on every set, and leave-one-set-out."""
    sets = list(truth)
    best = {name: max(truth[name], key=lambda k: truth[name][k]) for name in sets}
    regret = {
        rule: {name: truth[name][best[name]] - truth[name][taken[name][rule]] for name in sets}
        for rule in taken[sets[0]]
    }
    print(f"\n| rule | {' | '.join(sets)} | mean regret |\n|---|{'---:|' * (len(sets) + 1)}")
    print("| best K of the grid: mIoU | " + " | ".join(f"{best[n]}: {truth[n][best[n]]:.1f}" for n in sets) + " | |")
    for rule, row in sorted(regret.items(), key=lambda item: np.mean(list(item[1].values()))):
        cells = " | ".join(f"{taken[n][rule]}: -{row[n]:.1f}" for n in sets)
        print(f"| {rule} | {cells} | {np.mean(list(row.values())):.1f} |")
    held = {}
    for name in sets:
        rest = [other for other in sets if other != name]
        held[name] = min(regret, key=lambda rule: np.mean([regret[rule][other] for other in rest])) if rest else ""
    if len(sets) > 1:
        cells = " | ".join(f"{held[n]}: -{regret[held[n]][n]:.1f}" for n in sets)
        print(f"| chosen without the set | {cells} | {np.mean([regret[held[n]][n] for n in sets]):.1f} |")


if __name__ == "__main__":
    main()
