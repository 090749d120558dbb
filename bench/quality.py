"""Does agreement without labels tell which recipe is better, and where masks are wrong? Tables of docs/benchmarks.md.

    python bench/quality.py [--data DATA] [--cache FOLDER] [--sets camvid ...] [--limit 120]

Tokens of efficientnet_lite0 and of colour (photos squeezed to 448 x 448, stride 16), masks of two cells a token. There
are 38 variants a set: 24 with as many clusters as classes (k-means on cosines or not, agglomerative, spectral; tokens
as they are, PCA, whitened; at half the resolution; colour), and 14 with 4 to 64. Each is fitted with two seeds.

Ranking: Spearman correlation over the variants of a prediction without labels and the mIoU with them. Predictions: the
adjusted Rand index with the other variants (the rule of the report, maskmill.report._quality), that between the two
seeds, and their mean. The same consensus is also measured by Hungarian IoU and by the Rand index of single images. As
a run has few recipes, 2000 draws of a few of the 24 are ranked among themselves, too.

Coverage: the cells of least confidence become ignore, and mIoU is that of the cells left, matched anew. Confidence: the
margin between the two best clusters, or the share of the other variants (or the other seed) that say the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _photos import data_folder
from number import SCORED
from PIL import Image
from scipy.stats import spearmanr

from maskmill.evaluate.matching import MATCHERS, metrics
from maskmill.images.interpolate import best_scores, resize_maps
from maskmill.numerics import kmeans
from maskmill.numerics.agreement import adjusted_rand, agreeing, matched_iou, same, table
from maskmill.numerics.sampling import rng
from maskmill.store.codebook import Codebook, scores

SETS = ("voc_animals", "camvid", "coco200")
SIDE, CELLS, ROWS = 448, 2, 20_000  # ROWS: tokens that a variant is fitted on
SEEDS = (0, 1)
COVERAGE = (1.0, 0.9, 0.7)
FEW, DRAWS = (3, 5, 8, 24), 2000


@dataclass(frozen=True)
class Variant:
    """One recipe of the comparison; clusters 0: as many as classes."""

    method: str = "kmeans"
    clusters: int = 0
    reduction: str = "none"
    spherical: bool = True
    half: bool = False
    backbone: str = "efficientnet_lite0"


def variants() -> list[Variant]:
    """24 of as many clusters as classes, then 14 of other numbers."""
    kinds, both = ("none", "pca", "whitened"), (True, False)
    found = [Variant(reduction=r, spherical=s, half=h) for r in kinds for s in both for h in both]
    found += [Variant(reduction="pca8", spherical=s) for s in both]
    found += [Variant(spherical=s, half=h, backbone="colour") for s in both for h in both]
    found += [Variant(method, reduction=r) for method in ("agglomerative", "spectral") for r in kinds]
    return found + [Variant(clusters=k, reduction=r) for k in (4, 8, 16, 24, 32, 48, 64) for r in ("none", "whitened")]


def tokens(name: str, backbone: str, limit: int, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, h, w, d] float16 and label ids [n, 4 h, 4 w] of a set, images evenly spread; kept in `cache`."""
    stored = cache / f"{name}.{backbone}.{limit}.npz"
    if not stored.is_file():
        _extract(name, backbone, limit, stored)
    with np.load(stored, allow_pickle=False) as found:
        return found["x"], found["y"]


