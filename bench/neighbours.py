"""Nearest images: what the table of `maskmill adapt neighbours` costs, and what NN-descent misses.

    python bench/neighbours.py [--points 50000] [--depth 384] [--intrinsic 24] [--neighbours 8] [--threads 2] [--exact]

Points are a mixture of 200 Gaussians of unequal spread in `--intrinsic` directions and a tenth of it in all others, as
features are (0: the same in all, where nearest points are hardly nearer than others), of unit length. One process finds
the neighbours as the workflow does (all pairs up to 50 000, NN-descent above); `--exact` compares all pairs whatever
their number. Recall: share of the exact neighbours of 500 points that were found. Prints wall and CPU seconds and peak
memory; a dense N x N product in float32 would take 4 N^2 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np

QUERIES = 500


def points(count: int, depth: int, intrinsic: int) -> np.ndarray:
    """[count, depth] float32 of unit length."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, depth), dtype=np.float32)
    spread = rng.uniform(0.2, 1.0, 200).astype(np.float32)
    label = rng.integers(200, size=count)
    x = rng.standard_normal((count, depth), dtype=np.float32)
    if intrinsic:
        x[:, intrinsic:] *= 0.1
        turn = np.linalg.qr(rng.standard_normal((depth, depth)))[0].astype(np.float32)
        for start in range(0, count, 8192):
            x[start : start + 8192] = x[start : start + 8192] @ turn
        centres[:, intrinsic:] *= 0.1
        centres = centres @ turn
    x *= spread[label, None]
    for start in range(0, count, 8192):
        x[start : start + 8192] += centres[label[start : start + 8192]]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def child(given: argparse.Namespace) -> None:
    """Find them; print what it took as JSON."""
    import torch

    from maskmill.adapt._neighbours import search
    from maskmill.numerics.neighbours import EXACT_POINTS, NeighbourIndex

    torch.set_num_threads(given.threads)
    x = points(given.points, given.depth, given.intrinsic)
    start, before = time.perf_counter(), time.process_time()
    limit = given.points if given.exact else EXACT_POINTS
    found = search([str(i) for i in range(len(x))], x, "none", given.neighbours, 0, limit)
    body = {"wall": time.perf_counter() - start, "cpu": time.process_time() - before}
    body["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows = np.sort(np.random.default_rng(1).choice(len(x), min(QUERIES, len(x)), replace=False))
    exact = NeighbourIndex.of(x, "cosine", "adapt").nearest(x[rows], given.neighbours + 1)[0][:, 1:]
    hits = [len(set(a) & set(b)) for a, b in zip(exact.tolist(), found.found[rows].tolist(), strict=True)]
    print(json.dumps(body | {"recall": float(np.mean(hits)) / given.neighbours}))


def main() -> None:
    """One row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--depth", type=int, default=384)
    parser.add_argument("--intrinsic", type=int, default=24)
    parser.add_argument("--neighbours", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--exact", action="store_true", help="all pairs, whatever their number")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given)
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(given.threads)}
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--child"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    took = json.loads(done.stdout.splitlines()[-1])
    print("| points | depth | k | wall s | CPU s | peak GiB | recall | dense product, GiB |\n" + "|---" * 8 + "|")
    dense = 4 * given.points**2 / 2**30
    print(
        f"| {given.points} | {given.depth} | {given.neighbours} | {took['wall']:.0f} | {took['cpu']:.0f} | "
        f"{took['peak']:.2f} | {took['recall']:.3f} | {dense:.0f} |"
    )


if __name__ == "__main__":
    main()
