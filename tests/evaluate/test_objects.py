"""evaluate objects: every metric by hand and against an independent count, conventions, order, files and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maskmill.errors import ConfigError, InputError, StoreError
from maskmill.evaluate.objects import (
    METRICS,
    AveragePrecision,
    CorLoc,
    ForegroundRand,
    MeanBestOverlap,
    Scene,
    adjusted_rand,
    box_overlap,
    boxes,
)
from maskmill.evaluate.run_objects import run
from maskmill.evaluate.saliency import Saliency, f_curve, levels
from maskmill.evaluate.truth import Truth, components, truth_of
from maskmill.images.masks import ignore_value
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate
from maskmill.store.artefact import read_json, write_table
from maskmill.store.ragged import RaggedWriter


def truth(objects: np.ndarray, void: np.ndarray | None = None) -> Truth:
    return Truth(
        objects.astype(np.int32),
        np.zeros(objects.shape, bool) if void is None else void,
        int(objects.max(initial=0)),
    )


def scene(objects: Any, segments: Any, scores: Any = None, void: Any = None) -> Scene:
    segments = np.asarray(segments)
    scores = np.ones(int(segments.max(initial=0))) if scores is None else np.asarray(scores, float)
    return Scene.of(truth(np.asarray(objects), None if void is None else np.asarray(void)), segments, scores, "a")


def row(*runs: tuple[int, int]) -> np.ndarray:
    """One row of pixels of (value, length) runs."""
    return np.concatenate([np.full(length, value) for value, length in runs])[None]


def only(metric: Any, *scenes: Scene) -> dict[str, float | None]:
    for i, one in enumerate(scenes):
        metric.add(f"i{i:02}", one)
    return metric.result()


# --- CorLoc ---------------------------------------------------------------------------------------------------------


def test_corloc_counts_a_box_iou_of_exactly_one_half() -> None:
    """10 pixels against 20 of the same row: IoU 10/20. One pixel less is a miss. So for boxes of one pixel's height,
    where an epsilon in the height would be largest.
    """
    object_ = row((1, 20), (0, 5))
    half, less = row((1, 10), (0, 15)), row((1, 9), (0, 16))
    assert only(CorLoc(), scene(object_, half)) == {"corloc": 1.0}
    assert only(CorLoc(), scene(object_, less)) == {"corloc": 0.0}
    assert only(CorLoc(), scene(object_, half), scene(object_, less), scene(object_, object_)) == {"corloc": 2 / 3}
    both, union = box_overlap(np.array([[0, 0, 1, 10]]), np.array([[0, 0, 1, 20]]))
    assert (both.item(), union.item()) == (10, 20)


def test_corloc_takes_the_best_score_then_the_largest() -> None:
    objects = row((1, 4), (0, 6))
    segments = row((1, 4), (2, 6))
    assert only(CorLoc(), scene(objects, segments, [0.5, 0.5]))["corloc"] == 0  # the larger one
    assert only(CorLoc(), scene(objects, segments, [0.6, 0.5]))["corloc"] == 1
    assert only(CorLoc(), scene(row((1, 4), (2, 6)), segments, [0.5, 0.6]))["corloc"] == 1  # any object will do


def test_corloc_of_a_mask_with_two_parts_is_one_box() -> None:
    assert only(CorLoc(), scene(row((1, 10)), row((1, 1), (0, 8), (1, 1))))["corloc"] == 1


def test_images_without_objects_or_without_segments() -> None:
    nothing, something = row((0, 4)), row((1, 4))
    missed, spurious, empty = scene(something, nothing), scene(nothing, something), scene(nothing, nothing)
    assert only(CorLoc(), missed, spurious, empty) == {"corloc": 0.0}  # only the first counts, and misses
    assert only(MeanBestOverlap(), missed, spurious, empty) == {"mbo": 0.0}
    found = only(AveragePrecision(), missed, empty)
    assert all(value == 0 for value in found.values())
    for name, metric in METRICS.items():
        assert set(only(metric(), spurious, empty).values()) == {None}, name  # nothing to find anywhere


# --- mBO ------------------------------------------------------------------------------------------------------------


def test_mbo_by_hand() -> None:
    """Object 1 (4 pixels): best 3/4. Object 2 (4): best 2/6, not 1/8. Mean .5417; with an image of 1: .7708."""
    objects = row((1, 4), (2, 4), (0, 2))
    segments = row((1, 3), (2, 1), (2, 1), (0, 1), (3, 2), (3, 2))
    expected = (3 / 4 + 2 / 6) / 2
    assert only(MeanBestOverlap(), scene(objects, segments))["mbo"] == pytest.approx(expected, abs=1e-12)
    perfect = scene(objects, objects)
    assert only(MeanBestOverlap(), scene(objects, segments), perfect)["mbo"] == pytest.approx((expected + 1) / 2)


# --- FG-ARI ---------------------------------------------------------------------------------------------------------


def test_fg_ari_is_the_adjusted_rand_index_of_the_pixels_of_objects() -> None:
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(4)
    values, scenes = [], []
    for _ in range(40):
        objects, segments, scores, void = random_arrays(rng)
        objects = consecutive(objects, void)
        inside = (objects > 0) & ~void
        scenes.append(scene(objects, segments, scores, void))
        if inside.any():
            values.append(adjusted_rand_score(objects[inside], segments[inside]))
            alone = only(ForegroundRand(), scenes[-1])["fg_ari"]
            several = len(np.unique(objects[inside])) > 1
            assert alone == (pytest.approx(values[-1], abs=1e-12) if several else None)
    assert only(ForegroundRand(), *scenes)["fg_ari"] == pytest.approx(np.mean(values), abs=1e-12)


def test_fg_ari_of_one_object_of_one_pixel_and_of_what_lies_outside() -> None:
    whole, split, single = row((1, 6), (0, 4)), row((1, 3), (2, 3), (0, 4)), row((1, 1), (0, 9))
    wide = row((1, 10))
    assert only(ForegroundRand(), scene(split, whole)) == {"fg_ari": 0.0}
    beside = scene(split, whole)  # counts 0, and has two objects
    assert only(ForegroundRand(), scene(whole, wide), beside) == {"fg_ari": 0.5}  # the background does not count
    assert only(ForegroundRand(), scene(whole, split), beside) == {"fg_ari": 0.0}
    assert only(ForegroundRand(), scene(single, split), beside) == {"fg_ari": 0.5}
    # Where no image has two objects, a cut that finds nothing would have 1.
    assert only(ForegroundRand(), scene(whole, wide), scene(whole, row((0, 10)))) == {"fg_ari": None}
    assert only(ForegroundRand(), scene(split, split)) == {"fg_ari": 1.0}
    assert only(ForegroundRand(), scene(split, row((0, 3), (1, 3), (0, 4)))) == {"fg_ari": 1.0}  # none is a group


def test_fg_ari_of_counts_beyond_32_bits_is_exact() -> None:
    big = np.array([[10**6, 0], [0, 10**6]])
    assert adjusted_rand(big) == 1.0
    assert adjusted_rand(np.full((2, 2), 10**6)) == pytest.approx(0, abs=1e-6)


# --- AP -------------------------------------------------------------------------------------------------------------


def test_ap_by_hand() -> None:
    """Two objects of 10 pixels; segments by score: a miss, IoU 1, IoU .7.

    At IoU .5, .55 .. .7 (5 thresholds) precision is 0/1, 1/2, 2/3 at recall 0, .5, 1, so the envelope is 2/3
    everywhere: 2/3. At .75 .. .95 (5) precision is 0/1, 1/2, 1/3: 1/2 at the 51 recall points up to .5. One segment an
    image: recall 0.
    """
    objects = row((1, 10), (0, 5), (2, 10), (0, 20))
    segments = row((1, 10), (0, 5), (2, 7), (0, 3), (3, 20))
    found = only(AveragePrecision(), scene(objects, segments, [0.5, 0.3, 0.9]))
    half = 0.5 * 51 / 101
    assert found["mask_ap50"] == pytest.approx(2 / 3)
    assert found["mask_ap75"] == pytest.approx(half)
    assert found["mask_ap"] == pytest.approx((2 / 3 + half) / 2)
    assert found["mask_ar1"] == 0
    assert found["mask_ar10"] == found["mask_ar100"] == pytest.approx(0.75)
    boxes_too = {name.replace("mask", "box"): value for name, value in found.items() if name.startswith("mask")}
    assert boxes_too == pytest.approx({name: value for name, value in found.items() if name.startswith("box")})


def test_an_image_without_objects_lowers_ap() -> None:
    good, spurious = scene(row((1, 10)), row((1, 10)), [0.5]), scene(row((0, 10)), row((1, 10)), [0.9])
    assert only(AveragePrecision(), good)["mask_ap"] == pytest.approx(1)
    assert only(AveragePrecision(), good, spurious)["mask_ap"] == pytest.approx(0.5)
    late = scene(row((0, 10)), row((1, 10)), [0.1])
    assert only(AveragePrecision(), good, late)["mask_ap"] == pytest.approx(1)


def average_precision(scenes: list[Scene], threshold: float) -> float:
    """COCO's rule by brute force: greedy by score within the image, then precision at 101 recalls over all images."""
    events, total = [], 0
    for one in scenes:
        iou, free = one.mask_iou.copy(), set(range(len(one.mask_iou)))
        total += len(free)
        for j, score in enumerate(one.scores):
            best = max(free, key=lambda i: (iou[i, j], i), default=None)
            hit = best is not None and iou[best, j] >= threshold
            if hit:
                free.discard(best)  # type: ignore[arg-type]
            events.append((-score, len(events), hit))
    hits = np.cumsum([hit for *_, hit in sorted(events)])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / total
    points = [max((p for p, r in zip(precision, recall, strict=True) if r >= at), default=0) for at in COCO_RECALLS]
    return float(np.mean(points))


