"""evaluate: matchings by hand and by brute force, protocols, label checks, the leaderboard, the linear probe."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scored_run import write_run

from maskmill.errors import ConfigError, InputError, StoreError
from maskmill.evaluate import confusion as confusion_module
from maskmill.evaluate import linear_probe, readout
from maskmill.evaluate.confusion import Confusion, at_frame, frame
from maskmill.evaluate.matching import MATCHERS, hungarian_counts, hungarian_iou, iou_matrix, many_to_one, metrics
from maskmill.evaluate.protocol import protocol
from maskmill.evaluate.run import run
from maskmill.evaluate.score import score_clusters
from maskmill.evaluate.summary import leaderboard, tables
from maskmill.images.masks import MaskSet
from maskmill.numerics import multinomial
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate, ScoreSize
from maskmill.store.artefact import read_json
from maskmill.store.ragged import RaggedWriter

SMALL = hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 30)).map(
    lambda counts: counts + (counts.sum(axis=0) == 0)  # every class has pixels
)
DIFFERENT = np.array([[80, 10, 60], [60, 0, 0], [20, 0, 80]], np.int64)


def brute_force(gain: np.ndarray) -> float:
    """Largest sum of gains over all one-to-one matchings."""
    gain = gain if gain.shape[0] >= gain.shape[1] else gain.T
    columns = range(gain.shape[1])
    orders = itertools.permutations(range(gain.shape[0]), gain.shape[1])
    return max(sum(float(gain[r, c]) for r, c in zip(rows, columns, strict=True)) for rows in orders)


def gained(gain: np.ndarray, match: np.ndarray) -> float:
    rows = np.flatnonzero(match >= 0)
    return float(gain[rows, match[rows]].sum())


def names(scores: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["protocol"]["name"]: entry for entry in scores}


# --- matching and metrics -------------------------------------------------------------------------------------------


def test_the_two_hungarians_differ() -> None:
    """By hand: 80 + 80 = 160 pixels beat 60 + 10 + 80 = 150; IoU .375 + .067 + .5 beats .348 + .5."""
    by_counts, by_iou = hungarian_counts(DIFFERENT), hungarian_iou(DIFFERENT)
    assert by_counts.tolist() == [0, -1, 2]
    assert by_iou.tolist() == [1, 0, 2]
    counts, iou = metrics(DIFFERENT, by_counts), metrics(DIFFERENT, by_iou)
    assert counts.accuracy == 160 / 310
    assert counts.iou == pytest.approx([80 / 230, 0, 80 / 160])
    assert counts.unmatched == 60 / 310
    assert counts.discovered == 2
    assert iou.accuracy == 150 / 310
    assert iou.miou == pytest.approx((60 / 160 + 10 / 150 + 80 / 160) / 3)
    assert iou.unmatched == 0


@settings(max_examples=80, deadline=None)
@given(counts=SMALL)
def test_hungarian_is_the_best_of_all_permutations(counts: np.ndarray) -> None:
    iou = iou_matrix(counts)
    assert gained(counts, hungarian_counts(counts)) == brute_force(counts)
    assert gained(iou, hungarian_iou(counts)) == pytest.approx(brute_force(iou), abs=1e-8)


@settings(max_examples=80, deadline=None)
@given(counts=SMALL, seed=st.integers(0, 99))
def test_cluster_numbers_do_not_matter(counts: np.ndarray, seed: int) -> None:
    """Ties are broken by the other objective, so metrics do not depend on how clusters are numbered."""
    shuffled = counts[np.random.default_rng(seed).permutation(len(counts))]
    for name, matcher in MATCHERS.items():
        a, b = metrics(counts, matcher(counts)), metrics(shuffled, matcher(shuffled))
        assert a.miou == pytest.approx(b.miou, abs=1e-7), name
        assert a.accuracy == pytest.approx(b.accuracy), name


@settings(max_examples=80, deadline=None)
@given(counts=SMALL)
def test_many_to_one_matches_at_least_as_many_pixels(counts: np.ndarray) -> None:
    many = metrics(counts, many_to_one(counts)).accuracy
    assert many >= metrics(counts, hungarian_counts(counts)).accuracy >= metrics(counts, hungarian_iou(counts)).accuracy


def test_many_to_one_is_the_majority_and_the_first_among_equals() -> None:
    counts = np.array([[5, 5, 1], [0, 2, 3], [0, 0, 0], [9, 0, 9]], np.int64)
    assert many_to_one(counts).tolist() == [0, 2, -1, 0]
    result = metrics(counts, many_to_one(counts))
    assert result.iou == pytest.approx([14 / (29 + 14 - 14), 0, 3 / (5 + 13 - 3)])
    assert result.accuracy == 17 / 34


def test_extra_clusters_stay_in_the_denominator() -> None:
    """Class 0 has 100 pixels in three clusters: only 50 of them can be right one to one, never 50 / 50."""
    counts = np.array([[50, 0], [30, 0], [20, 0], [0, 40]], np.int64)
    for matcher in (hungarian_counts, hungarian_iou):
        result = metrics(counts, matcher(counts))
        assert result.accuracy == 90 / 140
        assert result.iou.tolist() == [0.5, 1.0]
        assert result.unmatched == 50 / 140
    assert metrics(counts, many_to_one(counts)).accuracy == 1


def test_fewer_clusters_than_classes() -> None:
    counts = np.array([[50, 10, 5]], np.int64)
    for matcher in MATCHERS.values():
        result = metrics(counts, matcher(counts))
        assert result.iou.tolist() == [50 / 65, 0, 0]
        assert result.accuracy == 50 / 65


def test_counts_beyond_32_bits_are_exact() -> None:
    """float32 stops counting at 2^24, int32 at 2^31."""
    big = 3 * 2**40
    counts = np.array([[big + 1, 7], [3, big]], np.int64)
    result = metrics(counts, hungarian_counts(counts))
    assert result.accuracy == (2 * big + 1) / (2 * big + 11)
    assert result.iou[0] == (big + 1) / (big + 11)
    confusion = Confusion(2, [0, 1], [])
    confusion._counts += 2**33
    confusion.add(np.array([[0, 1]]), np.array([[0, 0]]))
    assert confusion.counts.tolist() == [[2**33 + 1, 2**33], [2**33 + 1, 2**33]]
    assert confusion.counts.dtype == np.int64


# --- confusion and sizes --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), strip=st.integers(1, 64))
def test_confusion_equals_counting(seed: int, strip: int) -> None:
    rng = np.random.default_rng(seed)
    confusion, expected = Confusion(4, None, [255, 3]), np.zeros((4, 256), np.int64)
    before = confusion_module.STRIP
    confusion_module.STRIP = strip
    try:
        for _ in range(3):
            shape = tuple(rng.integers(1, 12, 2))
            prediction, label = rng.integers(0, 4, shape), rng.choice([0, 3, 9, 7, 255], shape).astype(np.int32)
            confusion.add(prediction, label)
            np.add.at(expected, (prediction, label), 1)
    finally:
        confusion_module.STRIP = before
    expected[:, [3, 255]] = 0
    assert confusion.classes == [c for c in (0, 7, 9) if expected[:, c].any()]
    assert (confusion.counts == expected[:, confusion.classes]).all()


def test_only_the_named_classes_are_scored() -> None:
    confusion = Confusion(2, [7, 5, 99999], [255])
    confusion.add(np.array([[0, 1, 1, 0]]), np.array([[5, 7, 6, 255]], np.int32))
    assert confusion.classes == [5, 7, 99999]
    assert confusion.counts.tolist() == [[1, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match="label ids -1"):
        confusion.add(np.array([[0]]), np.array([[-1]], np.int32))


def test_frame_is_short_side_and_centre_crop() -> None:
    """torchvision: the long side is truncated, the crop's corner is rounded half to even."""
    assert frame(375, 500, None) == ((375, 500), (slice(None), slice(None)))
    shape, window = frame(375, 500, ScoreSize(short_side=320, centre_crop=True))
    assert shape == (320, 426)
    assert window == (slice(0, 320), slice(53, 373))
    label = np.arange(375 * 501).reshape(375, 501)  # 501: no pixel centre on a boundary, where Pillow's sums waver
    shape, window = frame(375, 501, ScoreSize(short_side=320, centre_crop=True))
    with Image.fromarray(label.astype(np.int32)) as image:
        pillow = np.asarray(image.resize((427, 320), Image.Resampling.NEAREST))[:, 54:374]
    assert (at_frame(label, shape, window) == pillow).all()
    assert frame(500, 375, ScoreSize(short_side=320))[0] == (426, 320)


