"""Panoptic quality: closed forms, a plain count segment by segment, matchings, and a run's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scored_run import write_run

from maskmill.errors import ConfigError, InputError, StoreError
from maskmill.evaluate.panoptic import NONE, Quality, Segments, found_segments, matched, result, true_segments
from maskmill.evaluate.run import run
from maskmill.images.instances import Instances, InstanceWriter
from maskmill.images.masks import MaskSet
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate
from maskmill.report import _objects
from maskmill.store.artefact import read_json

STUFF_AND_THING = np.array([False, True])


def plain(truth: Segments, found: Segments, column: int) -> tuple[list[float], int, int]:
    """IoU of the hits, false and missed segments of a class, one pair after another."""
    void, hits = truth.ids == 0, []
    true = [truth.ids == i + 1 for i in np.flatnonzero(truth.classes == column)]
    here = [found.ids == i + 1 for i in np.flatnonzero(found.classes == column)]
    used = set()
    for one in true:
        for j, other in enumerate(here):
            iou = (one & other).sum() / (one | (other & ~void)).sum()
            if iou > 0.5:
                hits.append(float(iou))
                used.add(j)
    false = sum(j not in used and (other & void).sum() <= 0.5 * other.sum() for j, other in enumerate(here))
    return hits, int(false), len(true) - len(hits)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 2), st.booleans())
def test_counts_are_those_of_a_plain_loop(seed: int, shift: int, by_id: bool) -> None:
    rng = np.random.default_rng(seed)
    is_thing = np.array([True, False, True])
    columns = rng.integers(0, 3, (4, 5)).repeat(4, 0).repeat(4, 1)
    columns[rng.random(columns.shape) < 0.1] = NONE
    ids = rng.integers(1, 3, (4, 5)).repeat(4, 0).repeat(4, 1) if by_id else None
    moved = np.roll(columns, shift, 1)
    truth = true_segments(columns, ids, is_thing, 0)
    found = true_segments(moved, None if ids is None else np.roll(ids, shift, 1), is_thing, 0)
    quality = Quality(3)
    quality.add(truth, found)
    for column in range(3):
        hits, false, missed = plain(truth, found, column)
        assert sorted(quality.hits[column]) == pytest.approx(sorted(hits))
        assert (quality.false[column], quality.missed[column]) == (false, missed)
    if not shift:
        assert quality.mean(range(3)) == {"pq": 1, "sq": 1, "rq": 1}


def test_a_half_and_a_miss_by_hand() -> None:
    """One thing is found at IoU 0.6, one not at all, one is invented; the stuff at IoU 15 / 24 (its void left out)."""
    truth = np.zeros((4, 10), np.int64)
    truth[0, :5], truth[1, :5], truth[3, 4:] = 1, 1, NONE
    ids = np.zeros((4, 10), np.int64)
    ids[0, :5], ids[1, :5] = 1, 2
    found = np.where(np.arange(10)[None] < 5, NONE, 0) * np.ones((4, 1), np.int64)
    found[0, :3], found[2, :3] = 1, 1
    mine = np.where(found == 1, 1 + np.arange(4)[:, None], 0)
    quality = Quality(2)
    quality.add(true_segments(truth, ids, STUFF_AND_THING, 0), true_segments(found, mine, STUFF_AND_THING, 0))
    assert quality.of(1) == {"pq": 0.6 / 2, "sq": 0.6, "rq": 1 / 2, "hits": 1, "false": 1, "missed": 1}
    assert quality.of(0) == {"pq": 15 / 24, "sq": 15 / 24, "rq": 1, "hits": 1, "false": 0, "missed": 0}
    told = result(quality, ["stuff", "thing"], STUFF_AND_THING, {1: 1})
    assert told["pq"] == (0.6 / 2 + 15 / 24) / 2
    assert told["rq_things"] == 0.5
    assert told["matching"] == {"1": "thing"}


def test_exactly_one_half_is_no_match_and_half_in_void_is_still_false() -> None:
    truth = np.array([[1, 1, NONE, NONE]])
    quality = Quality(2)
    half = Segments(np.array([[1, 0, 0, 0]], np.int32), np.array([1]))
    quality.add(true_segments(truth, None, STUFF_AND_THING, 0), half)
    assert (quality.false[1], quality.missed[1]) == (1, 1)
    assert quality.of(0) is None
    beside = Segments(np.array([[0, 1, 1, 0]], np.int32), np.array([0]))  # half of it lies in void
    quality.add(true_segments(truth, None, STUFF_AND_THING, 0), beside)
    assert quality.false[0] == 1
    within = Segments(np.array([[0, 1, 1, 1]], np.int32), np.array([0]))  # two thirds do
    quality.add(true_segments(truth, None, STUFF_AND_THING, 0), within)
    assert quality.false[0] == 1


def test_without_anything_there_is_no_number() -> None:
    assert Quality(2).mean([0, 1]) == {"pq": None, "sq": None, "rq": None}


def test_small_things_and_things_without_an_object_are_void() -> None:
    columns = np.array([[1, 0, 1, 1, 1, 1]])
    assert true_segments(columns, None, STUFF_AND_THING, 0.2).ids.tolist() == [[0, 2, 1, 1, 1, 1]]
    objects = np.array([[7, 7, 0, 0, 3, 3]])
    found = true_segments(columns, objects, STUFF_AND_THING, 0)
    assert found.ids.tolist() == [[2, 3, 0, 0, 1, 1]]
    assert found.classes.tolist() == [1, 1, 0]


# --- predicted segments ----------------------------------------------------------------------------------------------


def layers(*masks: str, labels: list[int], scores: list[float]) -> Instances:
    shown = np.array([[[c == "#" for c in mask]] for mask in masks])
    return Instances(shown, np.array(labels), np.array(scores, np.float32))


def test_instances_by_score_then_stuff() -> None:
    """Row 1 is a thing, row 2 stuff, row 3 nothing. The second instance loses to the first more than half of itself."""
    rows = np.array([[1, 1, 1, 1, 2, 2, 3, 1]])
    found = layers("####....", "..###...", ".....###", labels=[1, 1, 1], scores=[0.9, 0.8, 0.2])
    match = np.array([NONE, 1, 0, NONE])
    segments = found_segments(rows, match, STUFF_AND_THING, found)
    assert segments.ids.tolist() == [[1, 1, 1, 1, 3, 3, 0, 2]]
    assert segments.classes.tolist() == [1, 1, 0]
    alone = found_segments(rows, match, STUFF_AND_THING)  # connected parts
    assert alone.ids.tolist() == [[1, 1, 1, 1, 3, 3, 0, 2]]


def test_an_instance_whose_class_is_stuff_or_none_joins_it() -> None:
    rows = np.array([[1, 1, 2, 2, 3, 3]])
    found = layers("##....", "..##..", labels=[1, 2], scores=[0.9, 0.8])
    segments = found_segments(rows, np.array([NONE, 0, NONE, 0]), STUFF_AND_THING, found)
    assert segments.ids.tolist() == [[1, 1, 0, 0, 1, 1]]


def test_parts_of_clusters_of_one_class_are_one_segment() -> None:
    segments = found_segments(np.array([[1, 2, 0, 2]]), np.array([0, 1, 1]), STUFF_AND_THING)
    assert segments.ids.tolist() == [[1, 1, 3, 2]]


# --- clusters to classes ---------------------------------------------------------------------------------------------

COUNTS = np.array([[50, 0, 9], [40, 30, 0], [30, 0, 8], [0, 5, 20], [0, 0, 0]], np.int64)
THINGS = np.array([False, True, True])


def test_what_becomes_of_surplus_clusters() -> None:
    assert matched("hungarian_counts", COUNTS, THINGS).tolist() == [0, 1, NONE, 2, NONE]
    assert matched("hungarian_majority", COUNTS, THINGS).tolist() == [0, 1, 0, 2, NONE]
    assert matched("many_to_one", COUNTS, THINGS).tolist() == [0, 0, 0, 2, NONE]


def test_clusters_of_things_are_never_stuff() -> None:
    kinds = np.array([NONE, 1, 1, 1, 0])
    assert matched("hungarian_counts", COUNTS, THINGS, kinds).tolist() == [NONE, 1, NONE, 2, NONE]
    assert matched("many_to_one", COUNTS, THINGS, kinds).tolist() == [NONE, 1, 2, 2, NONE]
    assert matched("many_to_one", COUNTS, np.array([True] * 3), np.zeros(5, np.int64)).tolist() == [NONE] * 5


# --- files -----------------------------------------------------------------------------------------------------------


def square(value: int, left: int) -> np.ndarray:
    """8 x 12 pixels with a square of 4 x 4."""
    image = np.zeros((8, 12), int)
    image[2:6, left : left + 4] = value
    return image


def scored(folder: Path, body: dict[str, Any], instances: list[Path] | None = None) -> dict[str, Any]:
    out = folder / "scores.json"
    stores = [folder / "s0.zarr", folder / "s1.zarr"]
    params = {"protocols": ["hungarian_counts"], "candidates": None, "panoptic": body}
    run(stores, folder / "manifest.parquet", params, out, MaskSet("r", 0, 0), instances=instances or [])
    return dict(read_json(out))


def test_a_run_without_instances(tmp_path: Path) -> None:
    two = square(1, 1) + square(1, 7)
    write_run(tmp_path, {"a": (square(2, 1), square(5, 1)), "b": (two * 3, two * 7)})
    body = scored(tmp_path, {"matching": ["hungarian_counts", "many_to_one"]})
    first, second = body["panoptic"]
    assert (first["pq"], first["pq_things"], first["pq_stuff"], first["objects"]) == (1, 1, 1, 3)
    assert first["matching"] == {"0": "0", "2": "5", "3": "7"}
    assert first["separated"] is False
    assert first["protocol"]["things"] == "every id above 0"
    assert first["protocol"]["hash"] != second["protocol"]["hash"]
    boards = _objects.boards([], [body])
    assert [(b.title, b.titles[0], b.rows[0].cells[0].mean, b.objects) for b in boards] == [
        ("Panoptic quality", "PQ", 1.0, 3)
    ] * 2


def test_a_run_with_instances_that_touch(tmp_path: Path) -> None:
    """Two things side by side are told apart by the instances alone."""
    wide = square(1, 2) + square(1, 6)
    write_run(tmp_path, {"a": (wide, wide), "b": (square(1, 4), square(1, 4))}, clusters=1)
    folder = tmp_path / "instances"
    folder.mkdir()
    Image.fromarray((square(1, 2) + square(2, 6)).astype(np.uint8)).save(folder / "a.png")
    Image.fromarray(square(9, 4).astype(np.uint8)).save(folder / "b.png")
    stores = []
    for shard, (image_id, lefts) in enumerate({"a": [2, 6], "b": [4]}.items()):
        stores.append(tmp_path / f"i{shard}.zarr")
        with InstanceWriter(stores[-1], {"clusters": 1, "round": 1}) as writer:
            masks = np.stack([square(1, left) > 0 for left in lefts])
            writer.append(image_id, Instances(masks, np.ones(len(masks), np.int64), np.full(len(masks), 0.5)))
    wanted = {"instances": str(folder), "things": [1], "matching": ["hungarian_counts"]}
    apart = scored(tmp_path, wanted, stores)["panoptic"][0]
    assert (apart["pq"], apart["objects"], apart["per_class"]["1"]["hits"]) == (1, 3, 3)
    joined = scored(tmp_path, wanted)["panoptic"][0]
    assert joined["per_class"]["1"] == {"pq": 1 / 2.5, "sq": 1, "rq": 1 / 2.5, "hits": 1, "false": 1, "missed": 2}
    with pytest.raises(StoreError, match="b: has masks and no instances"):
        scored(tmp_path, wanted, stores[:1])
    with pytest.raises(InputError, match=r"evaluate.panoptic.things: no label has a pixel of \[4\]"):
        scored(tmp_path, {"things": [4]})
    with pytest.raises(InputError, match=r"evaluate.panoptic.instances"):
        scored(tmp_path, {"instances": str(tmp_path / "nowhere")})


def test_what_does_not_fit_says_so() -> None:
    for body, said in (
        ({"ignore": [3], "panoptic": {"things": [3]}}, "label 3 is in panoptic.things and in ignore"),
        ({"classes": [0, 1], "panoptic": {"things": [2]}}, "label 2 of panoptic.things is not in classes"),
        ({"panoptic": {"matching": []}}, "matching"),
    ):
        with pytest.raises(ConfigError, match=said):
            validate(Evaluate, body, "--params", "evaluate")


def test_a_section_without_it_is_that_of_older_versions() -> None:
    assert "panoptic" not in Evaluate().model_dump()
    assert validate(Evaluate, {"panoptic": True}, "-", "evaluate").model_dump()["panoptic"]["things"] is None
