"""Round logic: which images and cells feed a round, where a student starts, its class ids, and when to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from token_students import IDS, SMALL, fit, noisy, scene, write_world

from maskmill.errors import ConfigError, NumericsError
from maskmill.images.interpolate import resize_maps, upsample_scores, upsample_softmax
from maskmill.recipe.sections import Rounds
from maskmill.rounds import _logic, token_head
from maskmill.rounds._logic import History
from maskmill.rounds._masks import Masks, changed_share
from maskmill.rounds.infer import Student
from maskmill.rounds.run import MaskFiles, Round, Sources, StudentFiles, predict, train
from maskmill.store.artefact import read_json, read_tensors, write_table
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.resources import Resources


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_world(tmp_path_factory.mktemp("world"), [IDS[:5], IDS[5:]])


@pytest.fixture(scope="module")
def first(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with round 1: student.safetensors, masks/ and confidence/ of both shards."""
    folder = tmp_path_factory.mktemp("round1")
    fit(world, folder / "student.safetensors")
    for s in (0, 1):
        view = {name: paths[s] for name, paths in world["features"].items()}
        out, sure = folder / f"masks/{s}.zarr", folder / f"confidence/{s}.zarr"
        predict(folder / "student.safetensors", view, MaskFiles(out, sure))
    return folder


