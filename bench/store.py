"""How large should chunks and shards of the ragged store be? And what do its checksums cost? Tables of docs/store.md.

    python bench/store.py [--images 400]            chunks and shards
    python bench/store.py --checks [--images 1400]  the comparison of the seals, as a share of reading a store

Features of ViT-S/14 at 448 px (1024 tokens of 384 float16, 0.75 MiB an image), random numbers: real features do not
compress, so their content does not matter. Every row is written and read in one process, one after the other.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from maskmill.store import ragged as layout
from maskmill.store.ragged import Ragged, RaggedWriter

MIB = 2**20


def measure(images: list[np.ndarray], chunk: int, shard: int, dtype: str) -> dict[str, float]:
    """Seconds to write, read all and read 32 random images; number of files; bytes on disk."""
    layout.CHUNK_BYTES, layout.SHARD_BYTES = chunk, shard
    order = np.random.default_rng(0).permutation(len(images))[:32]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zarr"
        start = time.perf_counter()
        with RaggedWriter(path, "features", depth=384, dtype=dtype) as out:
            for i, image in enumerate(images):
                out.append(str(i), image)
        written = time.perf_counter()
        store = Ragged(path)
        for _ in store.chunks():
            pass
        read = time.perf_counter()
        for i in order:
            store[int(i)]
        gathered = time.perf_counter()
        files = [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
    times = {"write": written - start, "read": read - written, "random": (gathered - read) / len(order)}
    return times | {"files": len(files), "size": size}


def forget(path: Path) -> None:
    """Take the files of a store out of the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_unchecked(path: Path) -> float:
    """Seconds to open a store and to read all of it, without the comparison of its seals."""
    compare = layout.check_array
    layout.check_array = lambda *_: None
    start = time.perf_counter()
    try:
        for _ in Ragged(path).chunks():
            pass
    finally:
        layout.check_array = compare
    return time.perf_counter() - start


def compare_seals(path: Path) -> float:
    """Seconds of the comparison of the seals alone."""
    seals = layout._attributes(path)["arrays"]
    start = time.perf_counter()
    for name, seal in seals.items():
        layout.check_array(path / name, seal)
    return time.perf_counter() - start


def checks(images: list[np.ndarray], rounds: int = 5) -> None:
    """Print what the seals cost, with the files in the page cache and without: medians of some rounds."""
    print("| dtype | files | page cache | read s | seals s | share |")
    print("|---|---|---|---|---|---|")
    for dtype in ("float16", "int8"):
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder) / "a.zarr"
            with RaggedWriter(path, "features", depth=384, dtype=dtype) as out:
                for i, image in enumerate(images):
                    out.append(str(i), image, cls=image[0, 0])
            files = sum(file.is_file() for file in path.rglob("*"))
            for cold in (False, True):
                times = [(_timed(read_unchecked, path, cold), _timed(compare_seals, path, cold)) for _ in range(rounds)]
                read, seal = np.median(times, axis=0)
                cache = "empty" if cold else "full"
                print(f"| {dtype} | {files} | {cache} | {read:.2f} | {seal:.4f} | {100 * seal / read:.2f} % |")


def _timed(work: Callable[[Path], float], path: Path, cold: bool) -> float:
    if cold:
        forget(path)
    return work(path)


def main() -> None:
    """Print one row a layout, or what the checks cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int)
    parser.add_argument("--checks", action="store_true")
    asked = parser.parse_args()
    count = asked.images or (1400 if asked.checks else 400)
    rng = np.random.default_rng(0)
    base = rng.standard_normal((32, 32, 384)).astype(np.float16)
    images = [np.roll(base, i, axis=0) for i in range(count)]
    total = count * base.nbytes / MIB
    if asked.checks:
        print(f"{count} images, {total:.0f} MiB as float16")
        checks(images)
        return
    print(f"{count} images, {total:.0f} MiB as float16")
    print("| chunk | shard | dtype | write MiB/s | read MiB/s | one random image ms | files | size |")
    print("|---|---|---|---|---|---|---|---|")
    # One row a layout: (chunk, shard) in bytes.
    rows = [
        (256 << 10, 64 * MIB),
        (MIB, 16 * MIB),
        (MIB, 64 * MIB),
        (MIB, 256 * MIB),
        (4 * MIB, 64 * MIB),
        (16 * MIB, 64 * MIB),
    ]
    for chunk, shard, dtype in [*((c, s, "float16") for c, s in rows), (MIB, 64 * MIB, "int8")]:
        got = measure(images, chunk, shard, dtype)
        speeds = f"{total / got['write']:.0f} | {total / got['read']:.0f} | {got['random'] * 1e3:.1f}"
        size = got["size"] / MIB / total
        print(f"| {chunk / MIB:g} MiB | {shard / MIB:g} MiB | {dtype} | {speeds} | {got['files']:.0f} | {size:.2f} |")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
