"""Boundaries of classes: closed forms, pixel by pixel, void, matchings, and how they are written and shown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from maskmill.errors import ConfigError
from maskmill.evaluate.boundary import NONE, VOID, boundary, compared, met
from maskmill.evaluate.run import run
from maskmill.evaluate.run_objects import run as run_objects
from maskmill.images.masks import MaskSet
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Evaluate
from maskmill.report import _scores
from maskmill.store.artefact import read_json, write_table
from maskmill.store.manifest import Row
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter


def halves(column: int, width: int = 40, height: int = 20) -> np.ndarray:
    """Class 0 left of a column, 1 from it on."""
    return np.broadcast_to((np.arange(width) >= column).astype(int), (height, width)).copy()


@pytest.mark.parametrize(("shift", "wanted"), [(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.0)])
def test_a_straight_boundary_is_met_within_the_reach_and_not_beyond(shift: int, wanted: float) -> None:
    found = compared(halves(20 + shift), halves(20), 2, 2.0)
    np.testing.assert_array_equal(found, np.full((2, 3), wanted))


def test_a_false_island_costs_precision_and_a_missed_one_recall() -> None:
    """A square of 4 x 4 has 12 pixels of boundary, all far from the 20 of the line."""
    plain, island = halves(10), halves(10)
    island[8:12, 25:29] = 0
    found = compared(island, plain, 2, 1.0)
    assert found[0].tolist() == pytest.approx([20 / 32, 1.0, 2 * (20 / 32) / (1 + 20 / 32)])
    assert compared(plain, island, 2, 1.0)[0].tolist() == pytest.approx([1.0, 20 / 32, 2 * (20 / 32) / (1 + 20 / 32)])


def test_a_side_without_a_boundary_is_right_in_all_of_none() -> None:
    assert compared(np.zeros((20, 40), int), halves(20), 2, 1.0).tolist() == [[1.0, 0.0, 0.0]] * 2
    assert np.isnan(compared(np.zeros((4, 4), int), np.zeros((4, 4), int), 3, 1.0)).all()


def test_void_has_no_boundary_and_the_border_is_none() -> None:
    truth = halves(20)
    truth[:, 18:22] = VOID
    edges = boundary(truth == 0, truth != VOID)
    assert not edges.any()
    assert boundary(halves(20) == 0, np.ones((20, 40), bool)).sum() == 20
    assert np.isnan(compared(halves(20), truth, 2, 1.0)[:, 2]).all()  # what is predicted within void does not count


def slow(found: np.ndarray, wanted: np.ndarray, classes: int, reach: float) -> list[list[float]]:
    """The definitions, pixel by pixel and pair by pair."""

    def edge(values: np.ndarray, c: int) -> list[tuple[int, int]]:
        height, width = values.shape
        pixels = []
        for y in range(height):
            for x in range(width):
                if values[y, x] != c or wanted[y, x] == VOID:
                    continue
                near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
                near = [(i, j) for i, j in near if 0 <= i < height and 0 <= j < width and wanted[i, j] != VOID]
                if any(values[i, j] != c for i, j in near):
                    pixels.append((y, x))
        return pixels

    def share(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> float:
        if not one:
            return 1.0
        return sum(any(math.dist(p, q) <= reach for q in other) for p in one) / len(one)

    out = []
    for c in range(classes):
        mine, theirs = edge(found, c), edge(wanted, c)
        if not mine and not theirs:
            out.append([math.nan] * 3)
            continue
        p, r = share(mine, theirs), share(theirs, mine)
        out.append([p, r, 2 * p * r / (p + r) if p + r else 0.0])
    return out


@pytest.mark.parametrize("seed", range(6))
def test_pixel_by_pixel(seed: int) -> None:
    draws = np.random.default_rng(seed)
    found = draws.integers(0, 3, (4, 5)).repeat(3, 0).repeat(3, 1)
    wanted = draws.integers(0, 3, (3, 5)).repeat(4, 0).repeat(3, 1)
    found[draws.random(found.shape) < 0.1] = NONE
    wanted[draws.random(found.shape) < 0.1] = VOID
    np.testing.assert_allclose(compared(found, wanted, 3, 1.5), slow(found, wanted, 3, 1.5))


def test_met_by_nothing() -> None:
    some, none = np.eye(3, dtype=bool), np.zeros((3, 3), bool)
    assert (met(some, none, 9.0), met(none, some, 9.0), met(some, some, 0.0)) == (0.0, 1.0, 1.0)


# --- in a run ---------------------------------------------------------------------------------------------------------


def written(folder: Path) -> Path:
    """Two images with labels 1 and 2, their halves found as clusters 1 and 2; in the second a third one."""
    labels = {"a": halves(20) + 1, "b": halves(20) + 1}
    masks = {"a": halves(20) + 1, "b": halves(20) + 1}
    masks["b"][5:15, 30:35] = 3
    rows = []
    for name, label in labels.items():
        Image.fromarray(label.astype(np.uint8)).save(folder / f"{name}.png")
        rows.append(Row(name, str(folder / f"{name}.jpg"), 40, 20, "s0", str(folder / f"{name}.png")))
    write_table(folder / "manifest.parquet", pa.table({k: [getattr(r, k) for r in rows] for k in Row.__annotations__}))
    made = Provenance.of("paint", {}, [])
    with RaggedWriter(
        folder / "s0.zarr", "masks", depth=None, dtype="uint8", attrs={"clusters": 3, "ignore": 255}, provenance=made
    ) as writer:
        for name, mask in masks.items():
            writer.append(name, mask.astype(np.uint8))
    return folder / "manifest.parquet"


def test_each_matching_has_its_boundaries_in_a_table_of_its_own(tmp_path: Path) -> None:
    manifest, out = written(tmp_path), tmp_path / "scores.json"
    section: dict[str, Any] = {"protocols": ["hungarian_counts", "many_to_one", "oracle_per_image"], "boundary": True}
    run([tmp_path / "s0.zarr"], manifest, section, out, MaskSet("r", 0, 0))
    body = read_json(out)
    found = {each["protocol"]["name"]: each for each in body["boundary"]}
    assert list(found) == ["boundary_hungarian_counts", "boundary_many_to_one"]  # an oracle has no matching of the set
    merged, apart = found["boundary_many_to_one"], found["boundary_hungarian_counts"]
    assert merged["boundary_f"] == 1.0  # the third cluster is class 2, too
    assert apart["boundary_recall"] == 1.0
    assert apart["per_class"]["1"] == 1.0
    edge = 2 * 10 + 2 * 5  # pixels of class 2 beside the hole of 10 x 5
    precision = 20 / (20 + edge)
    assert apart["per_class"]["2"] == pytest.approx((1 + 2 * precision / (1 + precision)) / 2)
    assert apart["protocol"]["hash"] != merged["protocol"]["hash"]
    assert apart["protocol"]["details"]["tolerance"] == 0.0075
    boards = _scores.boards(_scores.read_boundaries([body]))
    assert [board.title for board in boards] == [
        "Boundaries of classes. Hungarian matching on pixel counts", "Boundaries of classes. Many to one",
    ]  # fmt: skip
    assert boards[0].titles == ["Boundary F", "Precision", "Recall"]
    del section["boundary"]
    run([tmp_path / "s0.zarr"], manifest, section, tmp_path / "plain.json", MaskSet("r", 0, 0))
    plain = read_json(tmp_path / "plain.json")
    assert plain["scores"] == body["scores"]
    assert "boundary" not in plain


def test_sections_without_the_key_are_as_before_and_bad_values_are_said() -> None:
    assert "boundary" not in Evaluate().model_dump(mode="json")
    assert validate(Evaluate, {"boundary": True}, "x").model_dump(mode="json")["boundary"] == {"tolerance": 0.0075}
    with pytest.raises(ConfigError, match=r"boundary.tolerance: Input should be less than 1, found 3"):
        validate(Evaluate, {"boundary": {"tolerance": 3}}, "config", "evaluate")


# --- the oracle of a cut's segments, in a table of its own ------------------------------------------------------------


def test_segments_of_a_cut_are_matched_anew_in_each_image_beside_no_other_score(tmp_path: Path) -> None:
    """The halves swapped, and one half in two segments, of which the larger has the class."""
    manifest, out = written(tmp_path), tmp_path / "objects.json"
    made = Provenance.of("cut", {}, [])
    swapped, parted = 2 - halves(20), halves(20)
    parted[:5, 20:] = 2
    with RaggedWriter(
        tmp_path / "cut.zarr", "segments", depth=None, dtype="uint8", attrs={}, provenance=made
    ) as writer:
        writer.append("a", swapped.astype(np.uint8), confidence=np.float32(1))
        writer.append("b", parted.astype(np.uint8), confidence=np.float32(1))
    run_objects([tmp_path / "cut.zarr"], manifest, {"objects": {"metrics": ["mbo", "oracle"]}}, out, "r")
    body = read_json(out)
    (entry,) = body["oracle"]
    assert entry["protocol"]["name"] == "oracle_per_image"
    assert entry["protocol"]["details"] == {"oracle": True, "of": "segments of a cut"}
    assert entry["accuracy"] == 1500 / 1600
    assert entry["per_class"] == {"1": 1.0, "2": 700 / 800}
    assert entry["unmatched"] == 100 / 1600
    assert "matching" not in entry
    (board,) = _scores.boards(_scores.read_oracles([body | {"recipe": "r"}]))
    assert board.title.startswith("Matched anew in each image (an oracle")
    assert board.rows[0].leads[:2] == ("r", "cut")
    run_objects([tmp_path / "cut.zarr"], manifest, {"objects": {"metrics": ["mbo"]}}, out, "r")
    assert "oracle" not in read_json(out)
    assert read_json(out)["scores"] == body["scores"]
