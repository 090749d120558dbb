"""How large should chunks and shards of the ragged store be? Prints the table of docs/store.md.

    python bench/store.py [--images 400]

Features of ViT-S/14 at 448 px (1024 tokens of 384 float16, 0.75 MiB an image), random numbers: real features do not
compress, so their content does not matter. Every row is written and read in one process, one after the other.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
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


def main() -> None:
    """Print one row a layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=400)
    count = parser.parse_args().images
    rng = np.random.default_rng(0)
    base = rng.standard_normal((32, 32, 384)).astype(np.float16)
    images = [np.roll(base, i, axis=0) for i in range(count)]
    total = count * base.nbytes / MIB
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