COCO_RECALLS = np.linspace(0, 1, 101)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_ap_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng) for _ in range(rng.integers(1, 4))]
    if not any(len(one.mask_iou) for one in scenes):
        return
    found = only(AveragePrecision(), *scenes)
    for name, threshold in (("mask_ap50", 0.5), ("mask_ap75", 0.75)):
        assert found[name] == pytest.approx(average_precision(scenes, threshold), abs=1e-9)


def random_arrays(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Objects, segments that resemble them, distinct scores, void."""
    h, w = rng.integers(2, 9, 2)
    objects = np.repeat(rng.integers(0, 4, (h, 1)), w, axis=1)
    segments = np.where(rng.random((h, w)) < 0.25, rng.integers(0, 5, (h, w)), objects)
    void = rng.random((h, w)) < 0.1
    return objects, segments, rng.permutation(8) / 8, void


def consecutive(ids: np.ndarray, void: np.ndarray) -> np.ndarray:
    ids = np.where(void, 0, ids)
    return np.searchsorted(np.unique(np.append(ids.ravel(), 0)), ids)


def random_scene(rng: np.random.Generator) -> Scene:
    objects, segments, scores, void = random_arrays(rng)
    return scene(consecutive(objects, void), segments, scores + rng.random() * 1e-3, void)


# --- properties -----------------------------------------------------------------------------------------------------


def everything(images: dict[str, Scene]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for kind in METRICS.values():
        metric = kind()
        for image_id, one in images.items():
            metric.add(image_id, one)
        found |= metric.result()
    return found


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), equal=st.booleans())
def test_order_of_images_and_numbers_of_segments_do_not_matter(seed: int, equal: bool) -> None:
    """Exactly, also where all scores are equal."""
    rng = np.random.default_rng(seed)
    images, shuffled = {}, {}
    for i in range(4):
        objects, segments, scores, void = random_arrays(rng)
        scores = np.ones(8) if equal else scores
        images[f"i{i}"] = scene(consecutive(objects, void), segments, scores, void)
        number = np.append(0, 1 + rng.permutation(8))
        moved = np.empty(8)
        moved[number[1:] - 1] = scores
        shuffled[f"i{i}"] = scene(consecutive(objects, void), number[segments], moved, void)
    backwards = dict(reversed(shuffled.items()))
    assert everything(images) == everything(backwards)


def test_segments_of_one_score_area_and_box_are_ranked_by_shape() -> None:
    """A ring of two diagonals: each has its pixels in two corners of the same box. One hits the object, one misses."""
    objects, segments = np.array([[1, 0], [0, 1]]), np.array([[1, 2], [2, 1]])
    for swap in (segments, 3 - segments):
        one = scene(objects, swap, [0.5, 0.5])
        assert one.segments.tolist() == [[1, 2], [2, 1]]
        assert only(AveragePrecision(), one)["mask_ar1"] == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_truth_itself_scores_everything(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = {}
    for i in range(3):
        objects, _, scores, void = random_arrays(rng)
        objects[0, 0], void[0, 0] = 1, False
        objects = consecutive(objects, void)
        images[f"i{i}"] = scene(objects, objects, scores, void)
        assert (images[f"i{i}"].overlap[1:, 0] == 0).all()
    found = everything(images)
    most = {one for one in found if not one.endswith("ar1")}  # one segment an image cannot find three objects
    assert {name: found[name] for name in most if not name.startswith("box")} == pytest.approx(
        {name: 1.0 for name in most if not name.startswith("box")}
    )


def test_void_pixels_never_count() -> None:
    """Whatever the segments do there: boxes, IoU and the number of segments are the same."""
    objects, void = row((1, 6), (0, 6)), row((0, 8), (1, 4)).astype(bool)
    plain = scene(objects, row((1, 6), (0, 6)), void=void)
    wild = scene(objects, row((1, 6), (0, 2), (1, 2), (2, 2)), void=void)
    assert (plain.overlap == wild.overlap).all()
    assert (plain.segment_boxes == wild.segment_boxes).all()
    assert everything({"a": plain}) == everything({"a": wild})


def test_boxes_are_half_open_extents() -> None:
    ids = np.zeros((5, 6), np.int32)
    ids[1:3, 2:6], ids[4, 0] = 1, 3
    assert boxes(ids).tolist() == [[1, 2, 3, 6], [0, 0, 0, 0], [4, 0, 5, 1]]
    assert boxes(np.zeros((2, 2), np.int32)).shape == (0, 4)


def test_a_segment_without_score_is_an_error() -> None:
    with pytest.raises(StoreError, match="a: segment 2 of 1 scores"):
        scene(row((1, 4)), row((1, 2), (2, 2)), [0.5])
    with pytest.raises(StoreError, match="a: score of segment 2 is nan"):
        scene(row((1, 4)), row((1, 2), (2, 2)), [0.5, np.nan])
    scene(row((1, 4)), row((1, 4)), [0.5, np.nan])  # no such segment, no such score


# --- saliency -------------------------------------------------------------------------------------------------------


def salient(*pairs: tuple[Any, Any]) -> dict[str, float | None]:
    found = Saliency()
    for prediction, foreground in pairs:
        found.add(np.asarray(prediction), np.asarray(foreground, bool))
    return found.result()


def test_saliency_of_a_binary_map_by_hand() -> None:
    """P = 2/4, R = 2/3: F = 1.3 * (1/3) / (.15 + 2/3)."""
    mask, foreground = row((1, 4), (0, 6)).astype(bool), row((0, 2), (1, 3), (0, 5))
    f = 1.3 * (2 / 4) * (2 / 3) / (0.3 * (2 / 4) + 2 / 3)
    assert salient((mask, foreground)) == pytest.approx({"iou": 2 / 5, "accuracy": 0.7, "maxf": f, "mae": 0.3})
    assert salient((mask.astype(np.float32), foreground)) == salient((mask, foreground))


def test_maxf_is_the_largest_mean_not_the_mean_of_the_largest() -> None:
    """Image a is perfect at thresholds in .2 .. .8, b in .85 .. .9: no threshold is best for both.

    a alone above .2: F 1; b there is all foreground, P = 1/2, R = 1. Between .85 and .9: a is empty, F 0; b 1.
    """
    a = (np.array([[0.2, 0.8]]), [[0, 1]])
    b = (np.array([[0.85, 0.9]]), [[0, 1]])
    whole = 1.3 * 0.5 / (0.3 * 0.5 + 1)
    assert salient(a)["maxf"] == salient(b)["maxf"] == 1
    assert salient(a, b)["maxf"] == pytest.approx((1 + whole) / 2)


def test_saliency_conventions() -> None:
    none, some = [[False, False]], [[True, False]]
    assert salient((none, none)) == {"iou": 1.0, "accuracy": 1.0, "maxf": 1.0, "mae": 0.0}
    assert salient((some, none)) == {"iou": 0.0, "accuracy": 0.5, "maxf": 0.0, "mae": 0.5}
    assert salient((none, some)) == {"iou": 0.0, "accuracy": 0.5, "maxf": 0.0, "mae": 0.5}
    assert salient((some, some), (none, none)) == {"iou": 1.0, "accuracy": 1.0, "maxf": 1.0, "mae": 0.0}
    assert set(salient().values()) == {None}
    void = Saliency()
    void.add(np.array([[True, True]]), np.array([[False, False]]), np.array([[True, True]]))
    assert void.images == 0
    void.add(np.array([[True, True]]), np.array([[True, False]]), np.array([[False, True]]))
    assert void.result() == {"iou": 1.0, "accuracy": 1.0, "maxf": 1.0, "mae": 0.0}
    with pytest.raises(ValueError, match=r"values -1\.0\.\.2\.0"):
        salient(([[-1.0, 2.0]], [[0, 1]]))
    with pytest.raises(ValueError, match="shape"):
        salient(([[0.5]], [[0, 1]]))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_f_curve_equals_thresholding_255_times(seed: int) -> None:
    rng = np.random.default_rng(seed)
    eight_bit = rng.integers(0, 256, 30)
    p, g = (eight_bit / 255).astype(np.float32), rng.random(30) < rng.random()
    curve = f_curve(p, g)
    for k in range(255):
        found = eight_bit > k  # exact, unlike p > k / 255
        precision = (found & g).sum() / found.sum() if found.any() else 1.0
        recall = (found & g).sum() / g.sum() if g.any() else 1.0
        below = 0.3 * precision + recall
        assert curve[k] == pytest.approx(1.3 * precision * recall / below if below else 0.0, abs=1e-12)
    assert (levels(p) == eight_bit).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_saliency_does_not_depend_on_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(rng.random((3, 4)), rng.random((3, 4)) < 0.4) for _ in range(6)]
    assert salient(*pairs) == salient(*(pairs[i] for i in rng.permutation(6)))


# --- truth ----------------------------------------------------------------------------------------------------------


def table(*ids: int) -> np.ndarray:
    found = np.zeros(65536, bool)
    found[list(ids)] = True
    return found


def test_objects_are_connected_parts_of_each_class() -> None:
    label = np.array([[5, 0, 7, 7], [0, 5, 7, 0], [0, 0, 0, 5], [255, 3, 0, 0]], np.int32)
    found = truth_of(label, None, table(5, 7), table(255), 0.0)
    assert found.count == 3  # corners touch, other classes part, class 3 is background
    assert len(np.unique(found.objects[label == 5])) == 2
    assert found.objects[0, 0] == found.objects[1, 1] != found.objects[2, 3]
    assert found.objects[3, 1] == 0
    assert found.void.tolist() == (label == 255).tolist()
    assert components(label).max() == 5


def test_small_objects_are_void_and_not_background() -> None:
    label = row((4, 1), (0, 3), (4, 3), (0, 3)).astype(np.int32)
    found = truth_of(label, None, table(4), table(), 0.2)
    assert found.count == 1
    assert found.objects.tolist() == row((0, 4), (1, 3), (0, 3)).tolist()
    assert found.void.tolist() == row((1, 1), (0, 9)).astype(bool).tolist()
    assert truth_of(label, None, table(4), table(), 0.1).count == 2  # exactly a tenth is not below it


def test_instances_part_what_touches_and_labels_make_void() -> None:
    label = row((4, 4), (6, 2), (255, 2), (4, 2)).astype(np.int32)
    ids = row((9, 2), (700, 2), (3, 4), (700, 2)).astype(np.int32)
    everything_but_void = ~table(255)
    found = truth_of(label, ids, everything_but_void, table(255), 0.0)
    assert found.objects.tolist() == row((2, 2), (3, 2), (1, 2), (0, 2), (3, 2)).tolist()
    chosen = truth_of(label, ids, table(4), table(255), 0.0)
    assert chosen.objects.tolist() == row((1, 2), (2, 2), (0, 4), (2, 2)).tolist()


# --- configuration --------------------------------------------------------------------------------------------------


def test_config_switch_and_errors() -> None:
    def read(**objects: Any) -> Evaluate:
        return validate(Evaluate, objects, "config.yaml", "evaluate")

    assert read().objects is None
    assert read(objects=False).objects is None
    assert read(objects=True).objects == read(objects={}).objects
    assert read(objects={"metrics": "ap,mbo"}).objects.metrics == ["ap", "mbo"]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"evaluate\.objects\.metrics\.0: .*'corlok'"):
        read(objects={"metrics": "corlok"})
    with pytest.raises(ConfigError, match=r"evaluate\.objects\.min_aera: unknown key \(did you mean 'min_area'\?\)"):
        read(objects={"min_aera": 0.1})
    with pytest.raises(ConfigError, match=r"label 255 is in objects\.foreground and in ignore"):
        read(objects={"foreground": [255]})
    with pytest.raises(ConfigError, match=r"label 3 of objects\.foreground is not in classes, so it is void"):
        read(objects={"foreground": [3]}, classes=[0, 2])
    with pytest.raises(ConfigError, match=r"objects\.foreground is empty"):
        read(objects={"foreground": []})


# --- files ----------------------------------------------------------------------------------------------------------


def write_run(folder: Path, images: dict[str, tuple[np.ndarray, np.ndarray | None]], **per_image: Any) -> None:
    """Segments, labels and manifest of {id: (segments, label)} in two shards; per_image: {id: value} by field."""
    rows = []
    for image_id, (segments, label) in images.items():
        height, width = label.shape if label is not None else (4 * segments.shape[0], 4 * segments.shape[1])
        path = folder / "labels" / f"{image_id}.png" if label is not None else None
        if path is not None and label is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(label.astype(np.uint8)).save(path)
        rows.append((image_id, f"{image_id}.jpg", width, height, f"s{len(rows) % 2}", str(path) if path else None))
    columns = dict(zip(["id", "path", "width", "height", "shard", "label"], zip(*rows, strict=True), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "manifest.parquet", pa.table(columns))
    for shard in ("s0", "s1"):
        with RaggedWriter(folder / f"{shard}.zarr", "segments", dtype="uint8", attrs={"method": "drawn"}) as out:
            for image_id, _, _, _, mine, _ in rows:
                if mine == shard:
                    values = {name: np.asarray(given[image_id], np.float32) for name, given in per_image.items()}
                    out.append(image_id, images[image_id][0].astype(np.uint8), **values)


def scored(folder: Path, objects: Any = True, **params: Any) -> dict[str, Any]:
    out = folder / "objects.json"
    stores = [folder / "s0.zarr", folder / "s1.zarr"]
    run(stores, folder / "manifest.parquet", params | {"objects": objects}, out, "comus")
    return read_json(out)


def grown(values: Any, side: int) -> np.ndarray:
    return np.kron(np.array(values), np.ones((side, side), int))


HALVES = {
    "x/a": (np.array([[1, 0], [2, 0]]), grown([[5, 0], [0, 6]], 8)),  # object 5 right, 6 missed
    "b": (np.array([[0, 1]]), grown([[0, 7]], 6)),
    "c": (np.array([[3, 3]]), None),
}


def test_run_scores_labelled_images_by_id(tmp_path: Path) -> None:
    write_run(tmp_path, HALVES, confidence={"x/a": 0.5, "b": 0.9, "c": 1})
    body = scored(tmp_path)
    assert (body["recipe"], body["ranking"]) == ("comus", "confidence")
    objects, saliency = body["scores"]
    assert objects["protocol"]["name"] == "objects"
    assert saliency["protocol"]["name"] == "saliency"
    assert (objects["images"], objects["images_with_objects"], objects["objects"], objects["segments"]) == (2, 2, 3, 3)
    assert objects["mbo"] == pytest.approx((0.5 + 1) / 2)
    assert objects["corloc"] == 1.0  # segments 1 and 2 tie in score and size: the upper box, by position
    assert saliency["iou"] == pytest.approx((1 / 3 + 1) / 2)
    assert saliency["accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert body["provenance"]["stage"] == "evaluate"
    # segments by score: b right, x/a upper right, x/a lower wrong; 2 of 3 objects at precision 1
    assert objects["mask_ap50"] == pytest.approx(67 / 101)


def test_void_of_the_labels_reaches_every_metric(tmp_path: Path) -> None:
    label = grown([[5, 0, 255, 255], [0, 0, 255, 3]], 4)
    write_run(tmp_path, {"a": (np.array([[1, 0, 1, 2], [0, 0, 1, 2]]), label)})
    objects, saliency = scored(tmp_path, classes=[0, 5, 7])["scores"]  # 3 is void too: no such class is scored
    assert (objects["objects"], objects["segments"]) == (1, 1)
    assert objects["corloc"] == objects["mbo"] == saliency["iou"] == saliency["accuracy"] == 1.0


def test_scores_of_segments_come_before_the_confidence(tmp_path: Path) -> None:
    scores = {"x/a": [0.2, 0.8], "b": [0.9, 0], "c": [0, 0]}
    write_run(tmp_path, HALVES, scores=scores, confidence={"x/a": 0.5, "b": 0.9, "c": 1})
    body = scored(tmp_path)
    assert body["ranking"] == "scores"
    assert body["scores"][0]["corloc"] == 0.5  # the lower segment of x/a is the one prediction, and wrong
    write_run(tmp_path / "none", HALVES)
    assert scored(tmp_path / "none")["ranking"] == "none"


def test_order_and_sharding_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"i{n}": (rng.integers(0, 4, (5, 7)), rng.integers(0, 3, (40, 55))) for n in range(5)}
    write_run(tmp_path / "x", images, confidence=dict.fromkeys(images, 0.5))  # type: ignore[arg-type]
    turned = dict(sorted(images.items(), reverse=True))
    write_run(tmp_path / "y", turned, confidence=dict.fromkeys(images, 0.5))  # type: ignore[arg-type]
    assert scored(tmp_path / "x")["scores"] == scored(tmp_path / "y")["scores"]


def test_leaving_a_metric_out_does_not_change_the_protocol(tmp_path: Path) -> None:
    write_run(tmp_path, HALVES)
    whole = {entry["protocol"]["name"]: entry for entry in scored(tmp_path)["scores"]}
    (part,) = scored(tmp_path, {"metrics": ["mbo"]})["scores"]
    assert part["protocol"] == whole["objects"]["protocol"]
    assert "corloc" not in part
    (part,) = scored(tmp_path, {"metrics": ["saliency"]})["scores"]
    assert part == whole["saliency"]


def test_every_choice_changes_the_protocol(tmp_path: Path) -> None:
    write_run(tmp_path, HALVES)
    write_instances(tmp_path, {"x/a": HALVES["x/a"][1], "b": HALVES["b"][1]})
    ways: list[dict[str, Any]] = [
        {}, {"ignore": [255, 6]}, {"classes": [0, 5, 6, 7, 9]}, {"size": {"short_side": 16}},
        {"objects": {"foreground": [5, 6, 7]}}, {"objects": {"min_area": 0.01}},
        {"objects": {"instances": str(tmp_path / "instances")}},
    ]  # fmt: skip
    found = [[entry["protocol"]["hash"] for entry in scored(tmp_path, **way)["scores"]] for way in ways]
    assert len({one for pair in found for one in pair}) == 2 * len(ways)
    Image.fromarray(grown([[0, 9]], 6).astype(np.uint8)).save(tmp_path / "instances/b.png")
    again = [entry["protocol"]["hash"] for entry in scored(tmp_path, **ways[-1])["scores"]]
    assert not set(again) & set(found[-1])  # other instance pixels


def test_size_rule(tmp_path: Path) -> None:
    label = np.zeros((40, 80), int)
    label[:, :30], label[:, 70:] = 1, 1
    write_run(tmp_path, {"a": (np.array([[1, 0, 0, 0]]), label)})
    (entry, _) = scored(tmp_path, size={"short_side": 16, "centre_crop": True})["scores"]
    assert entry["protocol"]["size"] == "short_side 16, centre crop"
    assert entry["objects"] == 1  # the crop keeps columns 20..59: 10 of the first, none of the second
    assert (entry["segments"], entry["mbo"]) == (0, 0.0)


def write_instances(folder: Path, ids: dict[str, np.ndarray | None], kind: Any = np.uint16) -> Path:
    for image_id, values in ids.items():
        path = folder / "instances" / f"{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if values is not None:
            Image.fromarray(values.astype(kind)).save(path)
    return folder / "instances"


def test_instances_are_matched_by_id_not_by_order(tmp_path: Path) -> None:
    """Two images of one size whose instances would also fit each other; a third file lies between them."""
    one, two = grown([[3, 4]], 8), grown([[0, 4]], 8)
    images = {"set/1": (np.array([[1, 2]]), grown([[7, 7]], 8)), "set/3": (np.array([[0, 1]]), grown([[7, 7]], 8))}
    write_run(tmp_path, images)  # type: ignore[arg-type]
    folder = write_instances(tmp_path, {"set/1": 300 * one, "set/2": grown([[1]], 3), "set/3": 300 * two})
    entry = scored(tmp_path, {"instances": str(folder)})["scores"][0]
    assert (entry["objects"], entry["mbo"]) == (3, 1.0)
    for path in list(folder.glob("set/*.png")):
        path.rename(folder / path.name)  # bare stems will do where they are unique
    assert scored(tmp_path, {"instances": str(folder)})["scores"][0]["mbo"] == 1.0


def test_a_bare_stem_of_two_images_fits_neither(tmp_path: Path) -> None:
    """Also where only one of them has a label: the file may be the other's."""
    segments, label = np.array([[1, 0]]), grown([[5, 0]], 8)
    write_run(tmp_path, {"a/1": (segments, label), "b/1": (segments, None), "c": (segments, label)})
    folder = write_instances(tmp_path, {"1": label, "c": label})
    with pytest.raises(InputError, match=r"instances: no file of .* 1 of 2 labelled .* first is 'a/1'"):
        scored(tmp_path, {"instances": str(folder)})


def test_errors_name_the_file_and_the_way_out(tmp_path: Path) -> None:
    write_run(tmp_path, HALVES)
    folder = write_instances(tmp_path, {"x/a": HALVES["x/a"][1], "b": np.zeros((5, 9))})
    with pytest.raises(InputError, match=r"instances/b\.png: instance image of 9 x 5 pixels for an image of 12 x 6"):
        scored(tmp_path, {"instances": str(folder)})
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match=r"instances: no file of .* 1 of 2 labelled .* first is 'b'; add b\.png"):
        scored(tmp_path, {"instances": str(folder)})
    Image.fromarray(np.zeros((6, 12, 3), np.uint8)).save(folder / "b.png")
    with pytest.raises(InputError, match=r"instances/b\.png: label: colours"):
        scored(tmp_path, {"instances": str(folder)})
    with pytest.raises(InputError, match=r"evaluate\.objects\.instances: '.*absent' is not a folder"):
        scored(tmp_path, {"instances": str(tmp_path / "absent")})
    with pytest.raises(InputError, match=r"no label has an object of foreground \[9\] of at least 0\.5 of the image"):
        scored(tmp_path, {"foreground": [9], "min_area": 0.5})
    with pytest.raises(ConfigError, match=r"evaluate\.objects: off"):
        scored(tmp_path, None)
    with pytest.raises(StoreError, match="no segments for 1 of 2 labelled images, the first is 'b'"):
        run([tmp_path / "s0.zarr"], tmp_path / "manifest.parquet", {"objects": True}, tmp_path / "o", "r")
    write_run(tmp_path / "two", HALVES, scores={"x/a": [1], "b": [1], "c": [1]})
    with pytest.raises(StoreError, match=r"s0\.zarr: x/a: segment 2 of 1 scores"):
        scored(tmp_path / "two")


