"""The checks of bench/gpu_check.sh: agreement of a GPU with the CPU, and throughput against what bounds it.

Every check works on drawn data with random weights, so nothing is fetched. It compares a result on the GPU with the
same on the CPU, within a tolerance that the table states, and times the stage on the GPU beside a baseline in the same
process: the bare forward pass for features, dense eigenvectors for cuts, Lloyd in plain torch (and faiss, where it is
installed) for k-means, the head's own forward and backward pass for its training, one matrix product and topk for the
search of neighbours. Checks for which no time is left are named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from _gpu_checks import CHECKS, ROOT, TINY, Check, Row, Sizes

TESTED = (
    "tests/cut",
    "tests/cluster",
    "tests/evaluate",
    "tests/features",
    "tests/regions",
    "tests/rounds",
)  # with tests marked `gpu`
NO_GPU = 3


def tests(seconds: float, rehearsal: bool) -> tuple[str, bool]:
    """Runs the tests marked `gpu`, and says how they ended; a rehearsal only collects those of the cuts."""
    where = TESTED[:1] if rehearsal else TESTED
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *where]
    command += ["--collect-only"] if rehearsal else []
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"not finished within {seconds:.0f} s", False
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return "; ".join([*failed, lines[-1].strip("= ") if lines else done.stderr[-200:]]), done.returncode == 0


def machine(device: str) -> str:
    """What it was measured on; no name of a machine or path."""
    import maskmill

    what = platform.processor() or platform.machine()
    if torch.device(device).type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        what = f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    return f"maskmill {maskmill.__version__}, torch {torch.__version__}, {what}, {os.cpu_count()} CPU cores"


def write(out: Path, lines: list[str]) -> None:
    """The table so far: a check that dies leaves those before it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("\n".join(lines) + "\n")


def run(args: argparse.Namespace) -> int:
    """All checks within the time; the number that do not agree."""
    start, wrong = time.monotonic(), 0
    sizes = TINY if args.cpu_rehearsal else Sizes()
    lines = [f"# {'Rehearsal on a CPU: the figures mean nothing' if args.cpu_rehearsal else 'GPU check'}", ""]
    lines += [machine(args.device), ""]
    if "tests" not in args.skip:
        said, passed = tests(0.4 * args.seconds, args.cpu_rehearsal)
        wrong += not passed
        lines += [f"Tests marked `gpu`: {said}{'' if passed else ' **(not all passed)**'}.", ""]
    lines += [
        "| stage | size | GPU against CPU (tolerance) | agrees | throughput | against |",
        "|---|---|---|---|---|---|",
    ]
    for name in (name for name in CHECKS if name not in args.skip):
        if time.monotonic() - start > args.seconds:
            lines.append(f"| {name} | left out: no time |  |  |  |  |")
            continue
        try:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                rows = getattr(Check(args.device, sizes, Path(folder)), name)()
        except Exception as error:  # the other checks are worth their time
            traceback.print_exc()
            rows = [Row(name, "-", re.sub(r"[|\s]+", " ", f"{type(error).__name__}: {error}")[:200], agrees=False)]
        wrong += sum(not row.agrees for row in rows)
        lines += ["| " + " | ".join(row.cells()) + " |" for row in rows]
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        write(args.out, lines)
    lines += ["", f"{time.monotonic() - start:.0f} s in all."]
    write(args.out, lines)
    print("\n".join(lines))
    return wrong


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description=__doc__)
    parser.add_argument("out", type=Path, metavar="TABLE.md", help="Markdown file to write")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=540, help="no check begins after so many seconds")
    parser.add_argument("--skip", type=lambda text: text.split(","), default=[], help=", ".join(("tests", *CHECKS)))
    parser.add_argument("--cpu-rehearsal", action="store_true", help="tiny sizes on the CPU: does the script work?")
    args = parser.parse_args()
    if args.cpu_rehearsal:
        args.device = "cpu"
    elif not torch.cuda.is_available():
        print(
            "gpu_check.sh: no CUDA device is visible to torch; run it on a machine with an NVIDIA GPU and a torch "
            "built for CUDA, or give --cpu-rehearsal to try the script on a CPU",
            file=sys.stderr,
        )
        return NO_GPU
    return int(run(args) > 0)


if __name__ == "__main__":
    sys.exit(main())
