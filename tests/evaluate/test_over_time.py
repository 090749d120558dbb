"""Agreement of frames against scenes whose agreement is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ordered_frames import scene, write

from maskmill.dag.files import Graph
from maskmill.dag.jobs import Job, jobs, run_again
from maskmill.errors import ConfigError, InputError
from maskmill.evaluate.over_time import chosen, run, stranger
from maskmill.images.masks import MaskSet
from maskmill.recipe.resolve import load
from maskmill.store.artefact import read_json
from maskmill.store.manifest import Row

ROOT = Path(__file__).parents[2]
GRID = (14, 26)


def measured(folder: Path, **time: Any) -> dict[str, Any]:
    stores = [sorted((folder / kind).iterdir()) for kind in ("masks", "features")]
    params = {"time": {"order": "folder"} | time, "name": "semantic", "own": True}
    run(stores[0], stores[1], folder / "manifest.parquet", params, folder / "time.json", MaskSet("kmeans", 0, 0))
    return read_json(folder / "time.json")


def moving(steps: int, still: bool = False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A square that moves by its own width; with `still`, its mask stays behind."""
    scenes = [scene(GRID, [(4, 3 * t, 1, 2)]) for t in range(steps)]
    masks = [scenes[0][0] if still else mask for mask, _ in scenes]
    return masks, [tokens for _, tokens in scenes]


def test_masks_that_move_with_the_scene_agree_and_others_do_not(tmp_path: Path) -> None:
    write(tmp_path / "moves", *moving(7), cuts=(3,))
    found = measured(tmp_path / "moves")
    assert found["warped"] == 1.0
    assert found["covered"] == pytest.approx(1 - 9 / (GRID[0] * GRID[1]), abs=0.01)  # what is laid bare
    # Of the cells that are compared, the square has left nine; where it arrives, the ground's flow is not sure.
    assert found["same_place"] == pytest.approx(1 - 9 / (GRID[0] * GRID[1] - 9), abs=2e-3)
    assert found["warped_shuffled"] < 1
    assert (found["pairs"], found["sequences"], found["own_features"]) == (6, 1, True)
    write(tmp_path / "stays", *moving(7, still=True))
    stays = measured(tmp_path / "stays")
    assert stays["same_place"] == stays["same_place_shuffled"] == 1.0
    assert stays["warped"] < 1


def test_shards_do_not_matter(tmp_path: Path) -> None:
    found = []
    for cuts in [(), (1, 2, 5)]:
        write(tmp_path / f"{len(cuts)}", *moving(7), cuts=cuts)
        found.append({k: v for k, v in measured(tmp_path / f"{len(cuts)}").items() if k != "provenance"})
    assert found[0] == found[1]


def test_ignore_is_not_compared_and_two_frames_have_no_strangers(tmp_path: Path) -> None:
    masks, tokens = moving(2)
    masks[0][:, 13:] = 255
    write(tmp_path, masks, tokens)
    found = measured(tmp_path)
    assert found["warped"] == 1.0
    assert found["covered"] == pytest.approx((GRID[0] * 13 - 9) / (GRID[0] * GRID[1]), abs=0.03)
    assert (found["warped_shuffled"], found["same_place_shuffled"]) == (None, None)


def test_without_order_or_section(tmp_path: Path) -> None:
    write(tmp_path, *moving(3))
    with pytest.raises(InputError, match=r"evaluate\.time: no image follows another"):
        measured(tmp_path, order="files")
    with pytest.raises(ConfigError, match=r"evaluate\.time: off"):
        run([], [], tmp_path / "manifest.parquet", {}, tmp_path / "x.json", MaskSet("kmeans", 0, 0))
    with pytest.raises(ConfigError, match=r"evaluate\.time\.features: recipe kmeans has no feature set 'semantik'"):
        load({"recipes": ["kmeans"], "evaluate": {"time": {"features": "semantik"}}}, ROOT / "recipes")


def test_which_frames_are_compared() -> None:
    rows = [Row(f"a/{i}", "", 1, 1, "s", None) for i in range(10)]
    assert chosen({"a": rows}, 3) == [("a", 0), ("a", 3), ("a", 6)]
    assert len(chosen({"a": rows, "b": rows[:4]}, 99)) == 12
    for i in range(10):
        other = stranger(rows, i)
        assert other is not None
        assert abs(rows.index(other) - i) > 1


def test_it_is_off_and_runs_alone_when_it_is_turned_on() -> None:
    base = {"recipes": ["kmeans", "comus"], "preset": "small", "labels": "labels"}

    def made(config: dict[str, Any]) -> dict[str, Job]:
        return jobs(Graph(load(config, ROOT / "recipes"), lambda: ("s0000000000",)))

    off = made(base)
    assert not any("time" in job.depends for job in off.values() if job.rule.startswith("evaluate"))
    found = run_again(off, made(base | {"evaluate": {"time": True}}))
    assert {job.rule for job in found.values()} == {"evaluate_time", "report"}
    without = made({"recipes": ["kmeans"], "evaluate": {"time": True}})
    assert [job.depends for job in without.values() if job.rule == "evaluate_time"]
