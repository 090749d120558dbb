"""Scores of a clustering that need no labels: how apart the clusters are, and how alike the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.store.artefact import read_json


def read_selection(results: Path, recipe: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """selection.json of every seed that has one."""
    paths = [results / f"recipes/{recipe}/seed{seed}/cluster/selection.json" for seed in seeds]
    return [read_json(path) for path in paths if path.is_file()]


def silhouettes(found: Sequence[dict[str, Any]]) -> list[float]:
    """Silhouette of every seed, NaN where there is none."""
    return [float("nan") if body["silhouette"] is None else float(body["silhouette"]) for body in found]


def stability(found: Sequence[dict[str, Any]]) -> list[float]:
    """Adjusted mutual information of every pair of seeds (Vinh et al., 2010): 1 the same clusters, 0 chance."""
    from sklearn.metrics import adjusted_mutual_info_score

    pairs = combinations([np.asarray(body["labels"]) for body in found], 2)
    return [float(adjusted_mutual_info_score(a, b)) for a, b in pairs if len(a) == len(b)]
