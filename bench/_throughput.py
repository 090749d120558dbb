"""CPU seconds of every kind of job of a finished run: the constants of maskmill.plan, and docs/scaling.md.

    python bench/_throughput.py RUN_FOLDER [--repeats 1]

Starts the commands of the run again, one of each rule and owner (that of the largest shard), and takes the CPU seconds
of its process tree. On a shared machine these hold still while wall seconds do not; divide by the threads of the rule
for the wall seconds of a free machine. What a job costs before it works (bench/startup.py) is within them.
Outputs are written again, with the same content.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from pathlib import Path


def commands(folder: Path) -> dict[str, tuple[float, str, str]]:
    """`rule/owner` -> (size of its inputs, a path that it writes, its shell command without its log)."""
    found: dict[str, tuple[float, str, str]] = {}
    for path in (folder / ".snakemake/metadata").rglob("*"):
        record = json.loads(path.read_text()) if path.is_file() else {}
        shell = record.get("shellcmd") or ""
        if not shell.startswith("maskmill") or record["rule"] in ("weights", "demo", "inputs", "report"):
            continue
        log = shell.partition("&> logs/")[2].split("/")
        owner = log[1].removesuffix(".log") if len(log) > 1 else ""
        key = f"{record['rule']}/{owner}"
        size = sum(tree_bytes(folder / name) for name in record["input"])
        found[key] = max(found.get(key, (-1.0, "", "")), (size, log[-1], shell.partition(" &> ")[0]))
    return dict(sorted(found.items()))


def tree_bytes(path: Path) -> int:
    """Bytes of a file or of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def cpu_seconds(command: str, folder: Path) -> tuple[float, float]:
    """(CPU, wall) seconds of a shell command and its children."""
    start = time.perf_counter()
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(
        ["bash", "-c", command], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"failed with status {process.returncode}: {command}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - start


def main() -> None:
    """One line a rule and owner."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    from maskmill.store.manifest import read_manifest

    manifest = read_manifest(args.folder / "results/inputs/manifest.parquet")
    print(f"load {os.getloadavg()[0]:.1f}; {len(manifest.rows)} images\n")
    print("| job | images of its shard | CPU s | wall s |\n|---|---|---|---|")
    for key, (_, log, command) in commands(args.folder).items():
        shard = log.removesuffix(".log")
        images = len(manifest.of(shard)) if shard in manifest.shards else len(manifest.rows)
        cpu, wall = min(cpu_seconds(command, args.folder) for _ in range(args.repeats))
        print(f"| {key} | {images} | {cpu:.2f} | {wall:.2f} |", flush=True)


if __name__ == "__main__":
    main()
