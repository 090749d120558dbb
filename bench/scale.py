"""Does a store larger than memory go through PCA and k-means? Prints the table of docs/reduce.md.

    python bench/scale.py [--tokens 2000000] [--depth 384] [--clusters 500] [--memory-gb 6] [--threads 2] [--no-dask]
                          [--folder /path/with/room] [--fit-points 1000000]

Writes a store of random float16 tokens (a mixture of 1000 Gaussians, 1024 tokens an image, several shards), then runs
the stages on it, each in a process of its own as the workflow does: PCA-64 fit and map, k-means fit and map. A stage
whose peak resident memory passes --memory-gb fails. Also fits PCA on all tokens without a sample, and computes the
same covariance with dask, which must agree. `--tokens 20000000` is 15 GB; the disk must hold 1.3 times that.

Columns: seconds of wall clock and of CPU, peak memory, bytes of input a second, and that as a share of the speed at
which the bare files were read just before (dropped from the page cache first).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

IMAGE = 1024  # tokens an image
SHARDS = 8
KMEANS = {"method": "kmeans", "spherical": True, "restarts": 1, "max_fit_points": 500_000}


def generate(folder: Path, tokens: int, depth: int) -> None:
    """The stores s0.zarr ... of tokens [32, 32, depth] an image."""
    from maskmill.store.ragged import RaggedWriter

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, depth), dtype=np.float32) * np.geomspace(2, 0.2, depth, dtype=np.float32)
    noise = (0.5 * rng.standard_normal((1 << 20) + depth * IMAGE)).astype(np.float32)  # reused at random places
    for shard, images in enumerate(np.array_split(np.arange(max(1, tokens // IMAGE)), SHARDS)):
        with RaggedWriter(folder / f"s{shard}.zarr", "features", depth=depth) as out:
            for i in images:
                start = int(rng.integers(1 << 20))
                x = centres[rng.integers(1000, size=IMAGE)] + noise[start : start + IMAGE * depth].reshape(IMAGE, depth)
                out.append(f"im{i:07d}", x.reshape(32, 32, depth))


def files(folder: Path) -> list[Path]:
    """The value files below a folder of stores."""
    return sorted(file for file in folder.glob("*.zarr/values/c/**/*") if file.is_file())


def forget(folder: Path) -> None:
    """Drop the files from the page cache (after writing them out)."""
    os.sync()
    for file in files(folder):
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def raw_speed(folder: Path) -> float:
    """Bytes a second of reading all value files, one after the other."""
    forget(folder)
    start, count = time.perf_counter(), 0
    for file in files(folder):
        with file.open("rb", buffering=0) as handle:
            while block := handle.read(8 << 20):
                count += len(block)
    return count / (time.perf_counter() - start)


def stage(name: str, folder: Path, args: argparse.Namespace) -> None:
    """One stage, in this process."""
    from maskmill.cluster import run as cluster
    from maskmill.reduce import run as reduce
    from maskmill.store.codebook import assign, read
    from maskmill.store.ragged import Ragged

    shards = sorted((folder / "tokens").glob("*.zarr"))
    small = [folder / "reduced" / shard.name for shard in shards]
    pca = {"method": "pca", "dimensions": 64, "max_fit_points": args.fit_points}
    if name == "pca fit, sample":
        reduce.fit(shards, pca, 0, folder / "pca.safetensors", args.threads)
    elif name == "pca fit, all":
        reduce.fit(shards, pca | {"max_fit_points": 1 << 40}, 0, folder / "pca_all.safetensors", args.threads)
    elif name == "covariance, dask":
        dask_covariance(shards, folder / "dask.npy", args.threads)
    elif name == "pca map":
        for shard, out in zip(shards, small, strict=True):
            reduce.transform(shard, folder / "pca.safetensors", pca, out, args.threads)
    elif name == "k-means fit":
        params = KMEANS | {"clusters": args.clusters}
        cluster.fit(small, params, 0, folder / "codebook.safetensors", args.threads, "cpu")
    else:
        import torch

        torch.set_num_threads(args.threads)
        book = read(folder / "codebook.safetensors")
        for store in small:
            for _, rows in Ragged(store).chunks():
                assign(rows, book)


def dask_covariance(shards: list[Path], out: Path, threads: int) -> None:
    """Mean and second moment of all tokens in float64, a block a Zarr shard."""
    import dask
    import dask.array as da

    from maskmill.store.ragged import Ragged

    x = da.concatenate([Ragged(shard).dask() for shard in shards]).astype(np.float64)
    with dask.config.set(scheduler="threads", num_workers=threads):
        total, moment = dask.compute(x.sum(axis=0), x.T @ x)
    mean = total / len(x)
    np.save(out, moment / len(x) - np.outer(mean, mean))


def check(folder: Path) -> float:
    """Largest relative difference between the eigenvalues of our covariance and of dask's."""
    from maskmill.store.artefact import read_tensors

    mine = read_tensors(folder / "pca_all.safetensors")[0]["variance"]
    theirs = np.linalg.eigvalsh(np.load(folder / "dask.npy"))[::-1][: len(mine)]
    return float(np.abs(mine / theirs - 1).max())


