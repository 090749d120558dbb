"""bench/pretrain.py: read-outs against loops and closed forms, what is held out, and the sections of trainings."""

from __future__ import annotations

import itertools
from collections import Counter
from types import ModuleType
from typing import Any

import bench_module
import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def readouts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The read-outs."""
    return bench_module.load("_pretrain_readouts", monkeypatch)


@pytest.fixture
def scoring(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Photos to arrays."""
    return bench_module.load("_pretrain_score", monkeypatch)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_neighbours_vote_as_in_a_loop(readouts: ModuleType) -> None:
    draws = np.random.default_rng(0)
    classes = draws.integers(0, 3, 60)
    vectors = draws.normal(size=(60, 5)) + 1.5 * np.eye(3, 5)[classes]
    hits = 0
    for i in range(60):
        near = sorted((j for j in range(60) if j != i), key=lambda j: -cosine(vectors[i], vectors[j]))[:5]
        votes = Counter(classes[near].tolist())
        sums = {c: sum(cosine(vectors[i], vectors[j]) for j in near if classes[j] == c) for c in votes}
        hits += max(votes, key=lambda c: (votes[c], sums[c])) == classes[i]
    assert 40 < 100 * hits / 60 < 95  # neither nothing nor all
    assert readouts.neighbour_accuracy(vectors, classes, 5) == pytest.approx(100 * hits / 60)


def test_a_vector_is_no_neighbour_of_its_own(readouts: ModuleType) -> None:
    """Two of a kind and one alone: the one that is alone is always wrong."""
    vectors = np.array([[1, 0], [1, 0.1], [0, 1.0]])
    assert readouts.neighbour_accuracy(vectors, np.array([0, 0, 1]), 1) == pytest.approx(200 / 3)
    assert readouts.majority(np.array([0, 0, 1])) == pytest.approx(200 / 3)


def test_the_animal_with_the_most_pixels(readouts: ModuleType) -> None:
    label = np.array([[0, 0, 0, 12], [8, 8, 15, 15], [15, 15, 12, 12]])
    assert readouts.animal(label, (8, 10, 12)) == 2
    assert readouts.animal(label, (10, 13)) == -1


def test_clusters_that_are_the_classes(readouts: ModuleType) -> None:
    """Tokens of three directions: K = 3 finds the classes; a class without a cell does not count."""
    draws = np.random.default_rng(1)
    classes = draws.integers(0, 3, (6, 4, 4))
    tokens = (np.eye(3, 8)[classes] + draws.normal(0, 0.01, (6, 4, 4, 8))).astype(np.float16)
    found = readouts.cluster_scores(tokens, classes.astype(np.uint8), 3, 4, seed=0)
    assert set(found) == {"hungarian_counts", "many_to_one"}
    for rule in found.values():
        assert rule == {"miou": pytest.approx(100), "accuracy": pytest.approx(100)}
    again = readouts.cluster_scores(tokens, classes.astype(np.uint8), 9, 4, seed=0)
    assert set(again) == {"many_to_one"}


def test_void_cells_are_not_counted(readouts: ModuleType) -> None:
    tokens = np.array([[[[1, 0], [0, 1]]]], np.float16)
    book = readouts.Codebook(np.eye(2, dtype=np.float32), np.ones(2, np.int64), 0.0, True)
    labels = np.array([[[0, 255], [1, 1]]], np.uint8)
    counts = readouts.confusion(tokens, labels, book, 2)
    np.testing.assert_array_equal(counts, [[1, 1], [0, 1]])


def test_a_collapsed_network_is_one_cluster(readouts: ModuleType) -> None:
    tokens = np.ones((2, 3, 3, 4), np.float16)
    labels = np.zeros((2, 3, 3), np.uint8)
    labels[1] = 1
    found = readouts.cluster_scores(tokens, labels, 4, 2, seed=0)
    assert found["many_to_one"] == {"miou": pytest.approx(25), "accuracy": pytest.approx(50)}


def test_frames_are_found_at_another_time_as_in_a_loop(readouts: ModuleType) -> None:
    draws = np.random.default_rng(2)
    drives, frames = ["a"] * 12 + ["b"] * 8, [*range(0, 120, 10), *range(0, 80, 10)]
    vectors = draws.normal(size=(20, 3)) + np.array([[2.0 * (d == "a"), 2.0 * (d == "b"), f / 60] for d, f in
                                                     zip(drives, frames, strict=True)])  # fmt: skip
    for within in (None, 50):
        hits, chance = [], []
        for i in range(20):
            there = [j for j in range(20) if drives[j] != drives[i] or abs(frames[j] - frames[i]) >= 30]
            right = [
                j for j in there if drives[j] == drives[i] and (within is None or abs(frames[j] - frames[i]) <= within)
            ]
            hits.append(max(there, key=lambda j: cosine(vectors[i], vectors[j])) in right)
            chance.append(len(right) / len(there))
        found = readouts.scene_retrieval(vectors, drives, frames, within=within)
        assert found == pytest.approx((100 * np.mean(hits), 100 * np.mean(chance)))
        assert 0 < found[1] < found[0] < 100


