"""Protocols beyond the matching of whole sets one to one: by hand, and against counting of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_run import write_run

from maskmill.errors import ConfigError, InputError
from maskmill.evaluate.confusion import Confusion
from maskmill.evaluate.matching import PerImage, hungarian_counts, many_to_one, many_to_one_iou, metrics
from maskmill.evaluate.protocol import protocol
from maskmill.evaluate.run import run
from maskmill.evaluate.score import score_clusters
from maskmill.images.masks import MaskSet
from maskmill.recipe.base import validate
from maskmill.recipe.run_checks import check_labels
from maskmill.recipe.scoring import Evaluate
from maskmill.store.artefact import read_json


def scores_of(counts: list[list[int]], classes: list[int], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    details = {"hungarian_iou_background": {"background": 0}}
    rules = [protocol(name, None, [255], classes, {"a": "0"}, **details.get(name, {})) for name in names]
    found = score_clusters(np.array(counts, np.int64), rules, classes, {})
    return {entry["protocol"]["name"]: entry for entry in found}


def test_the_majority_by_iou_is_another_than_the_one_by_pixels() -> None:
    """Cluster 0 has 60 of its 100 pixels in class 0, of 1000; but 40 of the 40 pixels of class 1."""
    counts = np.array([[60, 40], [940, 0]])
    assert many_to_one(counts).tolist() == [0, 0]
    assert many_to_one_iou(counts).tolist() == [1, 0]  # IoU 60/1040 and 40/100
    assert many_to_one_iou(np.array([[0, 0], [5, 5]])).tolist() == [-1, 0]


def test_surplus_clusters_may_go_to_the_background() -> None:
    """By hand: clusters 1 and 2 match classes 5 and 0; cluster 3 is left over and predicts 0."""
    counts = [[0, 0], [2, 80], [100, 0], [30, 10], [0, 0]]
    found = scores_of(counts, [0, 5], names=("hungarian_iou", "hungarian_iou_background"))
    plain, merged = found["hungarian_iou"], found["hungarian_iou_background"]
    assert plain["matching"] == {"1": "5", "2": "0"}
    assert merged["matching"] == {"1": "5", "2": "0", "3": "0"}
    assert (plain["accuracy"], merged["accuracy"]) == (180 / 222, 210 / 222)
    assert merged["per_class"] == {"0": 130 / 142, "5": 80 / 92}
    assert plain["protocol"]["hash"] != merged["protocol"]["hash"]
    assert merged["protocol"]["extra_clusters"].endswith("background, label id 0")
    with pytest.raises(InputError, match=r"evaluate\.background: 0: no label has a pixel of it; name one of \[4, 5\]"):
        scores_of(counts, [4, 5], names=("hungarian_iou_background",))


@given(st.integers(0, 2**32 - 1))
def test_the_background_of_surplus_clusters_equals_remapping_pixels(seed: int) -> None:
    """An independent reference, on pixels: match by IoU, predict zeros elsewhere, then count."""
    rng = np.random.default_rng(seed)
    label, cluster = rng.integers(0, 3, 200), rng.integers(0, 6, 200)
    label[:3] = [0, 1, 2]
    iou = np.array([[((cluster == c) & (label == t)).sum() / ((cluster == c) | (label == t)).sum()
                     for t in range(3)] for c in range(6)])  # fmt: skip
    best = max(permutations(range(6), 3), key=lambda rows: sum(iou[c, t] for t, c in enumerate(rows)))
    predicted = np.zeros(200, int)
    for t, c in enumerate(best):
        predicted[cluster == c] = t
    expected = [((predicted == t) & (label == t)).sum() / ((predicted == t) | (label == t)).sum() for t in range(3)]
    counts = np.zeros((7, 3), np.int64)
    np.add.at(counts, (cluster, label), 1)
    found = scores_of(counts.tolist(), [0, 1, 2], names=("hungarian_iou_background",))["hungarian_iou_background"]
    gains = sorted((sum(iou[c, t] for t, c in enumerate(rows)) for rows in permutations(range(6), 3)), reverse=True)
    if gains[0] - gains[1] > 1e-6:  # one best matching
        assert list(found["per_class"].values()) == pytest.approx(expected, abs=1e-12)


def test_matching_in_each_image_is_an_oracle_and_says_so(tmp_path: Path) -> None:
    """The same two halves under swapped cluster numbers: the set's matching has half, the oracle all."""
    label = np.repeat([[1, 2]], 4, axis=0).repeat(4, axis=1)
    images = {"a": (np.array([[1, 2]]), label), "b": (np.array([[2, 1]]), label), "c": (np.array([[3, 0]]), None)}
    write_run(tmp_path, images)
    out, params = tmp_path / "scores.json", {"protocols": ["hungarian_counts", "oracle_per_image"]}
    stores = [tmp_path / "s0.zarr", tmp_path / "s1.zarr"]
    run(stores, tmp_path / "manifest.parquet", params, out, MaskSet("kmeans", 0, 0))
    found = {entry["protocol"]["name"]: entry for entry in read_json(out)["scores"]}
    assert found["hungarian_counts"]["accuracy"] == 0.5
    oracle = found["oracle_per_image"]
    assert (oracle["accuracy"], oracle["miou"], oracle["unmatched"]) == (1.0, 1.0, 0.0)
    assert oracle["protocol"]["details"] == {"oracle": True}
    assert "matching" not in oracle


@given(st.integers(0, 2**32 - 1))
def test_matching_in_each_image_equals_counting_pixels(seed: int) -> None:
    """Against true and false positives summed over images, classes first seen in any order."""
    rng = np.random.default_rng(seed)
    confusion, each = Confusion(5, None, [255]), PerImage()
    tp, fp, fn = np.zeros(4), np.zeros(4), np.zeros(4)
    for _ in range(4):
        label, mask = rng.integers(0, 4, (6, 7)), rng.integers(0, 5, (6, 7))
        label[rng.random((6, 7)) < 0.2] = 255
        each.add(confusion.add(mask, label))
        counts = np.array([[((mask == c) & (label == t)).sum() for t in range(4)] for c in range(4)])
        match = hungarian_counts(counts[:, counts.any(axis=0)])
        classes = np.flatnonzero(counts.any(axis=0))
        for c, t in enumerate(match):
            if t >= 0:
                tp[classes[t]] += counts[c, classes[t]]
                fp[classes[t]] += counts[c].sum() - counts[c, classes[t]]
        fn += [(label == t).sum() for t in range(4)]
    order = confusion.order
    counts = each.counts[np.append(order, len(order))][:, order]
    present = confusion.classes
    found = metrics(counts, np.arange(len(present)))
    fn -= tp
    assert found.iou == pytest.approx((tp / (tp + fp + fn))[present], abs=1e-12)


def test_a_background_that_is_not_scored_is_an_error_before_the_run() -> None:
    asked = {"protocols": ["hungarian_iou_background"]}
    with pytest.raises(ConfigError, match=r"sends surplus clusters to label 255 \(background\), which is not scored"):
        validate(Evaluate, asked | {"background": 255}, "config.yaml", "evaluate")
    with pytest.raises(ConfigError, match="sends surplus clusters to label 0"):
        validate(Evaluate, asked | {"classes": [1, 2]}, "config.yaml", "evaluate")
    settings = validate(Evaluate, asked, "config.yaml", "evaluate")
    with pytest.raises(InputError, match=r"evaluate\.background: 0: no label has this id.*name one of \[3, 4\]"):
        check_labels(settings, {3: 10, 4: 5})
    check_labels(settings, {0: 10, 4: 5})
