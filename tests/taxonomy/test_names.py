"""What the classes are called, and a file that says the same when it is given back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from maskmill.recipe.base import validate
from maskmill.store import classes as kinds
from maskmill.store import codebook as books
from maskmill.store.artefact import read_json, write_json
from maskmill.store.classes import Classes
from maskmill.store.codebook import Codebook, fingerprint
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter
from maskmill.taxonomy import Clustered, ShardVectors
from maskmill.taxonomy._document import Document
from maskmill.taxonomy._merge import merge
from maskmill.taxonomy._names import described, document_text
from maskmill.taxonomy.examples import Params, naming
from maskmill.taxonomy.run import NameFiles, names

NAMES = ["road", 'a "quoted" #name', "улица\u2003🚲", "no"]


@pytest.fixture
def given(tmp_path: Path) -> Clustered:
    """Eight clusters, and some vectors about each."""
    rng = np.random.default_rng(0)
    centroids = np.eye(8, dtype=np.float32)
    with RaggedWriter(tmp_path / "s0.zarr", "features", depth=8) as out:
        out.append("a", (np.repeat(centroids, 8, axis=0) + rng.normal(0, 0.05, (64, 8))).reshape(8, 8, 8))
    book = Codebook(centroids, np.full(8, 8), 0.0, True)
    return Clustered(book, None, [ShardVectors(tmp_path / "s0.zarr")], tmp_path / "manifest.parquet")


def body_of(found: Classes, document: Document, given: Clustered) -> dict[str, Any]:
    listed = [[document.numbers[each.name], each.name, each.colour] for each in document.classes]
    about = {"recipe": "r", "seed": 0, "codebook": fingerprint(given.book), "source": "file"}
    return about | described(found, given.book, {"classes": listed})


@pytest.mark.parametrize("unnamed", ["ignore", "background", "keep"])
def test_the_file_that_is_written_says_the_same(given: Clustered, unnamed: str) -> None:
    classes = [{"name": name, "clusters": owned} for name, owned in zip(NAMES, [[1], ["3b"], [], [7]], strict=True)]
    told = {"taxonomy": 1, "classes": classes, "background": [2], "ignore": ["3a"], "split": {3: 2}, "unnamed": unnamed}
    document = validate(Document, told, "f")
    found = merge(document, "f", given)
    body = body_of(found, document, given)
    text = document_text(body, found, "QUJD\n")
    again = validate(Document, yaml.safe_load(text), "f")
    assert [each.name for each in again.classes] == NAMES
    assert (again.leaves, again.split, again.unnamed) == (document.leaves, document.split, unnamed)
    assert again.members == "QUJD\n"
    assert body["open"] == ["4", "5", "6", "8"]
    second = merge(again, "f", given)
    assert np.array_equal(second.columns, found.columns)
    assert np.array_equal(second.tensors["leaf_column"], found.tensors["leaf_column"])
    kept = [each["name"] for each in body["classes"][len(NAMES) :]]
    assert kept == ([f"cluster {c}" for c in (4, 5, 6, 8)] if unnamed == "keep" else [])


def test_every_class_has_a_colour_of_the_palette_unless_it_has_its_own(given: Clustered) -> None:
    told = {"taxonomy": 1, "classes": [{"name": "a", "colour": "#ABCDEF", "clusters": [1]}, {"name": "b"}]}
    document = validate(Document, told, "f")
    body = body_of(merge(document, "f", given), document, given)
    assert body["classes"][0]["colour"] == "#abcdef"
    assert body["classes"][1]["colour"].startswith("#")


def test_labels_of_one_name_are_told_apart(given: Clustered) -> None:
    found = merge(validate(Document, {"taxonomy": 1, "classes": [{"name": "a"}, {"name": "b"}]}, "f"), "f", given)
    by_labels = Classes(2, found.columns, "merged", found.tensors, found.book, label_ids=(4, 9))
    odd = {"label_names": {"4": "wall", "9": "wall", "11": "wall (4)"}}
    three = Classes(3, found.columns, "merged", found.tensors, found.book, label_ids=(4, 9, 11))
    names = [each["name"] for each in described(three, given.book, odd)["classes"]]
    assert len(set(names)) == 3
    naming = {"label_names": {"4": "wall", "9": "wall"}}
    assert [e["name"] for e in described(by_labels, given.book, naming)["classes"]] == ["wall (4)", "wall (9)"]
    assert [e["name"] for e in described(by_labels, given.book, {"label_names": {}})["classes"]] == [
        "class 4",
        "class 9",
    ]


def test_names_that_differ_only_in_case_are_noted(given: Clustered) -> None:
    classes = [{"name": name, "clusters": [i]} for i, name in enumerate(["Cat", "dog", "cat", "Ignore", "straße"], 1)]
    document = validate(Document, {"taxonomy": 1, "classes": classes}, "f")
    notes = body_of(merge(document, "f", given), document, given)["notes"]
    assert notes == [
        "'ignore', 'Ignore': these names differ only in case, and are not the same class; write them alike if they are",
        "'Cat', 'cat': these names differ only in case, and are not the same class; write them alike if they are",
    ]
    plain = validate(Document, {"taxonomy": 1, "classes": classes[1:3] + classes[4:]}, "f")
    assert body_of(merge(plain, "f", given), plain, given)["notes"] == []


def test_names_of_labels_without_a_pixel_are_noted(given: Clustered) -> None:
    """Of three names two have pixels, one as the background; void labels are not asked for."""
    document = validate(Document, {"taxonomy": 1, "classes": [{"name": "a", "clusters": [1]}]}, "f")
    found = replace(merge(document, "f", given), label_ids=(7,), background_label=0)
    params = Params(labels="labels", class_names={0: "floor", 7: "cat", 9: "horse", 255: "void"})
    body = described(found, given.book, naming(params, "r"))
    assert body["notes"] == ["class_names: no labelled image has a pixel of horse (9)"]
    params = params.model_copy(update={"class_names": {7: "cat"}})
    assert described(found, given.book, naming(params, "r"))["notes"] == []


def test_the_job_says_what_it_notes(tmp_path: Path, given: Clustered, capsys: pytest.CaptureFixture[str]) -> None:
    document = validate(Document, {"taxonomy": 1, "classes": [{"name": "Cat"}, {"name": "cat"}]}, "f")
    kinds.write(tmp_path / "c.safetensors", replace(merge(document, "f", given), notes=("an old note",)))
    books.write(tmp_path / "b.safetensors", given.book)
    write_json(tmp_path / "members.json", {"members": "QUJD\n"}, Provenance.of("taxonomy", {}))
    named = {"classes": [[1, "Cat", None], [2, "cat", None]]}
    names(
        tmp_path / "c.safetensors",
        tmp_path / "b.safetensors",
        tmp_path / "members.json",
        {"recipe": "r", "seed": 0, "source": "file", "naming": named},
        NameFiles(tmp_path / "classes.json", tmp_path / "taxonomy.yaml"),
    )
    said = capsys.readouterr().err
    assert "taxonomy: 'Cat', 'cat': these names differ only in case" in said
    assert "an old note" not in said  # which `fit` has said
    assert len(read_json(tmp_path / "classes.json")["notes"]) == 2
