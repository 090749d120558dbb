"""Quality without labels: what the report predicts from agreement, and what it does not know."""

from __future__ import annotations

import re
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_run
from report_page import check, report, text_of
from sklearn.metrics import adjusted_rand_score

from maskmill.images import sample as _sample
from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.images.sample import Sample
from maskmill.report import _quality
from maskmill.report._facts import mask_store
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter

IDS = tuple(f"image-{i}" for i in range(6))
GRID = (64, 64)  # that of the comparison, so that nothing is sampled


def masks_of(results: Path, recipe: str, seed: int, number: int, masks: dict[str, np.ndarray]) -> None:
    path = results / f"recipes/{recipe}/seed{seed}/round{number}/masks/s0.zarr"
    with RaggedWriter(path, "masks", dtype="uint8", provenance=Provenance.of("paint", {}), attrs={}) as out:
        for name, mask in masks.items():
            out.append(name, mask)


def scenes(seed: int = 0, values: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, values, GRID).astype(np.uint8) for name in IDS}


def noisy(masks: dict[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    return {
        n: np.where(rng.random(GRID) < share, rng.integers(0, 4, GRID), m).astype(np.uint8) for n, m in masks.items()
    }


def sample_of(results: Path) -> Sample:
    """All images, the first two of them in the gallery."""
    names = list(IDS)
    count = len(names)
    synthetic_run._manifest(results, names, ["s0"] * count, [f"/{n}.png" for n in names], [GRID] * count)
    found = _sample.read(results / "inputs/manifest.parquet", 2)
    assert found.measured == count
    return found


def measured(root: Path, runs: dict[tuple[str, int, int], dict[str, np.ndarray]]) -> dict[str, _quality.Row]:
    for (recipe, seed, number), masks in runs.items():
        masks_of(root, recipe, seed, number, masks)
    recipes = {key[0]: {"rounds": max(k[2] for k in runs if k[0] == key[0])} for key in runs}
    seeds = sorted({key[1] for key in runs})
    return {row.recipe: row for row in _quality.measure(root, recipes, seeds, sample_of(root))}


def test_what_most_recipes_say_ranks_first(tmp_path: Path) -> None:
    truth = scenes()
    renamed = {name: np.array([2, 0, 3, 1], np.uint8)[mask] for name, mask in noisy(truth, 0.2).items()}
    rows = measured(tmp_path, {("a", 0, 0): truth, ("b", 0, 0): renamed, ("c", 0, 0): scenes(5)})
    assert list(rows)[-1] == "c"
    flat = {r: np.concatenate([m.ravel() for m in masks.values()])
            for r, masks in (("a", truth), ("b", renamed), ("c", scenes(5)))}  # fmt: skip
    for name, row in rows.items():
        expected = np.mean([adjusted_rand_score(flat[name], flat[o]) for o in flat if o != name])
        assert row.predicted == row.others == pytest.approx(expected, abs=1e-12)
        assert (row.seeds, row.rounds, row.values) == (None, None, 4)


def test_seeds_and_rounds_are_shown_and_never_count(tmp_path: Path) -> None:
    truth = scenes()
    one = measured(tmp_path / "one", {("a", 0, 0): truth, ("a", 1, 0): truth})["a"]
    assert (one.predicted, one.seeds, one.others) == (None, 1, None)
    runs = {("a", s, r): truth for s in (0, 1) for r in (0, 1)}
    runs |= {(recipe, s, 0): scenes(3 + s) for recipe in "bc" for s in (0, 1)}
    rows = measured(tmp_path / "three", runs)
    assert (rows["a"].seeds, rows["a"].rounds) == (1, 1)
    assert abs(rows["a"].predicted or 1) < 0.01
    assert [row.predicted for row in rows.values()] == [row.others for row in rows.values()]
    assert rows["b"].others == pytest.approx(0.5, abs=0.01)  # c says the same, a nothing of it
    alone = measured(tmp_path / "alone", {("a", 0, 0): truth, ("a", 0, 1): noisy(truth, 0.3)})["a"]
    assert (alone.predicted, alone.classes, alone.images) == (None, [], [])
    assert alone.rounds is not None
    assert 0 < alone.rounds < 1


def test_two_recipes_agree_with_each_other_alike_so_neither_is_predicted(tmp_path: Path) -> None:
    rows = measured(tmp_path, {("a", 0, 0): scenes(), ("b", 0, 0): noisy(scenes(), 0.4)})
    assert rows["a"].others == rows["b"].others
    assert [row.predicted for row in rows.values()] == [None, None]


def test_one_set_of_masks_says_nothing_and_is_not_even_read(tmp_path: Path) -> None:
    recipes = {"a": {"rounds": 0}}
    assert _quality.measure(tmp_path, recipes, [0], sample_of(tmp_path)) == [
        _quality.Row("a", None, None, None, None, None, [], [])
    ]


def test_the_image_and_the_class_that_are_wrong_come_first(tmp_path: Path) -> None:
    truth = {name: np.repeat(np.arange(4, dtype=np.uint8), 1024).reshape(GRID) for name in IDS}
    other = {name: mask.copy() for name, mask in truth.items()}
    other["image-4"][other["image-4"] == 3] = 2
    other["image-5"][:] = 255  # nothing can be said of it
    row = measured(tmp_path, {("a", 0, 0): truth, ("b", 0, 0): other})["a"]
    assert [(i.id, i.agreement) for i in row.images[:2]] == [("image-4", 0.75), ("image-0", 1.0)]
    assert [image.place for image in row.images if image.id in ("image-0", "image-1")] == [0, None]
    assert "image-5" not in {image.id for image in row.images}
    assert [c.value for c in row.classes] == [3, 2, 0, 1]
    assert [c.agreement for c in row.classes] == pytest.approx([4 / 5, 5 / 6, 1, 1])
    assert all(c.share == 0.25 for c in row.classes)


def test_masks_that_are_all_ignored_cannot_be_compared(tmp_path: Path) -> None:
    nothing = {name: np.full(GRID, ignore_value(mask_dtype(4)), np.uint8) for name in IDS}
    rows = measured(tmp_path, {("a", 0, 0): scenes(), ("b", 0, 0): nothing})
    assert [row.others for row in rows.values()] == [None, None]
    assert rows["b"].values == 0


def test_maps_of_very_many_values_are_not_compared(tmp_path: Path) -> None:
    wide = np.arange(64 * 64).reshape(GRID)
    masks = {recipe: dict.fromkeys(IDS, wide % most) for recipe, most in (("a", _quality.LABELS), ("b", 3), ("c", 3))}
    masks["d"] = dict.fromkeys(IDS, wide % (_quality.LABELS + 1))
    for recipe, each in masks.items():
        path = tmp_path / f"recipes/{recipe}/seed0/round0/masks/s0.zarr"
        with RaggedWriter(path, "masks", dtype="uint16", provenance=Provenance.of("paint", {}), attrs={}) as out:
            for name, mask in each.items():
                out.append(name, mask.astype(np.uint16))
    found = _quality.measure(tmp_path, {recipe: {"rounds": 0} for recipe in masks}, [0], sample_of(tmp_path))
    rows = {row.recipe: row for row in found}
    assert list(rows)[-1] == "d"
    assert (rows["d"].others, rows["d"].images, rows["d"].values) == (None, [], _quality.LABELS + 1)
    assert rows["b"].others is not None
    assert 0.4 < rows["b"].others < 0.6  # that with a is near 0, that with c is 1, and d is left out
    assert len(rows["a"].classes) == _quality.CLASSES_SHOWN


def third(plan: dict[str, Any], results: Path) -> dict[str, Any]:
    """A third recipe in the plan, whose masks are those of `kmeans`."""
    shutil.copytree(results / "recipes/kmeans", results / "recipes/again")
    for store in (results / "recipes/again").glob("*/*/scores.json"):
        store.unlink()
    return plan | {"recipes": plan["recipes"] | {"again": plan["recipes"]["kmeans"]}}


def test_the_page_shows_the_figures_of_the_masks(tmp_path: Path) -> None:
    plan = third(synthetic_run.build(tmp_path), tmp_path / "results")
    html = report(tmp_path, plan)
    checker = check(html)  # every link into the gallery has its image
    part = html.split('id="quality"')[1].split("</article>")[0]
    assert {values["href"] for tag, values in checker.tags if tag == "a"} >= set(re.findall(r'href="([^"]*)"', part))
    assert "#image-0" in part
    sample = _sample.read(tmp_path / "results/inputs/manifest.parquet", 24)
    rows = _quality.measure(tmp_path / "results", plan["recipes"], [0, 1], sample)
    shown = re.findall(r'<tr class="first"><th scope="row">(\w+)</th><td class="n">\d+</td><td class="n">([^<]*)', part)
    assert shown == [(row.recipe, f"{row.predicted:.2f}") for row in rows]
    assert [row.recipe for row in rows] == ["kmeans", "again", "comus"]
    assert "different numbers of values" in part  # one of the recipes has background
    assert [row.rounds is None for row in rows] == [True, True, False]


def test_agreement_of_the_stored_masks_by_hand(tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path)
    sample = _sample.read(tmp_path / "results/inputs/manifest.parquet", 24)
    rows = {row.recipe: row for row in _quality.measure(tmp_path / "results", plan["recipes"], [0, 1], sample)}
    flat = []
    for seed in (0, 1):
        cells = []
        for shard, ids in sample.statistics.items():
            store = mask_store(tmp_path / "results", "kmeans", seed, 0, shard)
            cells += [store[store.index(image_id)] for image_id in ids]
        flat.append(np.concatenate([mask.ravel() for mask in cells]))
    expected = np.mean([adjusted_rand_score(a, b) for a, b in combinations(flat, 2)])
    assert rows["kmeans"].seeds == pytest.approx(expected, abs=0.01)  # masks and comparison have nearly one grid


@pytest.mark.parametrize(
    ("only", "said"),
    [(["kmeans"], "Not known"), (["comus"], "Predicted quality is not known"), (["kmeans", "comus"], "is not known")],
    ids=["one", "rounds", "two"],
)
def test_the_page_says_when_nothing_is_known(tmp_path: Path, only: list[str], said: str) -> None:
    plan: dict[str, Any] = synthetic_run.build(tmp_path, images=4, seeds=(0,))
    plan["recipes"] = {name: plan["recipes"][name] for name in only}
    part = report(tmp_path, plan).split('id="quality"')[1].split("</article>")[0]
    assert said in text_of(part)
    assert "A guess" not in part
    assert ("Doubtful in" in part) == (len(only) == 2)


def test_hostile_ids_are_text_in_the_list_of_doubtful_images(tmp_path: Path) -> None:
    bad = ["<script>alert(1)</script>", 'a"onmouseover="alert(2)', "c</article><b>"]
    html = report(tmp_path, synthetic_run.build(tmp_path, ids=bad))
    check(html)
    part = html.split('id="quality"')[1].split("</article>")[0]
    assert "&lt;script&gt;alert(1)" in part
    assert "c&lt;/article&gt;&lt;b&gt;" in part
    assert "<script" not in part
    assert not re.search(r"<[^>]*onmouseover", part)
