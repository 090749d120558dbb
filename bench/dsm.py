"""How fast are the eigenvectors of Deep Spectral Methods, and are they the same? Prints the table of docs/cut.md.

    python bench/dsm.py [--scenes 6] [--photos 6] [--images FOLDER] [--grid 37 60] [--vectors 5]

Yardstick: `published` of bench/reference_dsm.py, float32 shift-invert ARPACK on dense matrices. Both run in this
process on the same tokens, graph included, one after the other, with one BLAS thread; times are CPU seconds, the median
of three each; ratios are medians over images. Agreement: the smallest cosine of the principal angles between the spans
of y_2 ... y_K (in the inner product of D) with the dense float64 solver's.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from _photos import data_folder, photo_tokens

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/reference"))
from cut import ONE_THREAD, timed
from reference_dsm import eigenpairs, graph, published
from reference_ncut import scene

from maskmill.cut._engine import Spectrum, solve
from maskmill.cut._weighted import WeightedAffinity, positive_cosines


def ours(tokens: np.ndarray, vectors: int) -> Spectrum:
    """The same from tokens [n, d], as the cut `spectral` computes it."""
    import torch

    affinity = WeightedAffinity.of(positive_cosines(torch.from_numpy(tokens)))
    return solve(affinity, vectors - 1, np.random.default_rng(0))


def span_cosine(y: np.ndarray, exact: np.ndarray, degree: np.ndarray) -> float:
    """The smallest cosine of the principal angles between the rows of two [k, n], in the inner product of D."""
    bases = [np.linalg.qr((rows * np.sqrt(degree)).T.astype(np.float64))[0] for rows in (y, exact)]
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).min())


def compare(image: np.ndarray, vectors: int) -> dict[str, float]:
    """Seconds of both on one image [h, w, d], and how well each spans the exact eigenvectors."""
    tokens = np.ascontiguousarray(image.reshape(-1, image.shape[-1]), np.float32)
    slow, (_, theirs) = timed(partial(published, tokens, vectors), 3)
    fast, found = timed(partial(ours, tokens, vectors), 3)
    matrix = graph(tokens.astype(np.float64))
    values, exact = eigenpairs(matrix, vectors)
    degree = matrix.sum(1)
    return {
        "slow": slow, "fast": fast, "steps": float(found.steps), "gap": float(values[vectors] - values[vectors - 1]),
        "theirs": span_cosine(theirs[1:], exact[1:], degree),
        "ours": span_cosine(found.vectors.double().numpy(), exact[1:], degree),
        "error": float(np.abs(found.values[: vectors - 1] - values[1:vectors]).max()),
    }  # fmt: skip


def row(name: str, grid: int, vectors: int, images: Iterable[np.ndarray]) -> str:
    """One line of the table."""
    results = [compare(image, vectors) for image in images]
    column = {key: np.array([result[key] for result in results]) for key in results[0]}
    ratio = column["slow"] / column["fast"]
    cells = [
        name,
        f"{grid}x{grid}",
        str(vectors),
        f"{np.median(column['slow']):.3f} / {np.median(column['fast']):.4f}",
        f"{np.median(ratio):.1f} ({ratio.min():.1f}..{ratio.max():.1f})",
        f"{column['theirs'].min():.5f} / {column['ours'].min():.5f}",
        f"{column['error'].max():.0e}",
        f"{column['gap'].min():.4f}",
        f"{column['steps'].max():.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--images", type=Path, help="folder of photos; default: ECSSD")
    parser.add_argument("--grid", type=int, nargs="*", default=[37, 60])
    parser.add_argument("--vectors", type=int, nargs="*", default=[5])
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    print("| tokens of | grid | K | s published / ours | ratio | worst span cosine published / ours |"
          " worst eigenvalue error | least gap | steps |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    folder = options.images or data_folder("ecssd/images")
    photos = sorted(path for path in folder.iterdir() if path.is_file()) if folder else []
    photos = photos[:: max(1, len(photos) // max(1, options.photos))][: options.photos]
    for grid in options.grid:
        for vectors in options.vectors:
            compare(scene(12, 12, 0, 384), vectors)  # load the libraries
            if options.scenes:
                images = (scene(grid, grid, seed, 384) for seed in range(options.scenes))
                print(row("scenes", grid, vectors, images), flush=True)
            if photos:
                print(row("photos", grid, vectors, photo_tokens(photos, grid * 14)), flush=True)


if __name__ == "__main__":
    main()