def test_frames_without_a_right_candidate_are_not_asked(readouts: ModuleType) -> None:
    """The only frame of its drive can not be found; that of the others is."""
    vectors = np.array([[1, 0], [1, 0.1], [0, 1.0]])
    assert readouts.scene_retrieval(vectors, ["a", "a", "b"], [0, 90, 0]) == pytest.approx((100, 50))


def test_views_find_their_photos(readouts: ModuleType) -> None:
    photos = np.eye(4)
    assert readouts.view_retrieval(photos[[0, 1, 3, 2]], photos) == pytest.approx(50)


def test_numbers_of_frames(scoring: ModuleType) -> None:
    assert scoring.drive_and_number("0006R0_f00930") == ("0006R0", 930)
    assert scoring.drive_and_number("0016E5_07959") == ("0016E5", 7959)


def test_cells_have_the_class_of_their_centre(scoring: ModuleType) -> None:
    label = np.array([[8, 8, 0, 0], [8, 8, 0, 0], [15, 15, 7, 7], [15, 15, 7, 7]])
    found = scoring.cell_labels(label, (2, 2), (0, 8, 15))
    np.testing.assert_array_equal(found, [[1, 0], [2, 255]])


def test_another_view_is_a_part_under_another_light(scoring: ModuleType) -> None:
    """A photo whose red says the row and whose green says the column: the view shows neighbouring ones of both."""
    ramp = np.arange(200, dtype=np.uint8)
    photo = np.stack([*np.meshgrid(ramp, ramp, indexing="ij"), np.full((200, 200), 100, np.uint8)], axis=2)
    view = scoring.other_view(photo, "a", 0, 64)
    assert view.shape == (64, 64, 3)
    assert (np.diff(view[..., 0].astype(int).mean(axis=1)) >= 0).all()
    assert (np.diff(view[..., 1].astype(int).mean(axis=0)) >= 0).all()
    np.testing.assert_array_equal(view, scoring.other_view(photo, "a", 0, 64))
    assert (view != scoring.other_view(photo, "b", 0, 64)).any()


def test_held_out_photos_are_not_trained_on(
    scoring: ModuleType, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("camvid", "ecssd"):
        (tmp_path / name / "images").mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4)).save(tmp_path / name / "images" / f"{i}.png")
    (tmp_path / "camvid/train.txt").write_text("0\n1\n4\n")
    (tmp_path / "camvid/val.txt").write_text("2\n3\n")
    monkeypatch.setenv("MASKMILL_DATA", str(tmp_path))
    for name, train, held in (("camvid", "014", "23"), ("ecssd", "024", "13")):
        parts = scoring.halves(name)
        assert ["".join(p.stem for p in part) for part in parts] == [train, held]
        assert scoring.scored_photos(name, True) == parts[1]
    assert len(scoring.scored_photos("ecssd", False)) == 5
    assert len(scoring.scored_photos("camvid", False)) == 2


def test_the_section_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe, then the preset, then what is given; the side is that of the large crops."""
    training = bench_module.load("_pretrain_train", monkeypatch)
    found = training.section_of("dino", "small", {"steps": 7}, 64)
    assert (found["method"], found["steps"], found["crop"], found["start"]) == ("dino", 7, 64, "scratch")
    assert found["prototypes"] == 1024  # the preset's


def test_quarters_are_kept_and_the_passes_of_a_step_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A training of eight steps on six photos: three copies, of which the first is not the last; DINO's passes."""
    training = bench_module.load("_pretrain_train", monkeypatch)
    from maskmill.backbones import weights_file

    draws = np.random.default_rng(0)
    (tmp_path / "data/ecssd/images").mkdir(parents=True)
    for i in range(6):
        Image.fromarray(draws.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / f"data/ecssd/images/{i}.png")
    monkeypatch.setenv("MASKMILL_DATA", str(tmp_path / "data"))
    small = {
        "batch_size": 4,
        "micro_batch": 2,
        "crop": 32,
        "local_crop": 16,
        "local_crops": 2,
        "prototypes": 16,
        "hidden": 8,
    }
    section = training.section_of("dino", "small", small | {"steps": 8, "bottleneck": 4}, None)
    asked = training.Trained("vit_tiny_patch16_224", section, tmp_path / "work", False, ["ecssd"], quarters=2)
    assert training.train(asked) == ""
    assert [path.stem for path in asked.copies()] == ["copy-00000000", "copy-00000004", "copy-00000008"]
    states = [weights_file.read(path)[0]["blocks.0.attn.qkv.weight"] for path in asked.copies()]
    assert all((a != b).any() for a, b in itertools.pairwise(states))
    seen = training.Seen()
    with training._recorded(seen):
        files = training.pretrain.PretrainFiles(tmp_path / "again.safetensors")
        training.pretrain.fit(training.source_of(asked), files, training.Resources(1, "cpu", 0))
    assert len(seen.begun) == 8
    of_a_micro_batch = {((2, 3, 32, 32), False): 2, ((2, 3, 32, 32), True): 2, ((2, 3, 16, 16), True): 2}
    assert Counter((one.shape, one.learns) for one in seen.calls) == {k: 16 * n for k, n in of_a_micro_batch.items()}
    same = weights_file.read(tmp_path / "again.safetensors")[0]["blocks.0.attn.qkv.weight"]
    assert (same == states[-1]).all()  # copies and notes change nothing
