"""How fast is the cut, and is it the same cut? Prints the tables of docs/cut.md.

    python bench/cut.py [--scenes 6] [--photos 6] [--images FOLDER]

Yardsticks: bench/reference_ncut.py and reference_maskcut.py, the plain dense float64 TokenCut and MaskCut (N = 3, the
published rules; ours with `compat: cutler`). Both run in this process on the same tokens, one after the other, with one
BLAS thread; times are CPU seconds (other jobs on the machine hardly change them), ours the median of three; ratios are
medians over images. Where several components tie for the largest |y|, or MaskCut's choice depends on the sign of the
solver's vector, the plain method returns what rounding prefers: such images are counted apart. Photos need the ECSSD
development set or --images.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _photos import data_folder, photo_tokens

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/reference"))
from reference_maskcut import foreground
from reference_maskcut import maskcut as plain_maskcut
from reference_ncut import graph, scene, second_vector, tokencut

from maskmill.cut import maskcut, ncut
from maskmill.cut._affinity import BinaryAffinity
from maskmill.cut._engine import solve
from maskmill.cut._object import object_of

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PARAMS = ncut.Params()
CUTLER = maskcut.Params(compat="cutler")


def timed(call: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Median CPU seconds of a call, and its result."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds)), result


def compare(tokens: np.ndarray) -> dict[str, float]:
    """Seconds of both on one image, the overlap of their masks, and whether the reference's choice was a tie."""
    import torch

    h, w, d = tokens.shape
    flat = torch.from_numpy(tokens.reshape(h * w, d))
    slow_solve, _ = timed(partial(second_vector, graph(flat.numpy())))
    affinity = BinaryAffinity.of(flat, PARAMS.tau, PARAMS.eps)
    fast_solve, _ = timed(lambda: solve(affinity, 1, np.random.default_rng(0)), 3)
    slow_cut, (expected, y, values) = timed(lambda: tokencut(tokens))
    fast_cut, (found, diagnostics) = timed(lambda: ncut.cut(tokens, PARAMS, 0, "a"), 3)
    both = found.astype(bool)
    return {
        "slow_solve": slow_solve, "fast_solve": fast_solve, "slow_cut": slow_cut, "fast_cut": fast_cut,
        "iou": float((both & expected).sum() / (both | expected).sum()), "tie": float(object_of(y).rivals > 0),
        "steps": diagnostics["steps"], "lambda_error": abs(diagnostics["lambda_2"] - values[0]),
        "lambda_2": values[0], "lambda_3": values[1],
    }  # fmt: skip


def compare_maskcut(tokens: np.ndarray) -> dict[str, float]:
    """The same for MaskCut: worst overlap of its masks, whether any of its choices was a tie, how many masks."""
    slow, (expected, spectra) = timed(lambda: plain_maskcut(tokens))
    fast, (found, diagnostics) = timed(lambda: maskcut.cut(tokens, CUTLER, 0, "a"), 3)
    masks = [mask for mask in expected if mask.any()]
    overlaps = [
        float(((found == i) & mask).sum() / max(1, ((found == i) | mask).sum()))
        for i, mask in enumerate(masks, start=1)
    ]
    ties = [object_of(y, corners=True).rivals > 0 or (foreground(y) != foreground(-y)).any() for y, _ in spectra]
    same = len(masks) == found.max()
    return {
        "slow": slow, "fast": fast, "iou": min(overlaps) if same else 0.0, "tie": float(any(ties)),
        "masks": float(len(masks)), "steps": diagnostics["steps"],
    }  # fmt: skip


def row_maskcut(name: str, grid: int, images: Iterable[np.ndarray]) -> str:
    """One line of MaskCut's table."""
    results = [compare_maskcut(tokens) for tokens in images]
    column = {key: np.array([result[key] for result in results]) for key in results[0]}
    ratio = column["slow"] / column["fast"]
    clear, ties = column["iou"][column["tie"] == 0], column["iou"][column["tie"] == 1]
    cells = [
        name,
        f"{grid}x{grid}",
        f"{np.median(column['slow']):.2f} / {np.median(column['fast']):.4f}",
        f"{np.median(ratio):.0f} ({ratio.min():.0f}..{ratio.max():.0f})",
        f"{column['masks'].sum():.0f}",
        f"{clear.min():.3f} of {len(clear)}" if len(clear) else "-",
        f"{len(ties)}" + (f" (IoU {ties.min():.2f}..{ties.max():.2f})" if len(ties) else ""),
    ]
    return "| " + " | ".join(cells) + " |"


