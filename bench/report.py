"""CPU time, peak memory and size of the report, small and for 10^5 images: python bench/report.py [images ...]."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

CHILD = """
import json, resource, sys
from pathlib import Path
from maskmill.report.run import run
root = Path(sys.argv[1])
run(json.loads((root / "plan.json").read_text()), root / "results", root / "benchmarks", root / "report.html")
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def measure(images: int, shard_size: int) -> str:
    """One row of the table."""
    import synthetic_run

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.perf_counter()
        plan = synthetic_run.build(
            root, images=images, shard_size=shard_size, seeds=(0,), tokens=32, clusters=27, photos=64
        )
        print(f"built {images} images in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        (root / "plan.json").write_text(json.dumps(plan))
        done = subprocess.run([sys.executable, "-c", CHILD, folder], capture_output=True, text=True, check=True)
        seconds, memory = json.loads(done.stdout)
        size = (root / "report.html").stat().st_size / 2**20
    return f"| {images:,} images, 2 recipes, 4 sets of masks | {seconds:.1f} s | {memory:.0f} MiB | {size:.1f} MiB |"


if __name__ == "__main__":
    for count in [int(text) for text in sys.argv[1:]] or [400, 100_000]:
        print(measure(count, 256), flush=True)