def _extract(name: str, backbone: str, limit: int, out: Path) -> None:
    from maskmill.backbones.network import load
    from maskmill.backbones.weights import prepare
    from maskmill.images.decode import decode, resize
    from maskmill.recipe.feature_set import FeatureSet, Size

    folder = data_folder(name)
    assert folder is not None
    out.parent.mkdir(parents=True, exist_ok=True)
    feature_set = FeatureSet(backbone=backbone, stride=16, size=Size(square=SIDE))
    weights = out.parent / f"{backbone}.safetensors"
    if not weights.is_file():
        prepare(feature_set, weights)
    network = load(weights, feature_set, torch.device("cpu"))
    photos = sorted((folder / "images").iterdir())
    photos = [photos[i] for i in np.unique(np.linspace(0, len(photos) - 1, limit).round().astype(int))]
    values, labels = [], []
    for photo in photos:
        pixels = torch.from_numpy(resize(decode(photo), (SIDE, SIDE)))[None]
        values.append(network.forward(pixels)[0][0].numpy().astype(np.float16))
        label = np.asarray(Image.open(folder / "masks" / f"{photo.stem}.png"))
        side = 4 * values[-1].shape[0]
        rows, columns = (((np.arange(side) + 0.5) * n / side).astype(int) for n in label.shape)
        labels.append(label[rows][:, columns])
    np.savez(out, x=np.stack(values), y=np.stack(labels))


def reduced(x: np.ndarray, kind: str) -> np.ndarray:
    """Tokens [n, h, w, d] float32, projected on at most 32 (or 8) principal components, these of equal variance."""
    if kind == "none":
        return x
    flat = x.reshape(-1, x.shape[-1]) - x.reshape(-1, x.shape[-1]).mean(axis=0)
    width = min(8 if kind == "pca8" else 32, x.shape[-1])
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    flat = flat @ vectors[:, ::-1][:, :width]
    if kind == "whitened":
        flat /= np.sqrt(np.maximum(values[::-1][:width], 1e-12))
    return flat.reshape(*x.shape[:3], width)