def measured(name: str, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Run a stage in a process of its own; its wall and CPU seconds and peak memory."""
    command = [sys.executable, __file__, "--stage", name, "--folder", str(folder)]
    for key in ("clusters", "threads", "fit_points"):
        command += [f"--{key.replace('_', '-')}", str(getattr(args, key))]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "OPENBLAS_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed with status {done.returncode}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def child(args: argparse.Namespace) -> None:
    """Run --stage and print what it took as JSON."""
    start = time.perf_counter()
    stage(args.stage, args.folder, args)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    body = {"wall": time.perf_counter() - start, "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss * 1024}
    print(json.dumps(body))


def main() -> None:
    """Generate, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--depth", type=int, default=384)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--memory-gb", type=float, default=6)
    parser.add_argument("--fit-points", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--no-dask", action="store_true", help="leave the dask comparison out: it is the slowest part")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        child(args)
        return
    need, free = 1.3 * args.tokens * args.depth * 2, shutil.disk_usage(args.folder).free
    if need > free:
        raise SystemExit(
            f"--tokens {args.tokens} needs {need / 1e9:.0f} GB in {args.folder}, {free / 1e9:.0f} are free"
        )
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        report(Path(name), args)


def report(folder: Path, args: argparse.Namespace) -> None:
    """The table."""
    generate(folder / "tokens", args.tokens, args.depth)
    raw = raw_speed(folder / "tokens")
    size = sum(file.stat().st_size for file in files(folder / "tokens"))
    print(f"{args.tokens} tokens x {args.depth} float16, {size / 1e9:.1f} GB; raw read {raw / 1e6:.0f} MB/s\n")
    print("| stage | wall s | CPU s | peak GB | MB/s | share of raw read |\n|---|---|---|---|---|---|")
    over = []
    names = ["covariance, dask", "pca fit, all", "pca fit, sample", "pca map", "k-means fit", "k-means map"]
    for name in names[args.no_dask :]:
        source = folder / ("reduced" if name.startswith("k-means") else "tokens")
        forget(source)
        took = measured(name, folder, args)
        speed = sum(file.stat().st_size for file in files(source)) / took["wall"]
        row = (
            f"{took['wall']:.1f} | {took['cpu']:.1f} | {took['peak'] / 1e9:.2f} | {speed / 1e6:.0f} | {speed / raw:.2f}"
        )
        print(f"| {name} | {row} |", flush=True)
        if took["peak"] > args.memory_gb * 2**30 and not name.endswith("dask"):
            over.append(name)
    if not args.no_dask:
        print(f"\nlargest relative difference of an eigenvalue from dask's: {check(folder):.1e}")
    if over:
        raise SystemExit(f"over {args.memory_gb:g} GB: {', '.join(over)}")


if __name__ == "__main__":
    main()
