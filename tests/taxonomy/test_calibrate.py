"""Confidence that was measured: curves against closed forms, folds that hold images out, and where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression

from maskmill.errors import StoreError
from maskmill.store import classes as kinds
from maskmill.store.artefact import read_table, write_table
from maskmill.store.calibration import Calibration
from maskmill.store.classes import Classes
from maskmill.store.codebook import Codebook
from maskmill.store.manifest import Manifest, Row
from maskmill.store.ragged import RaggedWriter
from maskmill.taxonomy import Clustered, ShardVectors, examples
from maskmill.taxonomy import _calibrate as calibrate
from maskmill.taxonomy import _labelled as labelled
from maskmill.taxonomy._names import described
from maskmill.taxonomy._sure import of_image
from maskmill.taxonomy.run import map_regions


def test_the_expected_error_by_hand() -> None:
    """Two in a bin at 0.9, one right: 0.4 for each; two at 0.1, none right: 0.1."""
    found = calibrate.expected_error(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, False, False, False]))
    assert found == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert calibrate.expected_error(np.array([1.0]), np.array([True])) == 0


def test_an_isotonic_curve_is_the_shares_where_they_rise() -> None:
    """Right in 1 of 4 at 0.25, in 3 of 4 at 0.5, in 2 of 4 at 0.75: the last two are pooled."""
    odds = np.repeat([0.25, 0.5, 0.75], 4)
    right = np.array([1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0], bool)
    found = Calibration("isotonic", calibrate.curve(odds, right, "isotonic"), 12, 3)
    assert found.confidence(np.array([0.0, 0.25, 0.5, 0.6, 0.75, 1.0])) == pytest.approx(
        [0.25, 0.25, 0.625, 0.625, 0.625, 0.625]
    )


def test_a_logistic_curve_is_that_of_a_regression_on_drawn_in_targets() -> None:
    draws = np.random.default_rng(0)
    odds = draws.random(400)
    right = draws.random(400) < odds**2
    hits = int(right.sum())
    target = np.where(right, (hits + 1) / (hits + 2), 1 / (400 - hits + 2))
    logits = np.log(odds / (1 - odds))[:, None]
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(np.tile(logits, (2, 1)), np.repeat([1, 0], 400), sample_weight=np.concatenate([target, 1 - target]))
    found = Calibration("platt", calibrate.curve(odds, right, "platt"), 400, 5)
    at = np.linspace(0, 1, 65)[1:-1]  # the points of the curve
    expected = model.predict_proba(np.log(at / (1 - at))[:, None])[:, 1].clip(1 / 402, 401 / 402)
    assert found.confidence(at) == pytest.approx(expected, abs=2e-4)


def test_a_curve_never_falls_and_is_never_certain() -> None:
    odds, right = np.linspace(0, 1, 60), np.arange(60) < 40  # the sure ones are wrong
    for kind in ("platt", "isotonic"):
        points = calibrate.curve(odds, right, kind)  # type: ignore[arg-type]
        assert (np.diff(points[:, 1]) >= 0).all()
        every = calibrate.curve(odds, np.ones(60, bool), kind)  # type: ignore[arg-type]
        assert (every[:, 1] <= 61 / 62 + 1e-12).all()
        assert every[:, 1].min() > 0.9


def test_overconfident_odds_are_corrected() -> None:
    """Right half as often as the odds say: the error is near the truth before, and near nothing after."""
    draws = np.random.default_rng(1)
    images, odds = np.repeat(np.arange(20), 200), draws.uniform(0.5, 1, 4000)
    right = draws.random(4000) < odds / 2
    found = calibrate.fit(odds, right, images, images // 4)
    assert (found.kind, found.regions, found.images) == ("isotonic", 4000, 20)
    assert found.before == pytest.approx(0.375, abs=0.03)
    assert found.after < 0.05
    assert found.confidence(np.array([0.6, 0.9])) == pytest.approx([0.3, 0.45], abs=0.06)
    few = calibrate.fit(odds[:800], right[:800], images[:800], images[:800])
    assert few.kind == "platt"


def found_images(images: int, tokens: int = 40, classes: int = 2) -> labelled.Labelled:
    """Labelled images whose vectors point along their class."""
    draws = np.random.default_rng(0)
    place = draws.integers(0, classes, images * tokens)
    vectors = np.eye(classes, 4)[place] + draws.normal(0, 0.1, (len(place), 4))
    ids = tuple(f"i{i:02d}" for i in range(images))
    at = np.repeat(np.arange(images), tokens)
    return labelled.Labelled(ids, (3, 7), vectors.astype(np.float32), np.eye(2, dtype=np.float32)[place], at, {})


def spied(seen: list[set[int]]) -> calibrate.Learn:
    """Classes along the axes, whatever the images; notes which images it is given."""

    def learn(found: labelled.Labelled) -> Classes:
        seen.append(set(found.images.tolist()))
        weights = np.eye(4, 2, dtype=np.float32) * 4
        tensors = {"weights": weights, "bias": np.zeros(2, np.float32)}
        return Classes(2, np.array([1, 2], np.int32), "linear", tensors, label_ids=(3, 7))

    return learn


def test_odds_that_are_right_stay_as_they_are() -> None:
    """A curve from few cases would only add noise to them."""
    rng = np.random.default_rng(0)
    odds = rng.uniform(0.4, 1, 4000)
    found = calibrate.fit(odds, rng.random(4000) < odds, np.repeat(np.arange(4), 1000), np.repeat(np.arange(4), 1000))
    at = np.linspace(0, 1, 7)
    np.testing.assert_allclose(found.confidence(at)[3:], at[3:], atol=0.03)  # of many cases, the curve is as good
    assert found.after <= found.before
    few = slice(None, None, 40)
    kept = calibrate.fit(odds[few], rng.random(100) < odds[few], np.arange(100) // 25, np.arange(100) // 25)
    assert kept.kind == "identity"
    np.testing.assert_allclose(kept.confidence(at), at, rtol=1e-6)
    assert "kept as it is" in kept.sentence


def test_an_image_without_regions_is_no_image() -> None:
    """A cut may leave nothing of a photo, wherever it stands among the others."""
    whole, seen = found_images(8), list[set[int]]()
    empty = calibrate.without(whole, whole.images == 3)
    assert calibrate.calibrate(empty, spied(seen)).images == 7
    assert all(3 not in each for each in seen)


def test_what_is_cut_from_one_file_is_in_one_fold() -> None:
    """The vectors of its windows are no independent cases: three files of many windows are three images."""
    seen: list[set[int]] = []
    cut = replace(found_images(9), owners=tuple("aaaabbbcc"))
    found = calibrate.calibrate(cut, spied(seen))
    assert found.images == 3
    assert seen == [{4, 5, 6, 7, 8}, {0, 1, 2, 3, 7, 8}, {0, 1, 2, 3, 4, 5, 6}]
    assert calibrate.calibrate(replace(found_images(9), owners=tuple("aaaabbbbb")), spied([])).kind == "none"


def test_no_image_is_judged_by_classes_that_it_named() -> None:
    seen: list[set[int]] = []
    found = calibrate.calibrate(found_images(7), spied(seen))
    assert found
    left_out = [set(range(7)) - each for each in seen]
    assert sorted(i for fold in left_out for i in fold) == list(range(7))
    assert all(fold == set(range(min(fold), max(fold) + 1)) for fold in left_out)  # neighbours stay together
    assert (found.regions, found.images) == (280, 7)


@pytest.mark.parametrize(("images", "tokens", "said"), [
    (1, 400, "1 labelled image"),
    (2, 400, "2 labelled images"),
    (4, 10, "4 labelled images with 40 regions"),
])  # fmt: skip
def test_too_few_labels_are_uncalibrated_in_words(images: int, tokens: int, said: str) -> None:
    found = calibrate.calibrate(found_images(images, tokens), spied([]))
    assert not found
    assert found.sentence == f"uncalibrated: {said}; at least 3 with 50 regions are needed"
    assert np.isnan(found.confidence(np.array([0.3, 0.9]))).all()
    assert "error_after" not in found.facts()


def test_regions_without_labels_or_class_do_not_count() -> None:
    found = found_images(5)
    found.shares[:40] *= 0.4  # less than half of each region of the first image has a label
    ground = Codebook(np.array([[0, 1, 0, 0], [1, 0, 0, 0]], np.float32), np.array([1, 1]), 0.0, True)
    whole = calibrate.calibrate(found, spied([]))
    assert (whole.regions, whole.images) == (160, 4)
    inside = calibrate.calibrate(found, spied([]), ground)  # what points along the second axis is background
    assert inside.regions == int((found.vectors[40:, 0] > found.vectors[40:, 1]).sum())


def test_a_class_that_one_image_alone_shows_does_not_count() -> None:
    """Left out, nothing could name it; the classes that are used know it."""
    found = found_images(5)
    alone = found.images == 2
    found.shares[~alone] = [1, 0]
    found.shares[alone] = np.where(np.arange(40)[:, None] < 10, [1, 0], [0, 1])
    whole = calibrate.calibrate(found, spied([]))
    assert (whole.regions, whole.images) == (170, 5)


def test_it_is_stored_and_read(tmp_path: Path) -> None:
    one = calibrate.calibrate(found_images(5), spied([]))
    classes = spied([])(found_images(1))
    for calibration in (one, Calibration.none("1 labelled image", 0, 1), None):
        kinds.write(tmp_path / "c.safetensors", Classes(**{**vars(classes), "calibration": calibration}))
        back = kinds.read(tmp_path / "c.safetensors").calibration
        assert (back is None) == (calibration is None)
        if back is not None and calibration is not None:
            assert back.facts() == calibration.facts()
            assert np.array_equal(back.curve, calibration.curve)
    with pytest.raises(StoreError, match="no calibration of this version"):
        Calibration.restored({"kind": "platt"})


CURVE = np.array([[0.0, 0.1], [1.0, 0.7]])


def test_the_confidence_of_an_image_is_the_mean_of_its_cells() -> None:
    """Three cells of one vector, one of another, one without any."""
    classes = spied([])(found_images(1))
    calibration = Calibration("platt", CURVE, 100, 4)
    x = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], np.float32)
    odds = np.array([1 / (1 + np.exp(-4)), 0.5])
    found = of_image(x, np.array([[0, 0, 0, 1, -1]]), classes, calibration)
    assert found == pytest.approx((3 * (0.1 + 0.6 * odds[0]) + (0.1 + 0.6 * odds[1])) / 4, abs=1e-6)
    assert np.isnan(of_image(x[:0], np.array([[-1]]), classes, calibration))


def test_regions_get_their_confidence(tmp_path: Path) -> None:
    import pyarrow as pa

    with RaggedWriter(tmp_path / "s0.zarr", "features", depth=4) as out:
        out.append("a", np.array([[[1, 0, 0, 0]], [[1, 1, 0, 0]]], np.float32))
    rows = {"image": ["a", "a"], "region": [1, 2], "cluster": [0, 1], "distance": [0.1, 0.2]}
    write_table(tmp_path / "in.parquet", pa.table(rows))
    classes = spied([])(found_images(1))
    for calibration, there in ((Calibration("platt", CURVE, 100, 4), True), (None, False)):
        kinds.write(tmp_path / "c.safetensors", Classes(**{**vars(classes), "calibration": calibration}))
        map_regions(tmp_path / "s0.zarr", tmp_path / "in.parquet", tmp_path / "c.safetensors", tmp_path / "out.parquet")
        table = read_table(tmp_path / "out.parquet", ["region"], optional=["confidence"])
        assert ("confidence" in table.column_names) == there
        if there:
            expected = [0.1 + 0.6 / (1 + np.exp(-4)), 0.1 + 0.6 * 0.5]
            assert table["confidence"].to_pylist() == pytest.approx(expected, abs=1e-6)


def test_examples_are_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images, four of them labelled: the others have a confidence, and what it rests on is written."""
    draws = np.random.default_rng(0)
    sides = np.repeat([[0, 1]], 4, axis=0).repeat(2, axis=1)
    ids = [f"i{i}" for i in range(6)]
    with RaggedWriter(tmp_path / "s0.zarr", "features", depth=2) as out:
        for image_id in ids:
            out.append(image_id, (np.eye(2)[sides] + draws.normal(0, 0.3, (4, 4, 2))).astype(np.float32))
    (tmp_path / "labels").mkdir()
    for image_id in ids[:4]:
        label = np.array([7, 9], np.uint8)[sides].repeat(2, axis=0).repeat(2, axis=1)
        Image.fromarray(label).save(tmp_path / f"labels/{image_id}.png")
    manifest = Manifest(tuple(Row(image_id, f"/{image_id}.jpg", 8, 8, "s0", None) for image_id in ids))
    monkeypatch.setattr(labelled, "read_manifest", lambda path: manifest)
    monkeypatch.setattr("maskmill.store.manifest.read_manifest", lambda path: manifest)
    monkeypatch.setattr("maskmill.taxonomy._sure.read", lambda path, gallery: Sampled({"s0": tuple(ids)}))
    book = Codebook(np.eye(2, dtype=np.float32), np.array([48, 48]), 0.0, True)
    given = Clustered(book, None, [ShardVectors(tmp_path / "s0.zarr")], tmp_path / "manifest.parquet")
    params = examples.Params(labels=str(tmp_path / "labels"))
    found, _ = examples.fit(examples.grouping(params, "r"), given)
    assert found.calibration is not None
    assert "on 64 regions or tokens of 4 labelled images" in found.calibration.sentence
    assert set(found.calibration.seen) == {"i4", "i5"}
    body = described(found, book, {"label_names": {}})["calibration"]
    assert (body["kind"], body["regions"], set(body["sampled"])) == ("identity", 64, {"i4", "i5"})


class Sampled:
    """A sample of images by shard."""

    def __init__(self, statistics: Mapping[str, tuple[str, ...]]) -> None:
        self.statistics = statistics