# --- scores and protocols -------------------------------------------------------------------------------------------


def scores_of(counts: list[list[int]], classes: list[int], **names: Any) -> dict[str, dict[str, Any]]:
    rules = [protocol(name, None, [255], classes, {"a": "0"}) for name in MATCHERS]
    found = score_clusters(np.array(counts, np.int64), rules, classes, names.get("names", {}))
    return {entry["protocol"]["name"]: entry for entry in found}


def test_predicted_ignore_is_wrong_and_never_matched() -> None:
    """The last row is what the masks call ignore: its 60 pixels of class 4 stay in the denominator."""
    for entry in scores_of([[30, 0], [0, 40], [0, 60]], [2, 4]).values():
        assert entry["matching"] == {"0": "2", "1": "4"}
        assert entry["accuracy"] == 70 / 130
        assert entry["per_class"] == {"2": 1.0, "4": 0.4}
        assert entry["unmatched"] == 60 / 130


def test_a_class_without_pixels_is_named_and_left_out_of_the_mean() -> None:
    entry = scores_of([[8, 0, 0], [0, 0, 8], [0, 0, 0]], [1, 2, 3], names={1: "cat", 2: "dog", 3: "cat"})
    for score in entry.values():
        assert score["per_class"] == {"cat (1)": 1.0, "dog": None, "cat (3)": 1.0}
        assert score["absent"] == ["dog"]
        assert score["miou"] == 1
    with pytest.raises(InputError, match=r"evaluate\.classes: no label has a pixel"):
        scores_of([[0], [0]], [1])


