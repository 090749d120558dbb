"""What the reductions cost: CPU seconds and memory of a fit, CPU seconds of placing an image. Table of docs/reduce.md.

    python bench/reduce.py [--methods pca,laplacian,umap,hnne] [--points 10000,100000] [--depths 64] [--threads 1]

Each row runs in a process of its own, after a fit of 6000 other points that compiles what numba compiles. Points: 60
Gaussians that overlap. "bytes a point" is what the peak grew by over that first fit; the fit refuses what its own
estimate ("estimate") says is too much. An image is 1024 vectors that were not fitted. "k-means ARI": of k-means with
60 clusters in the reduced space against the Gaussians, by scikit-learn.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np


def points(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The mixture [n, d] float32 and its labels."""
    centres = np.random.default_rng(0).standard_normal((60, d)) * 0.5 * (64 / d) ** 0.5
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 60, n)
    return (centres[label] + 0.7 * rng.standard_normal((n, d))).astype(np.float32), label


def blocks(x: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    """As the stage gives them."""
    return lambda: (x[start : start + 8192] for start in range(0, len(x), 8192))


def peak() -> int:
    """Largest resident memory so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def row(method: str, n: int, d: int, threads: int) -> str:
    """One row of the table."""
    import torch
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    from maskmill.recipe import registry

    torch.set_num_threads(threads)
    module = registry.load("reduce", method)
    params = module.Params() if method == "pca" else module.Params(memory_gb=100)
    warm, _ = module.fit(blocks(points(6000, d, 2)[0]), params, 0)
    new = points(1024, d, 3)[0]
    ready = module.prepare(warm, params)
    module.transform(new, ready, params)
    before, (x, label) = peak(), points(n, d, 1)
    start = time.process_time()
    model, _ = module.fit(blocks(x), params, 0)
    fit, grown, top = time.process_time() - start, max(0, peak() - before) / n, peak() / 1e9
    ready = module.prepare(model, params)
    start = time.process_time()
    module.transform(new, ready, params)
    placed = time.process_time() - start
    estimate = f"{module.row_bytes(d, params):.0f}" if module.TRAITS.bounded_memory else ""
    some = np.random.default_rng(0).permutation(n)[:10_000]
    found = KMeans(60, n_init=1, random_state=0).fit_predict(module.transform(x[some], ready, params))
    score = adjusted_rand_score(label[some], found)
    return f"| {method} | {n} | {d} | {fit:.1f} | {top:.2f} | {grown:.0f} | {estimate} | {placed:.2f} | {score:.3f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="pca,laplacian,umap,hnne")
    parser.add_argument("--points", default="10000,100000")
    parser.add_argument("--depths", default="64")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(row(args.row[0], int(args.row[1]), int(args.row[2]), args.threads), flush=True)
        return
    print("| method | points | d | fit, CPU s | peak GB | bytes a point | estimate | image, CPU s | k-means ARI |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for method in args.methods.split(","):
        for n in args.points.split(","):
            for d in args.depths.split(","):
                command = [sys.executable, __file__, "--row", method, n, d, "--threads", str(args.threads)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
                print(done.stdout.strip() or f"| {method} | {n} | {d} | failed |", flush=True)


if __name__ == "__main__":
    main()