def stores(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.zarr"))


def second(world: dict[str, Any], first: Path, out: Path, history: History, **options: Any) -> Path:
    """Train round 2 on the masks of round 1."""
    params = SMALL | {"steps": 20} | options
    masks = stores(first / "masks")
    timing = out.with_suffix(".json")
    train(
        Sources(world["features"]),
        masks,
        params,
        StudentFiles(out, timing),
        round=Round(2, 0, 2),
        history=history,
        resources=Resources(1, "cpu"),
    )
    return out


def write_assignments(path: Path, rows: list[tuple[str, int, int, float]]) -> Path:
    columns = zip(*rows, strict=True)
    table = pa.table(dict(zip(("image", "region", "cluster", "distance"), columns, strict=True)))
    write_table(path, table)
    return path


def test_the_surest_images_are_those_closest_within_their_clusters(tmp_path: Path) -> None:
    # Cluster 0 is tight, cluster 1 wide: distances are compared within a cluster only.
    rows = [
        ("a", 1, 0, 0.01),
        ("b", 1, 0, 0.02),
        ("c", 1, 1, 5.0),
        ("d", 1, 1, 9.0),
        ("d", 2, 0, 0.03),
        ("e", 1, 1, 7.0),
    ]
    whole = [write_assignments(tmp_path / "w.parquet", rows)]
    split = [write_assignments(tmp_path / f"{i}.parquet", rows[i::2]) for i in (1, 0)]
    # Ranks: a 1/6 (of 3), b 3/6, d 5/6; c 1/6, e 3/6, d 5/6.
    for share, expected in (
        (0.4, {"a", "c"}),
        (0.5, {"a", "b", "c"}),
        (0.8, {"a", "b", "c", "e"}),
        (1.0, set("abcde")),
    ):
        logic = Rounds(images="surest", share=share)
        assert _logic.surest_images(logic, 1, History(assignments=whole)) == set(expected)
        assert _logic.surest_images(logic, 1, History(assignments=split)) == set(expected)
    # Ignored regions and background of a taxonomy are no classes: they change no rank, and feed nothing alone.
    aside = [("a", 2, -1, 0.9), ("c", 2, -2, 99.0), ("b", 2, -2, 0.0), ("f", 1, -1, 0.0), ("g", 1, -2, 0.0)]
    named = [write_assignments(tmp_path / "n.parquet", rows + aside)]
    for share in (0.4, 0.5, 0.8, 1.0):
        logic = Rounds(images="surest", share=share)
        plain = _logic.surest_images(logic, 1, History(assignments=whole))
        assert _logic.surest_images(logic, 1, History(assignments=named)) == plain
    assert _logic.surest_images(Rounds(images="surest"), 2, History()) is None
    with pytest.raises(ConfigError, match="surest needs the regions' distances"):
        _logic.surest_images(Rounds(images="surest"), 1, History())


def test_only_the_chosen_images_feed_the_first_round(world: dict[str, Any], tmp_path: Path) -> None:
    rows = [(image_id, 1, 0, float(i)) for i, image_id in enumerate(reversed(IDS))]
    tables = [write_assignments(tmp_path / "a.parquet", rows)]
    params = SMALL | {"images": "surest", "share": 0.5, "steps": 3}
    out = tmp_path / "s.safetensors"
    train(
        Sources(world["features"]),
        world["masks"],
        params,
        StudentFiles(out),
        round=Round(1, 0, 2),
        history=History(assignments=tables),
        resources=Resources(1, "cpu"),
    )
    tensors, provenance = read_tensors(out)
    assert provenance["params"]["diagnostics"]["images"] == 6
    expected = sum(np.bincount(noisy(scene(i)[0], i).ravel(), minlength=256)[:3] for i in IDS[6:])
    np.testing.assert_array_equal(tensors["cells"], expected)


def test_predicted_masks_are_complete_and_confidence_lies_beside(world: dict[str, Any], first: Path) -> None:
    model = Student.load(first / "student.safetensors")
    masks, sure = Ragged(first / "masks/1.zarr", "masks"), Ragged(first / "confidence/1.zarr", "confidence")
    assert masks.ids == sure.ids == IDS[5:]
    tokens = {name: Ragged(paths[1])[IDS[7]] for name, paths in world["features"].items()}
    p = softmax(model.logits(tokens), axis=0)
    np.testing.assert_array_equal(masks[IDS[7]], p.argmax(0))
    np.testing.assert_allclose(sure[IDS[7]] / 255, p.max(0), atol=1 / 255 + 1e-6)
    assert (masks.rows(0, int(masks.offsets[-1])) < 3).all()  # nothing is ignore


@given(seed=st.integers(0, 999), classes=st.integers(1, 150), factor=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_streamed_softmax_is_the_plain_one(seed: int, classes: int, factor: int) -> None:
    logits = 20 * np.random.default_rng(seed).standard_normal((classes, 3, 4)).astype(np.float32)
    label, best = upsample_softmax(logits, factor)
    np.testing.assert_array_equal(label, upsample_scores(logits, factor))
    plain = softmax(resize_maps(logits, (3 * factor, 4 * factor)).astype(np.float64), axis=0).max(0)
    np.testing.assert_allclose(best, plain, rtol=1e-4)


def test_unsure_cells_do_not_feed_the_next_round(world: dict[str, Any], first: Path, tmp_path: Path) -> None:
    sure = stores(first / "confidence")
    values = np.concatenate([Ragged(path).rows(0, int(Ragged(path).offsets[-1])) for path in sure])
    labels = np.concatenate([Ragged(p).rows(0, int(Ragged(p).offsets[-1])) for p in stores(first / "masks")])
    threshold = float(np.median(values[labels > 0])) / 255 + 1e-4
    out = second(world, first, tmp_path / "s.safetensors", History(confidence=sure), confidence=threshold)
    expected = np.bincount(labels[values >= threshold * 255], minlength=3)
    np.testing.assert_array_equal(read_tensors(out)[0]["cells"], expected)
    assert 0 < expected.sum() < len(labels)
    taught = Masks(stores(first / "masks"), 3, sure=sure, confidence=threshold)
    mask, level = Ragged(first / "masks/0.zarr")[IDS[2]], Ragged(sure[0])[IDS[2]]
    np.testing.assert_array_equal(taught[IDS[2]], np.where(level >= threshold * 255, mask, 255))
    taught.hold(1)
    np.testing.assert_array_equal(taught[IDS[2]], np.where(level >= threshold * 255, mask, 255))


def test_a_student_can_go_on_from_the_one_before(world: dict[str, Any], first: Path, tmp_path: Path) -> None:
    history = History(student=first / "student.safetensors")
    few = {"max_fit_points": 200}
    fresh = read_tensors(second(world, first, tmp_path / "f.safetensors", history, **few))[0]
    on = read_tensors(second(world, first, tmp_path / "c.safetensors", history, start="continue", **few))[0]
    before = read_tensors(first / "student.safetensors")[0]
    assert fresh["loss"][0] == pytest.approx(np.log(3), rel=1e-3)
    assert on["loss"][0] < 0.5 * fresh["loss"][0]
    np.testing.assert_array_equal(on["a.weight"], before["a.weight"])  # weights make sense with their projections only
    assert not np.array_equal(fresh["a.weight"], before["a.weight"])


@given(seed=st.integers(0, 999), clusters=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_matching_finds_any_permutation(seed: int, clusters: int) -> None:
    rng = np.random.default_rng(seed)
    new = np.concatenate([[0], 1 + rng.permutation(clusters)])
    overlap = rng.integers(0, 10, (clusters + 1, clusters + 1))
    overlap[np.arange(clusters + 1), new] += 1000
    np.testing.assert_array_equal(_logic.matched_ids(overlap), new)


def test_classes_that_never_meet_keep_their_ids() -> None:
    np.testing.assert_array_equal(_logic.matched_ids(np.zeros((5, 5), np.int64)), np.arange(5))
    swapped = np.zeros((5, 5), np.int64)
    swapped[1, 3] = swapped[3, 1] = 7
    np.testing.assert_array_equal(_logic.matched_ids(swapped), [0, 3, 2, 1, 4])


def test_a_student_with_other_ids_is_renamed(
    world: dict[str, Any], first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that swaps the clusters: with `match: hungarian` its student speaks of the same classes as before."""
    plain = token_head.fit

    def swapping(*args: Any) -> Any:
        tensors, facts = plain(*args)
        return _logic.rename(tensors, token_head.CLASSIFIER, np.array([0, 2, 1])), facts

    monkeypatch.setattr(token_head, "fit", swapping)
    drifted = Student.load(second(world, first, tmp_path / "n.safetensors", History(), steps=60))
    matched = Student.load(second(world, first, tmp_path / "m.safetensors", History(), steps=60, match="hungarian"))
    tokens = scene(IDS[3])[1]
    mask = matched.mask(tokens)
    np.testing.assert_array_equal(drifted.mask(tokens), np.array([0, 2, 1])[mask])
    assert (mask == Ragged(first / "masks/0.zarr")[IDS[3]]).mean() > 0.95


def test_matching_leaves_a_student_of_the_same_ids_alone(world: dict[str, Any], first: Path, tmp_path: Path) -> None:
    plain = read_tensors(second(world, first, tmp_path / "n.safetensors", History()))[0]
    matched = read_tensors(second(world, first, tmp_path / "m.safetensors", History(), match="hungarian"))[0]
    for name, value in plain.items():
        np.testing.assert_array_equal(value, matched[name], err_msg=name)


def write_masks(path: Path, masks: dict[str, np.ndarray]) -> Path:
    with RaggedWriter(path, "masks", dtype="uint8") as out:
        for image_id, mask in masks.items():
            out.append(image_id, mask.astype(np.uint8))
    return path


def test_changed_share_counts_cells_known_in_both(tmp_path: Path) -> None:
    before = write_masks(tmp_path / "a.zarr", {"x": np.array([[1, 255], [0, 2]]), "y": np.array([[1, 1]])})
    after = write_masks(tmp_path / "b.zarr", {"x": np.array([[2, 1], [0, 255]]), "y": np.array([[1, 1]])})
    assert changed_share([before], [after]) == pytest.approx(1 / 4)
    fine = np.repeat(np.repeat(np.array([[1, 255], [0, 2]]), 2, 0), 2, 1)
    finer = write_masks(tmp_path / "c.zarr", {"x": fine, "y": np.array([[1, 1, 1, 2]])})
    assert changed_share([before], [finer]) == pytest.approx(1 / 16)
    ignored = write_masks(tmp_path / "d.zarr", {"x": np.full((2, 2), 255), "y": np.array([[255, 255]])})
    assert changed_share([before], [ignored]) == 1.0


def test_a_round_that_changes_little_hands_its_student_on(
    world: dict[str, Any], first: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    student, masks = first / "student.safetensors", stores(first / "masks")
    changed = changed_share(world["masks"], masks)
    history = History(student=student, earlier=world["masks"])
    on = second(world, first, tmp_path / "on.safetensors", history, stop=changed + 0.01)
    tensors, provenance = read_tensors(on)
    assert (provenance["params"]["round"], provenance["params"]["handed_on"]) == (2, 1)
    assert f"{100 * changed:.2f} % of the cells changed in round 1" in capfd.readouterr().err
    assert read_json(on.with_suffix(".json"))["handed_on"] == 1
    for name, value in read_tensors(student)[0].items():
        np.testing.assert_array_equal(value, tensors[name])
    other = second(world, first, tmp_path / "t.safetensors", history, stop=changed)
    assert "handed_on" not in read_tensors(other)[1]["params"]
    again = tmp_path / "again.safetensors"
    params = SMALL | {"stop": 0.001}
    same = History(student=on, earlier=masks)
    train(
        Sources(world["features"]),
        masks,
        params,
        StudentFiles(again),
        round=Round(3, 0, 2),
        history=same,
        resources=Resources(1, "cpu"),
    )
    assert read_tensors(again)[1]["params"]["handed_on"] == 1  # and so on for every later round


@pytest.mark.parametrize(
    ("value", "round_", "said"),
    [
        (255, 1, "every cell of these masks is ignore, there is nothing to learn from; raise paint.keep_closest"),
        (0, 1, "every known cell of these masks is background, there is nothing to learn from"),
        (0, 3, "background, round 3 has nothing to learn from; set rounds.count=1 to end before it"),
    ],
)
def test_masks_without_a_cluster_stop_with_the_reason(tmp_path: Path, value: int, round_: int, said: str) -> None:
    path = write_masks(tmp_path / "masks/0.zarr", {"x": np.full((2, 2), value)})
    with pytest.raises(NumericsError, match=said):
        Masks([path], 3, round=round_)


def test_a_filter_that_leaves_nothing_names_itself(tmp_path: Path) -> None:
    path = write_masks(tmp_path / "masks/0.zarr", {"x": np.full((2, 2), 1)})
    with RaggedWriter(tmp_path / "sure/0.zarr", "confidence", dtype="uint8") as out:
        out.append("x", np.full((2, 2), 100, np.uint8))
    with pytest.raises(NumericsError, match=r"is ignore, round 2 .*; lower rounds\.confidence \(now 0\.9\), or set"):
        Masks([path], 3, round=2, sure=[tmp_path / "sure/0.zarr"], confidence=0.9)


def test_a_student_that_sees_only_background_stops_the_run(
    world: dict[str, Any], first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = token_head.fit

    def blind(*args: Any) -> Any:
        tensors, facts = plain(*args)
        bias = np.array([1e4, 0, 0], np.float32)
        return tensors | {"head.classify.bias": bias}, facts

    monkeypatch.setattr(token_head, "fit", blind)
    with pytest.raises(NumericsError, match=r"student of round 2 predicts nothing but background.* rounds\.count=1"):
        second(world, first, tmp_path / "s.safetensors", History())
    assert not (tmp_path / "s.safetensors").exists()
