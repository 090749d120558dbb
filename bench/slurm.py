"""What SLURM costs: the small workflow of the tests on the test cluster against the same on one machine.

    python tests/support/slurm_cluster.py --install python bench/slurm.py

Twelve pictures in two shards, recipe comus with two rounds: nearly all of it is overhead, so this is the worst case.
Both runs have the same cores, one after the other. Prints the table of docs/slurm.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from slurm_cluster import MARK
from small_run import SMALL, command, draw, environment, masks, site


def run(work: Path, config: dict[str, object], profile: Path | None) -> tuple[float, str]:
    """Seconds and log of one whole run."""
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    start = time.perf_counter()
    done = subprocess.run(
        command(work, profile=profile), capture_output=True, text=True, check=False, env=environment()
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - start, done.stdout + done.stderr


def main() -> None:
    """Draw the pictures, run twice, print the comparison."""
    if MARK not in os.environ:
        print("bench/slurm.py: no cluster; run it as its first lines say")
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for i in range(12):
            draw(root / "images" / f"im{i:02d}.png", i)
        config = SMALL | {"images": str(root / "images"), "recipes": ["comus"]}
        for name in ("warm", "local", "slurm"):
            (root / name).mkdir()
        run(root / "warm", config, None)  # weights, compiled code, page cache
        for name in ("local", "slurm"):
            (root / name / "resources").symlink_to(root / "warm/resources")
        local, _ = run(root / "local", config, None)
        slurm, log = run(root / "slurm", config, site(root / "site", {}))
        alone = log.count("has been submitted with SLURM")
        arrays = [line.split("IDs ")[1].split(" and")[0] for line in log.splitlines() if "Submitted array job" in line]
        jobs = alone + sum(len(ids.split(",")) for ids in arrays)
        print("| | one machine | SLURM |\n|---|---|---|")
        print(f"| wall time, s | {local:.0f} | {slurm:.0f} ({slurm / local:.1f} times) |")
        print(f"| jobs submitted (sbatch calls) | | {jobs} ({alone + len(arrays)}) |")
        print(f"| masks identical | | {'yes' if masks(root / 'local') == masks(root / 'slurm') else 'NO'} |")


if __name__ == "__main__":
    main()