def test_command_line(tmp_path: Path) -> None:
    """`maskmill evaluate objects` as its rule calls it; pycocotools prints nothing into the log."""
    write_run(tmp_path, HALVES, confidence={"x/a": 0.5, "b": 0.9, "c": 1})
    params = json.dumps({"version": 1, "objects": {"metrics": ["ap", "saliency"]}})
    done = subprocess.run(
        [
            sys.executable, "-c", "from maskmill.cli import main; main()", "evaluate", "objects",
            "--manifest", str(tmp_path / "manifest.parquet"), "--params", params, "--cut", str(tmp_path),
            "--recipe", "comus", "--out", str(tmp_path / "o.json"),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "evaluate objects 2/2" in done.stderr
    assert [e["protocol"]["name"] for e in read_json(tmp_path / "o.json")["scores"]] == ["objects", "saliency"]


# --- painted masks --------------------------------------------------------------------------------------------------


def test_foreground_of_painted_masks_shares_the_protocol_of_the_cut(tmp_path: Path) -> None:
    from maskmill.evaluate.run import run as run_masks
    from maskmill.images.masks import MaskSet

    write_run(tmp_path, HALVES, confidence={"x/a": 0.5, "b": 0.9, "c": 1})
    masks = {"x/a": np.array([[2, 0], [255, 255]]), "b": np.array([[0, 2]]), "c": np.array([[1, 1]])}
    for shard in ("s0", "s1"):
        mine = {"s0": ("x/a", "c"), "s1": ("b",)}[shard]
        attrs = {"clusters": 3, "ignore": ignore_value(np.uint8)}
        with RaggedWriter(tmp_path / f"masks/{shard}.zarr", "masks", dtype="uint8", attrs=attrs) as out:
            for image_id in mine:
                out.append(image_id, masks[image_id].astype(np.uint8))
    stores, manifest = [tmp_path / f"masks/{s}.zarr" for s in ("s0", "s1")], tmp_path / "manifest.parquet"
    run_masks(stores, manifest, {"objects": True}, tmp_path / "scores.json", MaskSet("comus", 0, 1))
    (entry,) = read_json(tmp_path / "scores.json")["saliency"]
    assert entry["iou"] == pytest.approx((1 / 3 + 1) / 2)  # x/a: 5 right; predicted ignore is wrong on 6 and beside it
    assert entry["accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert entry["protocol"] == scored(tmp_path)["scores"][1]["protocol"]
    run_masks(stores, manifest, {"objects": True, "ignore": [255, 6]}, tmp_path / "scores.json", MaskSet("comus", 0, 1))
    (entry,) = read_json(tmp_path / "scores.json")["saliency"]
    assert entry["accuracy"] == pytest.approx((2 / 3 + 1) / 2)  # 6 is void: it does not count that the mask ignores it
    run_masks(stores, manifest, {"objects": {"metrics": ["mbo"]}}, tmp_path / "scores.json", MaskSet("comus", 0, 1))
    assert "saliency" not in read_json(tmp_path / "scores.json")
    run_masks(stores, manifest, {}, tmp_path / "scores.json", MaskSet("comus", 0, 1))
    assert "saliency" not in read_json(tmp_path / "scores.json")
