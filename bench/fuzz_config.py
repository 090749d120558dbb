"""Mutations of valid configurations: how many end in a plan, in one line, or in neither (docs/security.md).

python bench/fuzz_config.py --count 5000 --first 0
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
import config_mutations as mutations


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--show", default="", help="print the messages of this kind: refused")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in range(options.first, options.first + options.count):
            case = mutations.case(seed)
            found = mutations.outcome(case, Path(folder))
            wrong = found.kind == "crashed" or mutations.unclear(found, case)
            counts["unclear" if wrong and found.kind == "refused" else found.kind] += 1
            if wrong or found.kind == options.show:
                told = f"seed {seed}: {case.what}\n    {found.kind}: {found.text[-600:]}\n    {wrong}"
                print(told.encode(errors="backslashreplace").decode())
    print(", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