def test_every_choice_changes_the_protocol() -> None:
    base = {"name": "many_to_one", "size": None, "ignore": [255], "classes": [0, 1], "label_digests": {"a": "0"}}
    changes: list[dict[str, Any]] = [
        {"name": "hungarian_iou"}, {"size": ScoreSize(short_side=320)}, {"ignore": [255, 3]}, {"classes": [0]},
        {"size": ScoreSize(short_side=320, centre_crop=True)}, {"label_digests": {"b": "0"}},
        {"label_digests": {"a": "1"}},
    ]  # fmt: skip
    hashes = [protocol(**(base | change)).hash for change in [{}, *changes]]  # type: ignore[arg-type]
    assert len(set(hashes)) == len(hashes)
    assert protocol(**(base | {"ignore": [255, 255]})).hash == hashes[0]  # type: ignore[arg-type]


def test_config_says_what_is_wrong() -> None:
    assert validate(Evaluate, {"size": "original"}, "config.yaml", "evaluate").size is None
    with pytest.raises(ConfigError, match=r"evaluate: label 255 is in classes and in ignore"):
        validate(Evaluate, {"classes": [1, 255]}, "config.yaml", "evaluate")
    with pytest.raises(ConfigError, match=r"evaluate\.protocols\.0: .*hungarian_iou.*'hungary'"):
        validate(Evaluate, {"protocols": "hungary"}, "config.yaml", "evaluate")
    with pytest.raises(ConfigError, match=r"evaluate\.size\.short_side: .*found 3"):
        validate(Evaluate, {"size": {"short_side": 3}}, "config.yaml", "evaluate")


# --- files ----------------------------------------------------------------------------------------------------------


def scored(folder: Path, **params: Any) -> dict[str, Any]:
    out = folder / "scores.json"
    run([folder / "s0.zarr", folder / "s1.zarr"], folder / "manifest.parquet", params, out, MaskSet("kmeans", 3, 1))
    return read_json(out)