def fitted(x: np.ndarray, variant: Variant, clusters: int, seed: int) -> Codebook:
    """The clusters of a seeded sample of tokens."""
    flat = x.reshape(-1, x.shape[-1])
    few = {"agglomerative": 3000, "spectral": 2000}.get(variant.method, ROWS)
    rows = flat[rng(seed, "rows").choice(len(flat), min(few, len(flat)), replace=False)]
    if variant.method == "kmeans":
        settings = kmeans.Settings(clusters=clusters, spherical=variant.spherical)
        return kmeans.fit(rows, settings, seed, "cpu")[0]
    from sklearn.cluster import AgglomerativeClustering, SpectralClustering

    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    if variant.method == "agglomerative":
        labels = AgglomerativeClustering(clusters).fit_predict(unit)
    else:
        graph = {"affinity": "nearest_neighbors", "n_neighbors": 20}
        labels = SpectralClustering(clusters, **graph, random_state=seed).fit_predict(unit)
    centroids = np.stack([unit[labels == k].mean(axis=0) for k in range(clusters)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    return Codebook(centroids.astype(np.float32), np.bincount(labels, minlength=clusters), 0.0, True)


def painted(x: np.ndarray, book: Codebook, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Label maps [n, side, side] and the margin between the two best clusters, interpolated alike."""
    masks, margins = [], []
    for values in x:
        h, w, d = values.shape
        maps = np.moveaxis(np.asarray(scores(values.reshape(h * w, d), book)).reshape(h, w, -1), 2, 0)
        masks.append(best_scores(maps, (side, side)))
        two = np.partition(resize_maps(maps, (side, side)), -2, axis=0)[-2:]
        margins.append(two[1] - two[0])
    return np.stack(masks), np.stack(margins)


def true_miou(masks: np.ndarray, y: np.ndarray, kept: np.ndarray, rule: str) -> float:
    """MIoU in percent of the kept cells of masks of labels [n, s, s]; y: index of the class, -1 void.

    A class of which no cell is kept counts 0.
    """
    counts = table(masks[kept], y[kept], (int(masks.max()) + 1, int(y.max()) + 1))
    counts = counts[:, counts.any(axis=0)]
    return 100 * float(metrics(counts, MATCHERS[rule](counts)).iou.sum()) / len(np.unique(y[y >= 0]))


@dataclass
class Made:
    """The masks of one variant: [seeds, n, s, s], the margins of the first seed, and mIoU by rule."""

    variant: Variant
    masks: np.ndarray
    margins: np.ndarray
    miou: dict[str, float]


def make(name: str, limit: int, cache: Path) -> tuple[list[Made], np.ndarray]:
    """Every variant of a set, and the classes of its cells [n, s, s], -1 void."""
    stored = {b: tokens(name, b, limit, cache) for b in ("efficientnet_lite0", "colour")}
    y = stored["efficientnet_lite0"][1]
    scored = SCORED.get(name) or [int(i) for i in np.unique(y) if i != 255]
    column = np.full(256, -1)
    column[list(scored)] = np.arange(len(scored))
    side = CELLS * y.shape[1] // 4
    step = y.shape[1] // side
    truth = column[y[:, step // 2 :: step, step // 2 :: step]]
    classes = len(np.unique(truth[truth >= 0]))
    found, inputs = [], {}
    for variant in variants():
        key = (variant.backbone, variant.half, variant.reduction)
        if key not in inputs:
            x = stored[variant.backbone][0].astype(np.float32)
            n, h, w, d = x.shape
            if variant.half:
                x = x.reshape(n, h // 2, 2, w // 2, 2, d).mean(axis=(2, 4))
            inputs[key] = reduced(x, variant.reduction)
        books = [fitted(inputs[key], variant, variant.clusters or classes, seed) for seed in SEEDS]
        masks, margins = zip(*(painted(inputs[key], book, side) for book in books), strict=True)
        rules = {r: true_miou(masks[0], truth, truth >= 0, r) for r in ("hungarian_iou", "many_to_one")}
        found.append(Made(variant, np.stack(masks).astype(np.int16), margins[0], rules))
    return found, truth


def _counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return table(a, b, (int(a.max()) + 1, int(b.max()) + 1))


def between(made: Sequence[Made]) -> np.ndarray:
    """Adjusted Rand index of every pair of variants [m, m], NaN on the diagonal."""
    return _pairwise(made, lambda a, b: adjusted_rand(_counts(a.masks[0], b.masks[0])))


def _pairwise(made: Sequence[Made], alike: Callable[[Made, Made], float]) -> np.ndarray:
    found = np.full((len(made), len(made)), np.nan)
    for i, a in enumerate(made):
        for j, b in enumerate(made[:i]):
            found[i, j] = found[j, i] = alike(a, b)
    return found


def _image_by_image(a: Made, b: Made) -> float:
    return float(np.mean([adjusted_rand(_counts(*pair)) for pair in zip(a.masks[0], b.masks[0], strict=True)]))


def predictions(made: Sequence[Made]) -> dict[str, list[float]]:
    """What is predicted for each variant, by rule."""
    others, seeds = np.nanmean(between(made), axis=1), np.array([adjusted_rand(_counts(*m.masks)) for m in made])
    matched = _pairwise(made, lambda a, b: matched_iou(_counts(a.masks[0], b.masks[0])))
    return {
        "others, adjusted Rand (the report)": others.tolist(),
        "seeds, adjusted Rand": seeds.tolist(),
        "mean of both": ((others + seeds) / 2).tolist(),
        "others, Hungarian IoU": np.nanmean(matched, axis=1).tolist(),
        "others, adjusted Rand of single images": np.nanmean(_pairwise(made, _image_by_image), axis=1).tolist(),
        "number of clusters": [float(each.masks.max()) for each in made],
    }


def few(made: Sequence[Made]) -> list[list[str]]:
    """Rows by number of recipes: mIoU of the one ranked first, at random, of the best; how often they are one."""
    equal = [each for each in made if not each.variant.clusters]
    rand, miou, rows = between(equal), np.array([each.miou["hungarian_iou"] for each in equal]), []
    for number in FEW:
        found = []
        for draw in range(1 if number == len(equal) else DRAWS):
            some = rng(draw, "few").choice(len(equal), number, replace=False)
            first = miou[some[np.nanmean(rand[np.ix_(some, some)], axis=1).argmax()]]
            found.append((first, miou[some].mean(), miou[some].max(), first == miou[some].max()))
        first, mean, best, hits = np.mean(found, axis=0)
        rows.append([str(number), f"{first:.1f}", f"{mean:.1f}", f"{best:.1f}", f"{100 * hits:.0f} %"])
    return rows


def ranking(made: Sequence[Made]) -> list[list[str]]:
    """Rows of the first table: rule, then Spearman with mIoU by matching and group of variants."""
    equal = [each for each in made if not each.variant.clusters]
    columns = [(equal, predictions(equal)), (made, predictions(made))]
    rows = []
    for rule in columns[0][1]:
        cells = []
        for group, predicted in columns:
            for matching in ("hungarian_iou", "many_to_one"):
                one = len(set(predicted[rule])) == 1
                rho = np.nan if one else spearmanr(predicted[rule], [m.miou[matching] for m in group])[0]
                cells.append("–" if np.isnan(rho) else f"{rho:+.2f}")
        rows.append([rule, *cells])
    return rows


def coverage(made: Sequence[Made], truth: np.ndarray) -> list[list[str]]:
    """Rows of the second table: confidence, then mean mIoU of the variants of one K at each coverage."""
    equal = [each for each in made if not each.variant.clusters]
    curves: dict[str, list[list[float]]] = {"margin": [], "other seed": [], "other variants": [], "random": []}
    chance = rng(0, "ties").random(truth.shape)  # breaks ties, and is the confidence that knows nothing
    for mine in equal:
        a = mine.masks[0]
        said = [agreeing(a, b, same(_counts(a, b))) for b in (e.masks[0] for e in equal if e is not mine)]
        seed = agreeing(a, mine.masks[1], same(_counts(a, mine.masks[1])))
        kinds = {"margin": mine.margins, "other seed": seed, "other variants": np.mean(said, axis=0)}
        kinds["random"] = np.zeros(truth.shape)
        for kind, confidence in kinds.items():
            curves[kind].append(_curve(a, truth, np.lexsort((chance.ravel(), confidence.ravel()))))
    return [[kind, *(f"{v:.1f}" for v in np.mean(curve, axis=0))] for kind, curve in curves.items()]


def _curve(masks: np.ndarray, truth: np.ndarray, order: np.ndarray) -> list[float]:
    """MIoU (hungarian_iou) when the first cells of the order are left out."""
    found = []
    for share in COVERAGE:
        kept = (truth >= 0).ravel()
        kept[order[: round((1 - share) * len(order))]] = False
        found.append(true_miou(masks, truth, kept.reshape(truth.shape), "hungarian_iou"))
    return found


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    print("\n".join("| " + " | ".join(row) + " |" for row in rows), flush=True)


def main() -> None:
    """Both tables of every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data")
    parser.add_argument("--cache", type=Path, default=Path("bench_quality"), help="folder that keeps the tokens")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--limit", type=int, default=120)
    arguments = parser.parse_args()
    if arguments.data:
        import os

        os.environ["MASKMILL_DATA"] = arguments.data
    torch.set_num_threads(1)
    for name in arguments.sets:
        if data_folder(name) is None:
            print(f"{name}: no labelled set; set MASKMILL_DATA to the folder of the sets", file=sys.stderr)
            continue
        start = time.process_time()
        made, truth = make(name, arguments.limit, arguments.cache)
        print(f"\n{name}: {len(truth)} images, {truth.max() + 1} classes")
        head = ("prediction", "same K, Hungarian", "same K, many-to-one", "all K, Hungarian", "all K, many-to-one")
        show(head, ranking(made))
        show(("recipes", "ranked first", "at random", "best", "first is best"), few(made))
        show(("confidence", *(f"{c:.0%}" for c in COVERAGE)), coverage(made, truth))
        print(f"{name}: {time.process_time() - start:.0f} CPU s", file=sys.stderr)


if __name__ == "__main__":
    main()
