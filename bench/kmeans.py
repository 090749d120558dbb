"""How fast is k-means, and how low its inertia? Prints the table of docs/cluster.md.

    python bench/kmeans.py [--points 1000000] [--depths 64,384] [--clusters 27,500] [--restarts 1] [--euclidean]
                           [--iterations 25] [--threads 2] [--device cpu] [--skip scikit-learn] [--vectors rows.npy]

Every method gets the same points, float32 in memory, the same largest number of iterations and the same number of
restarts, all points, and the same threads; faiss is told not to subsample, scikit-learn runs Lloyd. Inertia is
computed here, from the final centroids, in the same way for all. Points: a mixture of 2 k Gaussians with Zipf weights
in which the noise outweighs the centres, so that no method finds the clusters at once; or your own with --vectors.

Columns: seconds of wall clock and of CPU (trust the second, with --threads 1, on a machine that has other work);
CPU seconds over those of maskmill; inertia over the lowest of the group; and the share of its time after which faiss
was first within 0.1 % of maskmill's inertia (its own record of each iteration), "-" if it never was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from maskmill.cluster.kmeans import Params, fit
from maskmill.store.codebook import Codebook, assign

Outcome = tuple[np.ndarray, list[tuple[float, float]]]  # centroids, (seconds, inertia) a step where known


def points(n: int, d: int, k: int) -> np.ndarray:
    """The mixture [n, d] float32."""
    rng = np.random.default_rng(0)
    centres = 0.6 * rng.standard_normal((2 * k, d), dtype=np.float32)
    weights = 1 / np.arange(1, 2 * k + 1)
    x = centres[rng.choice(2 * k, n, p=weights / weights.sum())]
    for start in range(0, n, 65536):
        x[start : start + 65536] += rng.standard_normal((len(x[start : start + 65536]), d), dtype=np.float32)
    return x


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of unit length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def inertia(x: np.ndarray, centroids: np.ndarray, spherical: bool) -> float:
    """Sum of 1 - cosine, or of squared distances."""
    book = Codebook(unit(centroids) if spherical else centroids, np.zeros(len(centroids)), 0.0, spherical)
    return float(assign(x, book)[1].astype(np.float64).sum())


def maskmill(x: np.ndarray, k: int, args: argparse.Namespace) -> Outcome:
    """This package: restarts on a sample, then all points; stops early by its default tolerance."""
    params = Params(clusters=k, spherical=args.spherical, restarts=args.restarts, iterations=args.iterations)
    return fit(x, params, 0, args.device)[0].centroids, []


def faiss(x: np.ndarray, k: int, args: argparse.Namespace) -> Outcome:
    """faiss.Kmeans on all points."""
    import faiss as library

    library.omp_set_num_threads(args.threads)
    settings = {"niter": args.iterations, "nredo": args.restarts, "spherical": args.spherical, "seed": 1}
    model = library.Kmeans(x.shape[1], k, max_points_per_centroid=len(x), **settings)
    model.train(x)
    stats = [(s["time"], len(x) - s["obj"] if args.spherical else s["obj"]) for s in model.iteration_stats]
    return model.centroids, stats


def scikit_learn(x: np.ndarray, k: int, args: argparse.Namespace) -> Outcome:
    """sklearn.cluster.KMeans, Lloyd, its default tolerance."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(args.threads):
        model = KMeans(k, n_init=args.restarts, max_iter=args.iterations, algorithm="lloyd", random_state=0).fit(x)
    return model.cluster_centers_, []


METHODS: dict[str, Callable[[np.ndarray, int, argparse.Namespace], Outcome]] = {
    "maskmill": maskmill,
    "faiss": faiss,
    "scikit-learn": scikit_learn,
}


def compare(x: np.ndarray, k: int, args: argparse.Namespace) -> None:
    """One group of rows: the methods one after the other, maskmill before and after the others, the faster counted."""
    x = unit(x) if args.spherical else x
    names = [name for name in METHODS if name not in args.skip]
    found: dict[str, tuple[float, float, float, list[tuple[float, float]]]] = {}
    for name in [*names, "maskmill"]:
        start, used = time.perf_counter(), time.process_time()
        centroids, stats = METHODS[name](x, k, args)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        if name not in found or used < found[name][1]:
            found[name] = (seconds, used, inertia(x, centroids, args.spherical), stats)
    _, ours, level, _ = found["maskmill"]
    lowest = min(value for _, _, value, _ in found.values())
    for name, (seconds, used, value, stats) in found.items():
        equal = next((f"{t / stats[-1][0]:.0%}" for t, reached in stats if reached <= 1.001 * level), "-")
        print(
            f"| {len(x)} | {x.shape[1]} | {k} | {name} | {seconds:.2f} | {used:.2f} | {used / ours:.2f} "
            f"| {value / lowest:.4f} | {equal} |",
            flush=True,
        )


def main() -> None:
    """Print one group of rows for each depth and number of clusters."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--depths", default="64,384")
    parser.add_argument("--clusters", default="27,500")
    parser.add_argument("--restarts", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip", default="")
    parser.add_argument("--vectors", help="a .npy of [n, d] floats instead of the mixture")
    parser.add_argument("--euclidean", dest="spherical", action="store_false")
    args = parser.parse_args()
    args.skip = args.skip.split(",")
    torch.set_num_threads(args.threads)
    fit(points(2000, 8, 5), Params(clusters=5), 0, args.device)  # compiled kernels are kept on disk: not timed
    geometry = "spherical" if args.spherical else "Euclidean"
    print(f"{geometry}, {args.restarts} restarts, {args.iterations} iterations, {args.threads} threads, {args.device}")
    print("| n | d | k | method | wall s | CPU s | CPU x maskmill | inertia / lowest | equal inertia at |")
    print("|---|---|---|---|---|---|---|---|---|")
    for k in (int(word) for word in args.clusters.split(",")):
        if args.vectors:
            compare(np.load(args.vectors).astype(np.float32), k, args)
            continue
        for d in (int(word) for word in args.depths.split(",")):
            compare(points(args.points, d, k), k, args)


if __name__ == "__main__":
    main()