def blocks(values: list[list[int]], side: int) -> np.ndarray:
    return np.kron(np.array(values), np.ones((side, side), int))


def test_run_scores_labelled_images_only(tmp_path: Path) -> None:
    images = {
        "a": (np.array([[1, 2], [0, 255]]), blocks([[5, 6], [0, 6]], 10)),
        "b": (np.array([[1, 1], [3, 3]]), blocks([[5, 255], [5, 5]], 6)),
        "c": (np.array([[9, 9], [9, 9]]).clip(max=3), None),
    }
    write_run(tmp_path, images)
    body = scored(tmp_path, class_names={5: "tree"})
    assert (body["recipe"], body["seed"], body["round"], body["clusters"]) == ("kmeans", 3, 1, 3)
    assert [entry["protocol"]["name"] for entry in body["scores"]] == [
        "hungarian_iou", "hungarian_counts", "many_to_one",
    ]  # fmt: skip
    # Pixels: a: 1-5 100, 2-6 100, 0-0 100, ignore-6 100. b: 1-5 36, 1-void, 3-5 72.
    one = names(body["scores"])["hungarian_counts"]
    assert one["matching"] == {"0": "0", "1": "tree", "2": "6"}
    assert one["pixels"] == 508
    assert one["accuracy"] == 336 / 508
    assert one["per_class"] == {"0": 1.0, "tree": 136 / 208, "6": 0.5}
    assert one["images"] == one["protocol"]["images"] == 2
    assert names(body["scores"])["many_to_one"]["accuracy"] == 408 / 508
    assert body["provenance"]["stage"] == "evaluate"


def test_order_and_sharding_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"i{n}": (rng.integers(0, 4, (5, 7)), rng.integers(0, 3, (40, 55))) for n in range(5)}
    write_run(tmp_path / "x", images)  # type: ignore[arg-type]
    write_run(tmp_path / "y", dict(sorted(images.items(), reverse=True)))  # type: ignore[arg-type]
    assert scored(tmp_path / "x")["scores"] == scored(tmp_path / "y")["scores"]


def test_few_labels_among_many_masks(tmp_path: Path) -> None:
    images: dict[str, Any] = {f"i{n:02}": (np.array([[n % 3, 1]]), None) for n in range(40)}
    images["i20"] = (np.array([[2, 1]]), blocks([[7, 8]], 4))
    write_run(tmp_path, images)
    assert scored(tmp_path)["scores"][0]["matching"] == {"1": "8", "2": "7"}


def test_a_size_rule_is_applied_and_recorded(tmp_path: Path) -> None:
    label = np.zeros((40, 80), int)
    label[:, :20], label[:8] = 1, 2
    write_run(tmp_path, {"a": (np.array([[2, 1, 1, 1]]), label)})
    entry = scored(tmp_path, size={"short_side": 16, "centre_crop": True})["scores"][0]
    assert entry["protocol"]["size"] == "short_side 16, centre crop"
    assert entry["pixels"] == 256  # the crop cuts class 1 away
    assert list(entry["per_class"]) == ["0", "2"]


def test_many_clusters_use_16_bit_masks(tmp_path: Path) -> None:
    write_run(tmp_path, {"a": (np.array([[300, 65535, 300, 7]]), blocks([[1, 1, 1, 2]], 4))}, clusters=300)
    entry = scored(tmp_path)["scores"][0]
    assert entry["matching"] == {"300": "1", "7": "2"}
    assert entry["accuracy"] == 0.75


