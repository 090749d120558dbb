"""`maskmill suggest`: what to name next, read from a run's survey."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from maskmill.cli.app import app
from maskmill.store import codebook as books
from maskmill.store.artefact import write_json
from maskmill.store.codebook import Codebook
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter
from maskmill.taxonomy._next import influences, suggest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clusters: 1, 2 and 3 lie close together and are large, 4, 5 and 6 lie together elsewhere and are small."""
    angles = np.deg2rad([0, 4, 8, 90, 94, 98])
    book = Codebook(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32), np.ones(6, np.int64), 0.0, True)
    seed = tmp_path / "results/recipes/r/seed0"
    books.write(seed / "cluster/codebook.safetensors", book)
    attrs = {"clusters": 6, "codebook": books.fingerprint(book)}
    with RaggedWriter(seed / "taxonomy/survey.zarr", "masks", dtype="uint8", attrs=attrs) as out:
        out.append("a", np.repeat([[1, 2, 3, 3]], 8, axis=0).astype(np.uint8))
        out.append("b", np.repeat([[1, 2, 4, 4]], 8, axis=0).astype(np.uint8))
        out.append("c", np.repeat([[5, 5, 6, 3]], 8, axis=0).astype(np.uint8))
    return seed


def test_the_second_suggestion_lies_elsewhere(folder: Path) -> None:
    """The first cluster settles its neighbours too, so the next one is of the other group, though it is smaller."""
    found = [each for each in suggest(folder, 2) if each.kind == "cluster"]
    assert int(found[0].id) <= 3 < int(found[1].id)
    assert found[0].tells > found[1].tells > 0


def test_shares_are_those_of_the_survey(folder: Path) -> None:
    found = {each.id: each.share for each in suggest(folder, 6) if each.kind == "cluster"}
    assert found == pytest.approx({"1": 1 / 6, "2": 1 / 6, "3": 1 / 4, "4": 1 / 6, "5": 1 / 6, "6": 1 / 12})


def test_what_a_person_has_named_is_not_suggested(folder: Path) -> None:
    classes = [{"id": 1, "name": "x", "colour": "#112233", "clusters": ["1", "2", "3a", "3b"], "confidence": None}]
    body = {
        "classes": classes,
        "background": ["4"],
        "ignore": ["5", "6"],
        "examples": [],
        "source": "file",
        "open": ["5", "6"],
    }
    write_json(folder / "taxonomy/classes.json", body, Provenance.of("taxonomy", {}))
    found = suggest(folder, 6)
    assert {each.id for each in found if each.kind == "cluster"} == {"5", "6"}
    assert next(each.id for each in found if each.kind == "image") == "c"


def test_influences_are_those_of_the_rule(folder: Path) -> None:
    """Likeness is exp(-(1 - cosine) / 0.4), a cluster is itself first."""
    found = influences(books.read(folder / "cluster/codebook.safetensors"))
    assert all(rows[0] == (cluster, 1.0) for cluster, rows in enumerate(found, 1))
    assert dict(found[0])[3] == pytest.approx(np.exp(-(1 - np.cos(np.deg2rad(8))) / 0.4), abs=1e-3)
    assert {other for other, weight in found[0] if weight > 0.5} == {1, 2, 3}


def test_all_suggestions_together_tell_everything(folder: Path) -> None:
    found = [each for each in suggest(folder, 6) if each.kind == "cluster"]
    assert sum(each.tells for each in found) == pytest.approx(1)


def test_the_command_writes_a_table(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "next.csv"
    words = ["suggest", "--recipe", "r", "--results", str(tmp_path / "results"), "--count", "2", "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["kind"]) for row in rows] == [
        ("1", "cluster"), ("2", "cluster"), ("1", "image"), ("2", "image")
    ]  # fmt: skip


def test_a_run_without_a_survey_is_one_line(tmp_path: Path) -> None:
    from maskmill.errors import StoreError

    with pytest.raises(StoreError, match="has no survey of its clusters; give the recipe and the first seed"):
        suggest(tmp_path / "results/recipes/x/seed0", 3)
