"""bench/calibration.py: parts have the means of their tokens, and the table those of its draws."""

from __future__ import annotations

from types import ModuleType

import bench_module
import numpy as np
import pytest


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module."""
    return bench_module.load("calibration", monkeypatch)


def test_parts_are_the_means_of_their_tokens(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images whose halves differ: two parts each, with the shares of their halves."""
    monkeypatch.setattr(bench, "PARTS_A_PHOTO", 2)
    half = np.repeat([0, 1], 4)
    tokens = (np.eye(2, 3)[half] + np.random.default_rng(0).normal(0, 0.01, (8, 3))).astype(np.float16)
    vectors, shares = np.concatenate([tokens, tokens[::-1]]), np.tile(np.eye(2)[half], (2, 1)).astype(np.float32)
    known = bench.Tokens(["a", "b"], range(2), [], vectors, np.array([[2, 4], [2, 4]]), shares)
    found = bench.in_parts(known)
    assert found.grids.tolist() == [[1, 2], [1, 2]]
    np.testing.assert_allclose(found.shares, [[1, 0], [0, 1], [1, 0], [0, 1]])
    np.testing.assert_allclose(found.vectors[0], tokens[:4].astype(np.float64).mean(axis=0), atol=1e-3)


def test_the_table_has_means_and_says_where_there_is_nothing(bench: ModuleType) -> None:
    found = {"voc|probe|3|0": [10.0, 2.0, 1.0, 70.0], "voc|probe|3|1": [20.0, 4.0, 1.0, 80.0]}
    found["voc|probe|1|0"] = [10.0, float("nan"), float("nan"), 50.0]
    lines = bench.table("voc", found | {"camvid|probe|3|0": [0.0, 0.0, 0.0, 0.0]}).split("\n")
    assert "| `probe` | 3 | 15.0 ± 5.0 | 3.0 ± 1.0 | 1.0 ± 0.0 | 75.0 ± 5.0 |" in lines
    assert "| `probe` | 1 | 10.0 ± 0.0 | uncalibrated | uncalibrated | 50.0 ± 0.0 |" in lines
    assert len(lines) == 4