def test_errors_name_the_file_and_the_way_out(tmp_path: Path) -> None:
    mask, label = np.array([[1]]), blocks([[1, 2], [1, 2]], 2)
    write_run(tmp_path / "none", {"a": (mask, None)})
    with pytest.raises(InputError, match=r"manifest\.parquet: no image has a label.*labels:"):
        scored(tmp_path / "none")
    write_run(tmp_path / "size", {"a": (mask, label)})
    Image.fromarray(np.zeros((5, 9), np.uint8)).save(tmp_path / "size/labels/a.png")
    with pytest.raises(InputError, match=r"a\.png: label of 9 x 5 pixels for .* of 4 x 4"):
        scored(tmp_path / "size")
    write_run(tmp_path / "beyond", {"a": (np.array([[7]]), label)})
    with pytest.raises(StoreError, match="a: a mask value beyond 3 clusters"):
        scored(tmp_path / "beyond")
    write_run(tmp_path / "missing", {"a": (mask, label), "b": (mask, label)})
    with pytest.raises(StoreError, match="no mask for 1 of 2 labelled images, the first is 'b'"):
        run(
            [tmp_path / "missing/s0.zarr"],
            tmp_path / "missing/manifest.parquet",
            {},
            tmp_path / "o",
            MaskSet("r", 0, 0),
        )
    with pytest.raises(InputError, match=r"found 2 label ids, .* evaluate\.classes: \[8\] none of them is scored"):
        scored(tmp_path / "missing", classes=[8])
    write_run(tmp_path / "other", {"a": (mask, label)}, clusters=9)
    stores = [tmp_path / "missing/s0.zarr", tmp_path / "other/s0.zarr"]
    with pytest.raises(StoreError, match="different numbers of clusters"):
        run(stores, tmp_path / "missing/manifest.parquet", {}, tmp_path / "o", MaskSet("r", 0, 0))


def test_a_score_that_cannot_be_wrong_is_none(tmp_path: Path) -> None:
    label = blocks([[0, 255], [0, 0]], 4)
    write_run(tmp_path, {"a": (np.array([[1, 2], [3, 0]]), label)})
    said = r"found 2 label ids, 0 \(75 %\), 255 \(25 %\); with evaluate\.ignore: \[255\] 0 alone is scored"
    with pytest.raises(InputError, match=said):
        scored(tmp_path)
    assert not (tmp_path / "scores.json").exists()
    assert scored(tmp_path, ignore=[])["scores"][0]["accuracy"] < 1
    with pytest.raises(InputError, match=r"evaluate\.ignore: \[\] and evaluate\.classes: \[255\] 255 alone"):
        scored(tmp_path, ignore=[], classes=[255])


# --- leaderboard ----------------------------------------------------------------------------------------------------


def file_of(recipe: str, seed: int, miou: float, rule: str) -> dict[str, Any]:
    entry = {"accuracy": miou, "miou": miou, "discovered": 2, "unmatched": 0.0, "per_class": {"x": miou, "y": None}}
    return {"recipe": recipe, "seed": seed, "round": 0, "clusters": 4,
            "scores": [entry | {"protocol": {"name": rule, "hash": f"hash of {rule}"}}]}  # fmt: skip


def test_leaderboard_groups_seeds_and_keeps_protocols_apart() -> None:
    files = [file_of("slow", s, v, "many_to_one") for s, v in enumerate([0.1, 0.2, 0.6])]
    files += [file_of("fast", 0, 0.5, "many_to_one"), file_of("slow", 0, 0.9, "hungarian_iou")]
    rows = leaderboard(reversed(files))
    assert [(row.protocol["name"], row.recipe, row.seeds) for row in rows] == [
        ("hungarian_iou", "slow", (0,)),
        ("many_to_one", "fast", (0,)),
        ("many_to_one", "slow", (0, 1, 2)),
    ]
    stat = rows[2].metrics["miou"]
    assert (stat.mean, stat.sd, stat.n) == (pytest.approx(0.3), pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1)), 3)
    assert rows[1].metrics["miou"].sd is None
    assert list(rows[1].per_class) == ["x"]
    assert [len(table) for table in tables(rows).values()] == [1, 2]
    with pytest.raises(ValueError, match="seed 0 is given twice"):
        leaderboard([files[0], files[0]])


# --- linear probe ---------------------------------------------------------------------------------------------------


def test_class_mass_is_the_share_of_pixels() -> None:
    label = np.array([[1, 1, 4, 255], [1, 4, 4, 4]], np.int32)
    mass = readout.class_mass(label, (1, 2), [4, 1])
    assert mass.tolist() == [[0.25, 0.75], [0.75, 0.0]]
    coarse = readout.class_mass(np.array([[4]], np.int32), (2, 2), [4])
    assert coarse.sum() == 1  # a grid finer than the label: the one pixel lies in one cell


