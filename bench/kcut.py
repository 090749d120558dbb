"""K groups of an image's tokens by several ways: how long they take, and how low a normalised cut they reach.

    python bench/kcut.py [--photos 4] [--images FOLDER] [--grid 37 60] [--groups 4 8] [--alpha 10]

Keys of the embedded ViT-S/14 less their bias, photos squeezed to a square. All ways get the same graph, the cosines
scaled to 0..1 in the image and raised to alpha (1: nearly flat, 10: as DiffCut has it), and make K groups of it:

* kcut: `maskmill.cut.kcut`, no eigenvectors.
* two-way cuts: the parts are cut in two at the best of 100 places of their second eigenvector, the cheapest cut first,
  until there are K (`maskmill.cut.recursive` without a limit on the costs).
* spectral: the first K eigenvectors of `maskmill.cut._engine`, k-means with ten starts (as `maskmill.cut.spectral`).
* scikit-learn: `spectral_clustering`, its default solver (ARPACK) and k-means with ten starts.
* dense: `scipy.linalg.eigh` of the whole matrix in float64, the same k-means.

Times are CPU seconds of this process with one BLAS thread, without the graph; the median of the photos, one run each
but the median of three for the ways that take below a second. Ncut is the mean over the photos of the sum over the
groups of cut / volume, all computed in float64 by one function. No label is read.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _photos import data_folder, photo_tokens

from maskmill.cut._engine import solve
from maskmill.cut._kway import partition
from maskmill.cut._partition import by_kmeans, compact
from maskmill.cut._recursion import recursion
from maskmill.cut._weighted import WeightedAffinity, scaled_cosines
from maskmill.cut.recursive import two_parts

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
RESTARTS = 10
Way = Callable[[WeightedAffinity, int, int], np.ndarray]


def by_kcut(affinity: WeightedAffinity, groups: int, side: int) -> np.ndarray:
    """Labels [n]."""
    return partition(affinity, groups, (side, side)).labels


def by_two_way_cuts(affinity: WeightedAffinity, groups: int, side: int) -> np.ndarray:
    """Labels [n]."""
    generator = np.random.default_rng(0)
    split = partial(two_parts, affinity.matrix, thresholds=100, generator=generator)
    return recursion(side * side, groups, np.inf, split)[0]


def by_spectral(affinity: WeightedAffinity, groups: int, side: int) -> np.ndarray:
    """Labels [n]."""
    spectrum = solve(affinity, groups - 1, np.random.default_rng(0))
    return by_kmeans(spectrum.vectors.double().numpy(), groups, np.random.default_rng(0), RESTARTS)


def by_sklearn(affinity: WeightedAffinity, groups: int, side: int) -> np.ndarray:
    """Labels [n]."""
    from sklearn.cluster import spectral_clustering

    matrix = affinity.matrix.double().numpy()
    return np.asarray(spectral_clustering(matrix, n_clusters=groups, random_state=0, n_init=RESTARTS))


def by_dense(affinity: WeightedAffinity, groups: int, side: int) -> np.ndarray:
    """Labels [n]."""
    from scipy.linalg import eigh

    matrix = affinity.matrix.double().numpy()
    scale = matrix.sum(1) ** -0.5
    vectors = eigh(scale[:, None] * matrix * scale, overwrite_a=True)[1][:, -groups:-1]
    return by_kmeans((scale[:, None] * vectors).T, groups, np.random.default_rng(0), RESTARTS)


WAYS: dict[str, Way] = {
    "kcut": by_kcut,
    "two-way cuts": by_two_way_cuts,
    "spectral, k-means": by_spectral,
    "scikit-learn": by_sklearn,
    "dense eigh, k-means": by_dense,
}


def ncut(matrix: np.ndarray, labels: np.ndarray) -> float:
    """The sum over the groups of cut / volume."""
    member = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float64)  # [n, k]
    return float((1 - ((matrix @ member) * member).sum(0) / (matrix.sum(1) @ member)).sum())


def timed(way: Way, affinity: WeightedAffinity, groups: int, side: int) -> tuple[float, np.ndarray]:
    """CPU seconds and labels."""
    seconds: list[float] = []
    while len(seconds) < (3 if not seconds or seconds[0] < 1 else 1):
        start = time.process_time()
        labels = way(affinity, groups, side)
        seconds.append(time.process_time() - start)
    return float(np.median(seconds)), compact(labels)


def rows(photos: list[Path], side: int, alpha: float, every: list[int], skip: list[str]) -> None:
    """Print the lines of one size of the grid."""
    found: dict[tuple[int, str], list[tuple[float, float, int]]] = {}
    for tokens in photo_tokens(photos, side * 14):
        matrix = scaled_cosines(torch.from_numpy(tokens.reshape(side * side, -1)), alpha)
        assert matrix is not None
        affinity, exact = WeightedAffinity.of(matrix), matrix.double().numpy()
        for groups in every:
            for name, way in WAYS.items():
                if name not in skip:
                    seconds, labels = timed(way, affinity, groups, side)
                    found.setdefault((groups, name), []).append((seconds, ncut(exact, labels), int(labels.max()) + 1))
    for (groups, name), measured in found.items():
        seconds, values, counts = np.array(measured).T
        ours = np.array(found[groups, "kcut"])
        cells = [
            f"{side * side}", f"{alpha:g}", f"{groups}", name, f"{np.median(seconds):.3f}",
            f"{np.median(seconds / ours[:, 0]):.1f}", f"{values.mean():.3f}",
            f"{(ours[:, 1] <= values + 1e-6).sum()} of {len(values)}", f"{counts.min():.0f}",
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--images", type=Path, help="folder of photos; default: coco200")
    parser.add_argument("--grid", type=int, nargs="+", default=[37, 60], help="tokens a side")
    parser.add_argument("--groups", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--alpha", type=float, nargs="+", default=[10.0])
    parser.add_argument("--skip", nargs="+", default=[], choices=[name for name in WAYS if name != "kcut"])
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    torch.set_num_threads(1)
    folder = options.images or data_folder("coco200/images")
    if folder is None:
        raise SystemExit("no photos: set MASKMILL_DATA to the folder of the development sets, or give --images")
    photos = sorted(path for path in folder.iterdir() if path.is_file())
    photos = photos[:: max(1, len(photos) // options.photos)][: options.photos]
    print("| tokens | alpha | K | way | CPU s | times kcut | Ncut | kcut as low or lower | fewest groups |")
    print("|---:|---:|---:|---|---:|---:|---:|---:|---:|")
    for side in options.grid:
        for alpha in options.alpha:
            rows(photos, side, alpha, options.groups, options.skip)


if __name__ == "__main__":
    main()
