"""Instances: their store, overlap, painting, and what a later round learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.errors import StoreError
from maskmill.images.instances import VOID, Instances, InstanceStore, InstanceWriter, mask_iou, paint, ranked
from maskmill.paint.instances import instances_of
from maskmill.rounds.instance import Params
from maskmill.rounds.instance.teaching import merge, teach
from maskmill.store.ragged import Ragged, RaggedWriter


def draw(seed: int, count: int, size: tuple[int, int] = (9, 13), classes: int = 3) -> Instances:
    """Random rectangles that overlap."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *size), bool)
    for mask in masks:
        y, x = rng.integers(0, size[0] - 1), rng.integers(0, size[1] - 1)
        mask[y : y + rng.integers(1, size[0]), x : x + rng.integers(1, size[1])] = True
    return Instances(masks, rng.integers(1, classes + 1, count), rng.random(count).astype(np.float32))


def same(a: Instances, b: Instances) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("masks", "labels", "scores"))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=0, max_size=5), st.integers(1, 20), st.integers(0, 99))
def test_a_store_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], width: int, seed: int
) -> None:
    path = tmp_path_factory.mktemp("store") / "s0.zarr"
    written = {f"im{i}": draw(seed + i, n, (3 + i, width + 1)) for i, n in enumerate(counts)}
    with InstanceWriter(path, {"clusters": 3}) as out:
        for image_id, found in written.items():
            out.append(image_id, found)
    store = InstanceStore(path)
    assert store.ids == list(written)
    assert store.attrs["clusters"] == 3
    assert all(same(store[image_id], found) for image_id, found in written.items())
    assert all(same(found, written[image_id]) for image_id, found in store.images())


def test_another_store_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "m.zarr", "masks", dtype="uint8") as out:
        out.append("a", np.zeros((2, 2), np.uint8))
    with pytest.raises(StoreError, match=r"m\.zarr: holds 'masks', expected 'instances'"):
        InstanceStore(tmp_path / "m.zarr")
    with RaggedWriter(tmp_path / "i.zarr", "instances", dtype="uint8", attrs={"found": [[[1, 0.5]] * 2]}) as out:
        out.append("a", np.zeros((3, 1), np.uint8), size=np.array([3, 4], np.int32))
    with pytest.raises(StoreError, match="do not fit its masks"):
        InstanceStore(tmp_path / "i.zarr")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 999))
def test_iou_of_masks_is_that_of_sets(n: int, m: int, seed: int) -> None:
    a, b = draw(seed, n).masks, draw(seed + 1, m).masks
    found = mask_iou(a, b)
    assert found.shape == (n, m)
    for i in range(n):
        for j in range(m):
            assert found[i, j] == (a[i] & b[j]).sum() / (a[i] | b[j]).sum()
    assert mask_iou(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 2), bool))[0, 0] == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 6), st.floats(0, 1), st.integers(0, 999))
def test_a_cell_belongs_to_the_best_instance_that_is_painted(count: int, paint_score: float, seed: int) -> None:
    found = draw(seed, count)
    mask, sure = paint(found, paint_score, np.dtype(np.uint8))
    order = ranked(found.scores).tolist()
    chosen = [i for i in order if found.scores[i] >= paint_score] or order[:1]
    for y, x in np.ndindex(*found.size):
        here = [i for i in chosen if found.masks[i, y, x]]
        missed = [i for i in order if found.masks[i, y, x]]
        assert mask[y, x] == (found.labels[here[0]] if here else 0)
        doubt = found.scores[missed[0]] if missed else np.float32(0)
        assert sure[y, x] == (found.scores[here[0]] if here else np.float32(1) - doubt)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.floats(0, 1), st.floats(0.05, 1), st.integers(0, 999))
def test_old_instances_stay_where_no_sure_prediction_replaces_them(
    olds: int, news: int, keep_score: float, merge_iou: float, seed: int
) -> None:
    old, new = draw(seed, olds), draw(seed + 1, news)
    found = merge(old, new, keep_score, merge_iou)
    sure = [i for i in range(news) if new.scores[i] >= keep_score]
    left = []
    for i in range(olds):
        overlaps = [(old.masks[i] & new.masks[j]).sum() / (old.masks[i] | new.masks[j]).sum() for j in sure]
        if all(overlap < merge_iou for overlap in overlaps):
            left.append(i)
    expected = new.take(np.array(sure, int)) + old.take(np.array(left, int)) if sure else old
    assert same(found, expected)


def test_old_instances_of_another_grid_are_compared_where_they_lie() -> None:
    old = Instances(np.zeros((2, 4, 4), bool), np.array([1, VOID]), np.ones(2, np.float32))
    old.masks[0, :2], old.masks[1, 2:] = True, True
    new = Instances(np.zeros((1, 8, 6), bool), np.array([1]), np.full(1, 0.9, np.float32))
    new.masks[0, :4] = True
    found = merge(old, new, 0.7, 0.5)
    assert found.labels.tolist() == [1, VOID]
    assert found.size == (8, 6)
    assert found.masks[1, 4:].all()
    assert not found.masks[1, :4].any()
    assert same(merge(old, new, 0.95, 0.5), old)


def test_teach_merges_a_shard_and_wants_the_same_images(tmp_path: Path) -> None:
    for name, ids in (("old", "ab"), ("new", "ab"), ("other", "ac")):
        with InstanceWriter(tmp_path / f"{name}.zarr", {"clusters": 3}) as out:
            for i, image_id in enumerate(ids):
                out.append(image_id, draw(i + 10 * (name != "old"), 3))
    teach(tmp_path / "old.zarr", tmp_path / "new.zarr", Params(keep_score=0.3), 2, tmp_path / "t.zarr")
    store = InstanceStore(tmp_path / "t.zarr")
    for i, image_id in enumerate("ab"):
        assert same(store[image_id], merge(draw(i, 3), draw(i + 10, 3), 0.3, 0.5))
    with pytest.raises(StoreError, match=r"other\.zarr: its images are not those of"):
        teach(tmp_path / "old.zarr", tmp_path / "other.zarr", Params(), 2, tmp_path / "u.zarr")
    assert Ragged(tmp_path / "t.zarr").attrs["round"] == 2


def test_regions_become_instances_of_their_clusters_and_dropped_ones_void() -> None:
    segments = np.zeros((4, 6), np.uint8)
    segments[0], segments[1], segments[2, :3] = 1, 2, 4
    table = np.full(256, 255, np.uint8)
    table[0], table[1], table[4] = 0, 3, 1
    found = instances_of(segments, table)
    assert found.labels.tolist() == [3, 1, VOID]
    assert [mask.sum() for mask in found.masks] == [6, 3, 6]
    table[2] = 0  # dropped: background
    assert instances_of(segments, table).labels.tolist() == [3, 1]
    assert len(instances_of(np.zeros((2, 2), np.uint8), table)) == 0