def test_probe_agrees_with_an_independent_solver() -> None:
    """scikit-learn minimises C * sum of losses + |w|^2 / 2 on the same standardised data."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600)
    x = (rng.standard_normal((600, 5)) * [1, 9, 1, 0.1, 1] + np.eye(5)[truth] * 1.5 + 20).astype(np.float32)
    model, diagnostics = linear_probe.fit(x, np.eye(3, dtype=np.float32)[truth])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    reference = LogisticRegression(C=1 / (2 * linear_probe.PENALTY * 600), tol=1e-7, max_iter=2000).fit(z, truth)
    scores = np.moveaxis(model.scores(x[None]), 0, 2)[0]
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    assert np.abs(shares - reference.predict_proba(z)).max() < 5e-3
    assert diagnostics["gradient"] < 1e-4


def test_the_probe_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multinomial, "ROWS", 64)
    draws = np.random.default_rng(0)
    x = draws.standard_normal((500, 12)).astype(np.float32)
    y = draws.random((500, 4)).astype(np.float32)
    one, two = (linear_probe.fit(x, y, threads, "cpu") for threads in (1, 2))
    assert one[1] == two[1]
    np.testing.assert_array_equal(one[0].weight, two[0].weight)
    np.testing.assert_array_equal(one[0].bias, two[0].bias)
    monkeypatch.setattr(multinomial, "ROWS", 500)
    whole = linear_probe.fit(x, y, 1, "cpu")
    np.testing.assert_allclose(one[0].weight, whole[0].weight, atol=2e-4)


def test_split_is_stable_and_complete() -> None:
    ids = [f"im/{i}" for i in range(200)]
    train, test = readout.split(ids)
    assert sorted(train + test) == sorted(ids)
    assert 60 < len(train) < 140
    assert readout.split([*ids[::-1], "new"])[0] == sorted({*train, *readout.split(["new", *ids])[0]})
    with pytest.raises(InputError, match="all in one half"):
        readout.split(["a"])


def test_argmax_in_strips_is_the_argmax(monkeypatch: pytest.MonkeyPatch) -> None:
    from maskmill.images.interpolate import resize_maps

    scores = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
    monkeypatch.setattr(readout, "STRIP", 200)
    assert (readout.argmax_at(scores, (20, 33)) == resize_maps(scores, (20, 33)).argmax(axis=0)).all()


def write_features(folder: Path) -> None:
    """Features that tell the class of every token linearly, of 8 labelled images."""
    rng = np.random.default_rng(1)
    tokens = {f"i{n}": rng.integers(0, 3, (4, 6)) for n in range(8)}
    write_run(folder, {i: (grid, np.kron(grid, np.ones((5, 5), int)) + 4) for i, grid in tokens.items()})
    for shard in ("s0", "s1"):
        mine = [i for n, i in enumerate(tokens) if f"s{n % 2}" == shard]
        with RaggedWriter(folder / f"set/{shard}.zarr", "features", depth=6, dtype="float32") as out:
            for i in mine:
                out.append(i, np.eye(6)[tokens[i]] * 3 + rng.standard_normal((4, 6, 6)) * 0.1)


def test_probe_reads_linear_features(tmp_path: Path) -> None:
    write_features(tmp_path)
    stores = [tmp_path / "set/s0.zarr", tmp_path / "set/s1.zarr"]
    for name in ("one", "two"):
        readout.read_out(
            readout.Asked("linear_probe"), stores, tmp_path / "manifest.parquet", {}, tmp_path / f"{name}.json"
        )
    body = read_json(tmp_path / "one.json")
    assert body == read_json(tmp_path / "two.json")
    entry = body["scores"][0]
    assert body["features"] == "set"
    assert entry["protocol"]["name"] == "linear_probe"
    assert entry["protocol"]["images"] + entry["protocol"]["details"]["train_images"] == 8
    assert entry["miou"] > 0.6  # interpolation between random neighbours costs the cells' borders
    assert leaderboard([body])[0].recipe == "set"
