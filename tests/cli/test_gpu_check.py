"""bench/gpu_check.sh where there is no GPU: it refuses, and its rehearsal writes the whole table."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def check(*words: str) -> subprocess.CompletedProcess[str]:
    # One CPU thread: the rehearsal is tiny.
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = [str(ROOT / "bench/gpu_check.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_refuses(tmp_path: Path) -> None:
    done = check(str(tmp_path / "t.md"))
    assert done.returncode == 3
    assert re.search(r"no CUDA device is visible to torch; run it on .* or give --cpu-rehearsal", done.stderr)
    assert not (tmp_path / "t.md").exists()


def test_the_rehearsal_writes_the_table(tmp_path: Path) -> None:
    done = check(str(tmp_path / "sub/t.md"), "--cpu-rehearsal", "--skip", "tests")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "sub/t.md").read_text()
    assert text.startswith("# Rehearsal on a CPU: the figures mean nothing")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row[0].strip("| ").split(",")[0] for row in rows] == ["features", "cut", "cluster", "adapt", "evaluate"]
    for row in rows:
        assert row[3] == "yes"
        assert float(re.search(r": ([\d,]+) ", row[4])[1].replace(",", "")) >= 0  # type: ignore[index]
        assert "ours" in row[5]
    assert str(ROOT) not in text
    assert str(tmp_path) not in text


def test_checks_that_are_left_out_are_named(tmp_path: Path) -> None:
    """No time: nothing begins, and the table says so."""
    done = check(str(tmp_path / "t.md"), "--cpu-rehearsal", "--skip", "tests", "--seconds", "-1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "t.md").read_text().count("left out: no time") == 5