def row(name: str, grid: int, images: Iterable[np.ndarray]) -> str:
    """One line of TokenCut's table."""
    results = [compare(tokens) for tokens in images]
    column = {key: np.array([result[key] for result in results]) for key in results[0]}
    clear = column["iou"][column["tie"] == 0]
    ties = column["iou"][column["tie"] == 1]
    solves, cuts = column["slow_solve"] / column["fast_solve"], column["slow_cut"] / column["fast_cut"]
    cells = [
        name,
        f"{grid}x{grid}",
        f"{np.median(column['slow_solve']):.2f} / {np.median(column['fast_solve']):.4f}",
        f"{np.median(solves):.0f} ({solves.min():.0f}..{solves.max():.0f})",
        f"{np.median(column['slow_cut']):.2f} / {np.median(column['fast_cut']):.4f}",
        f"{np.median(cuts):.0f} ({cuts.min():.0f}..{cuts.max():.0f})",
        f"{clear.min():.3f} of {len(clear)}" if len(clear) else "-",
        f"{len(ties)}" + (f" (IoU {ties.min():.2f}..{ties.max():.2f})" if len(ties) else ""),
        f"{column['lambda_error'].max():.0e}",
        f"{column['lambda_2'].min():.2f}..{column['lambda_2'].max():.2f}",
        f"{column['steps'].max():.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def memory(grid: int, method: str) -> float:
    """Growth of the peak memory of a fresh process by one cut, in n x n float32 matrices."""
    code = [sys.executable, __file__, "--grow", method, "--grid", str(grid)]
    return float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


def grow(grid: int, method: str) -> float:
    """The same, in this process."""
    call: Callable[[np.ndarray], Any] = {
        "tokencut": lambda t: ncut.cut(t, PARAMS, 0, "a"),
        "maskcut": lambda t: maskcut.cut(t, CUTLER, 0, "a"),
        "plain tokencut": tokencut,
        "plain maskcut": plain_maskcut,
    }[method]
    call(scene(12, 12, 0, 384))  # libraries and thread pools are loaded
    tokens = scene(grid, grid, 0, 384)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = peak_bytes()
    call(tokens)
    return (peak_bytes() - before) / (grid**4 * 4)


def peak_bytes() -> int:
    """Largest resident memory of this process."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM"))) * 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=6)
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--images", type=Path, help="folder of photos; default: ECSSD")
    parser.add_argument("--grid", type=int, nargs="*", default=[37, 60])
    parser.add_argument("--grow", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if any(os.environ.get(key) != value for key, value in ONE_THREAD.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
    if options.grow:
        print(grow(options.grid[0], options.grow))
        return
    folder = options.images or data_folder("ecssd/images")
    photos = sorted(path for path in folder.iterdir() if path.is_file()) if folder else []
    photos = photos[:: max(1, len(photos) // max(1, options.photos))][: options.photos]
    ncut.cut(scene(12, 12, 0, 384), PARAMS, 0, "a")  # load the libraries
    heads = {
        row: "TokenCut of | grid | solve s plain / ours | ratio | cut s plain / ours | ratio | worst IoU | ties |"
        " worst lambda_2 error | lambda_2 | steps",
        row_maskcut: "MaskCut of | grid | cut s plain / ours | ratio | masks | worst IoU | ties",
    }
    for line, head in heads.items():
        print(f"\n| {head} |\n" + "|---" * (head.count("|") + 1) + "|")
        for grid in options.grid:
            if options.scenes:
                scenes = (scene(grid, grid, seed, 384) for seed in range(options.scenes))
                print(line("scenes", grid, scenes), flush=True)
            if photos:
                print(line("photos", grid, photo_tokens(photos, grid * 14)), flush=True)
    print("\n| grid | peak memory, in n x n float32 matrices: TokenCut | MaskCut | plain TokenCut | plain MaskCut |")
    print("|---|---|---|---|---|")
    for grid in options.grid:
        cells = [f"{memory(grid, m):.2f}" for m in ("tokencut", "maskcut", "plain tokencut", "plain maskcut")]
        print(f"| {grid}x{grid} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
