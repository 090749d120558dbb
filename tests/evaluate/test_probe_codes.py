"""The linear probe on the codes of a head: closed forms, seeds in leaderboard and report, jobs of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scored_run import write_run

from maskmill.evaluate import linear_probe, readout
from maskmill.evaluate.summary import leaderboard, tables
from maskmill.plan.artefacts import artefacts
from maskmill.plan.images import of_one_size
from maskmill.plan.jobs import jobs
from maskmill.recipe.resolve import load
from maskmill.report import _scores
from maskmill.store.artefact import read_json, write_json
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter

PHOTO = {(375, 500): 1.0}
RECIPES = Path(__file__).parents[2] / "recipes"
IDS = [f"i{n}" for n in range(8)]
MADE = Provenance.of("evaluate", {})


def labels() -> dict[str, np.ndarray]:
    """A class of 4, 5 and 6 a token; 4 is the largest in both halves."""
    rng = np.random.default_rng(3)
    return {i: rng.choice([4, 5, 6], (6, 9), p=[0.5, 0.3, 0.2]) for i in IDS}


def write_codes(folder: Path, codes: dict[str, np.ndarray]) -> list[Path]:
    """Stores of codes [h, w, c] under `adapt`, as the stage leaves them: two shards."""
    stores = [folder / "adapt/s0.zarr", folder / "adapt/s1.zarr"]
    for number, path in enumerate(stores):
        with RaggedWriter(path, "features", depth=next(iter(codes.values())).shape[2], dtype="float32") as out:
            for image_id in IDS[number::2]:
                out.append(image_id, codes[image_id])
    return stores


def probed(folder: Path, stores: list[Path], seed: int, recipe: str | None = "stego") -> dict[str, Any]:
    out = folder / f"{recipe}{seed}.json"
    asked = readout.Asked("linear_probe", seed, recipe)
    readout.read_out(asked, stores, folder / "manifest.parquet", {}, out)
    return read_json(out)


@pytest.fixture
def truth(tmp_path: Path) -> dict[str, np.ndarray]:
    """The labels, one pixel a token, written with a manifest."""
    found = labels()
    write_run(tmp_path, {i: (np.ones_like(label), label) for i, label in found.items()})
    return found


def test_one_hot_classes_are_read_without_error(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    stores = write_codes(tmp_path, {i: np.eye(3)[label - 4] for i, label in truth.items()})
    body = probed(tmp_path, stores, 1)
    assert {k: body[k] for k in ("recipe", "features", "dimensions", "seed")} == {
        "recipe": "stego", "features": "codes", "dimensions": 3, "seed": 1,
    }  # fmt: skip
    assert "round" not in body
    entry = body["scores"][0]
    assert (entry["miou"], entry["accuracy"]) == (1.0, 1.0)
    set_of_its_own = probed(tmp_path, stores, 0, recipe=None)
    assert (set_of_its_own["features"], "recipe" in set_of_its_own) == ("adapt", False)
    assert set_of_its_own["scores"][0]["protocol"] == entry["protocol"]  # comparable: the same split, the same rule


def test_a_constant_code_gives_the_largest_class(tmp_path: Path, truth: dict[str, np.ndarray]) -> None:
    stores = write_codes(tmp_path, {i: np.full((*label.shape, 2), 0.7) for i, label in truth.items()})
    entry = probed(tmp_path, stores, 0)["scores"][0]
    train, test = readout.split(IDS)
    classes, counts = np.unique(np.stack([truth[i] for i in train]), return_counts=True)
    share = float(np.mean(np.stack([truth[i] for i in test]) == classes[counts.argmax()]))
    assert entry["accuracy"] == pytest.approx(share)
    assert entry["miou"] == pytest.approx(share / 3)


def test_the_seed_draws_the_tokens(
    tmp_path: Path, truth: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_probe, "MAX_TOKENS", 60)
    noise = np.random.default_rng(0)
    stores = write_codes(tmp_path, {i: noise.standard_normal((*label.shape, 2)) for i, label in truth.items()})
    losses = [probed(tmp_path, stores, seed)["scores"][0]["diagnostics"]["loss"] for seed in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]


# --- leaderboard and report -------------------------------------------------------------------------------------------


def file_of(miou: float, seed: int, name: str = "linear_probe", **subject: Any) -> dict[str, Any]:
    entry = {"accuracy": miou, "miou": miou, "discovered": 2, "unmatched": 0.0, "per_class": {"x": miou}, "images": 4}
    return subject | {"seed": seed, "scores": [entry | {"protocol": {"name": name, "hash": name}}]}


def test_the_leaderboard_joins_the_seeds_of_codes_and_nothing_else() -> None:
    codes = [file_of(v, seed, recipe="stego", features="codes", dimensions=9) for seed, v in enumerate((0.2, 0.4))]
    masks = file_of(0.9, 0, "hungarian_iou", recipe="stego", round=0, clusters=3)
    both = tables(leaderboard([*codes, masks, file_of(0.25, 0, features="set"), file_of(0.5, 0, features="stego")]))
    probes = [(row.recipe, row.features, row.round, row.metrics["miou"].mean) for row in both["linear_probe"]]
    assert probes == [
        ("stego", "stego", None, 0.5),
        ("stego", "codes", None, pytest.approx(0.3)),
        ("set",) * 2 + (None, 0.25),
    ]
    stat = both["linear_probe"][1].metrics["miou"]
    assert (stat.n, stat.sd) == (2, pytest.approx(np.std([0.2, 0.4], ddof=1)))
    assert [(row.recipe, row.features, row.round) for row in both["hungarian_iou"]] == [("stego", None, 0)]


def test_the_report_puts_codes_below_the_features_that_they_were_learnt_on(tmp_path: Path) -> None:
    write_json(
        tmp_path / "evaluate/linear_probe/one.json",
        file_of(0.25, 0, features="one", dimensions=384),
        Provenance.of("evaluate", {}),
    )
    write_json(
        tmp_path / "evaluate/linear_probe/two.json",
        file_of(0.5, 0, features="two", dimensions=12),
        Provenance.of("evaluate", {}),
    )
    for seed, miou in enumerate((0.2, 0.4, 0.9)):
        body = file_of(miou, seed, recipe="stego", features="codes", dimensions=90)
        write_json(tmp_path / f"recipes/stego/seed{seed}/adapt_linear_probe.json", body, MADE)
    files = _scores.read_readouts(tmp_path, {"one": ["stego", "absent"], "two": []}, (0, 1), ["linear_probe"])
    (board,) = _scores.boards(files, _scores.PROBES)
    assert (board.title, board.leads) == ("Linear probe", ("Features", "Learnt on", "Length"))
    assert [(*row.leads, row.seeds, row.cells[0].text) for row in board.rows] == [
        ("one", None, 384, (0,), "25.0"),
        ("codes of stego", "one", 90, (0, 1), "30.0 ± 14.1"),
        ("two", None, 12, (0,), "50.0"),
    ]
    assert _scores.boards([], _scores.PROBES) == []


# --- plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "probe", "made", "probes"), [
    ("stego", True, 3, 3), ("stego", False, 3, 0), ("acseg", True, 1, 0), ("kmeans", True, 0, 0),
])  # fmt: skip
def test_codes_are_probed_once_a_seed_unless_they_are_masks(name: str, probe: bool, made: int, probes: int) -> None:
    config = {"recipes": [name], "labels": "labels", "seeds": [0, 1, 2], "evaluate": {"linear_probe": probe}}
    run, images = load(config, RECIPES), of_one_size(1000, 500, PHOTO)
    found = {work.rule: work.jobs for work in jobs(run, images)}
    assert (found.get("adapt_map", 0), found.get("evaluate_codes", 0)) == (2 * made, probes)
    assert ("codes" in {artefact.name for artefact in artefacts(run, images)}) == (made > 0)
