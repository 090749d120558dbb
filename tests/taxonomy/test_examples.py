"""A few labelled images: which are examples, what share of a vector has which class, and what classes come of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.errors import InputError
from maskmill.images.labels import OUTSIDE
from maskmill.images.view import View
from maskmill.painting import scoring
from maskmill.rounds._masks import Masks
from maskmill.store.classes import BACKGROUND, IGNORE
from maskmill.store.codebook import Codebook
from maskmill.store.manifest import Manifest, Row
from maskmill.store.ragged import RaggedWriter
from maskmill.taxonomy import Clustered, ShardVectors, examples
from maskmill.taxonomy import _labelled as labelled


def manifest(*ids: str) -> Manifest:
    return Manifest(tuple(Row(image_id, f"/{image_id}.jpg", 8, 8, "s0", None) for image_id in ids))


def folder(path: Path, **labels: np.ndarray) -> str:
    path.mkdir(exist_ok=True)
    for name, label in labels.items():
        Image.fromarray(label.astype(np.uint8)).save(path / f"{name}.png")
    return str(path)


def test_shares_are_counted_pixels() -> None:
    """Two vectors of 2 x 4 pixels each: all of class 0; five of class 1, one of class 0, two void."""
    columns = np.array([[0, 0, 1, 1], [0, 0, 1, -1], [0, 0, 1, 0], [0, 0, 1, -1]])
    found = labelled.shares_of(np.array([[0, 1]]), columns, 2, 2)
    assert found.tolist() == [[1, 0], [0.125, 0.625]]


def test_cells_without_a_vector_say_nothing() -> None:
    found = labelled.shares_of(np.array([[-1, 0]]), np.zeros((2, 4), int), 1, 3)
    assert found.tolist() == [[1, 0, 0]]


def test_the_examples_are_those_of_the_list(tmp_path: Path) -> None:
    path = folder(tmp_path / "labels", a=np.zeros((8, 8)), b=np.zeros((8, 8)))
    wanted = tmp_path / "ids.txt"
    wanted.write_text("b\n\n")
    assert list(labelled.chosen_labels(manifest("a", "b", "c"), path, None)) == ["a", "b"]
    assert list(labelled.chosen_labels(manifest("a", "b", "c"), path, str(wanted))) == ["b"]


@pytest.mark.parametrize(
    ("ids", "said"),
    [("c", "'c' has no label in taxonomy.labels"), ("zz", "'zz' is no image of the run"), ("", "names no image")],
)
def test_a_list_that_does_not_fit(tmp_path: Path, ids: str, said: str) -> None:
    path = folder(tmp_path / "labels", a=np.zeros((8, 8)))
    wanted = tmp_path / "ids.txt"
    wanted.write_text(ids)
    with pytest.raises(InputError, match=said):
        labelled.chosen_labels(manifest("a", "c"), path, str(wanted))


def windowed(path: Path) -> tuple[Manifest, np.ndarray]:
    """An image of 8 x 12 pixels in two windows of 8 x 8, and a photo; and the label of the image, in `path`/a.png."""
    views = [View(window=(0, left, 8, 8), whole=(8, 12), overlap=4).text() for left in (0, 4)]
    places = zip("04", views, strict=True)
    cut = [Row(f"a/y0000000x000000{x}", "/a.png", 8, 8, "s0", None, parent="a", view=view) for x, view in places]
    label = np.arange(96).reshape(8, 12) % 7
    folder(path, a=label)
    return Manifest((*cut, *manifest("b").rows)), label


def test_windows_share_the_label_of_their_image_and_every_pixel_is_of_one(tmp_path: Path) -> None:
    found, label = windowed(tmp_path / "labels")
    wanted, one = tmp_path / "ids.txt", found.rows[1].id
    for text, ids in ((None, found.ids[:2]), ("a", found.ids[:2]), (one, [one])):
        wanted.write_text(text or "")
        chosen = labelled.chosen_labels(found, str(tmp_path / "labels"), str(wanted) if text else None)
        assert list(chosen) == ids
        assert {Path(file).name for file in chosen.values()} == {"a.png"}
    seen = np.full(label.shape, OUTSIDE)
    for row, left in zip(found.rows[:2], (0, 4), strict=True):
        own = labelled.label_of(str(tmp_path / "labels/a.png"), row)
        assert own.shape == (8, 8)
        part = seen[:, left : left + 8]
        assert (part[own != OUTSIDE] == OUTSIDE).all()  # no pixel twice
        part[own != OUTSIDE] = own[own != OUTSIDE]
    np.testing.assert_array_equal(seen, label)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clustered:
    """Two images of 4 x 4 tokens: the left half points along x, the right half along y; and two clusters of these."""
    tokens = np.zeros((4, 4, 2), np.float32)
    tokens[:, :2, 0], tokens[:, 2:, 1] = 1, 1
    with RaggedWriter(tmp_path / "s0.zarr", "features", depth=2) as out:
        for image_id in ("a", "b"):
            out.append(image_id, tokens)
    shard = ShardVectors(tmp_path / "s0.zarr")
    monkeypatch.setattr(labelled, "read_manifest", lambda path: manifest("a", "b"))
    monkeypatch.setattr("maskmill.store.manifest.read_manifest", lambda path: manifest("a", "b"))
    book = Codebook(np.eye(2, dtype=np.float32), np.array([16, 16]), 0.0, True)
    return Clustered(book, None, [shard], tmp_path / "manifest.parquet")


@pytest.mark.parametrize("method", ["clusters", "probe", "neighbours"])
def test_labels_become_classes(tmp_path: Path, given: Clustered, method: str) -> None:
    """Label 7 on the left, 9 on the right, a void column: the halves of the other image are told apart."""
    label = np.full((8, 8), 7)
    label[:, 4:] = 9
    label[:, 0] = 255
    params = examples.Params(labels=folder(tmp_path / "labels", a=label), method=method, class_names={7: "left"})
    found, held = examples.fit(examples.grouping(params, "r"), given)
    assert (found.count, found.label_ids, found.examples) == (2, (7, 9), ("a",))
    assert np.array_equal(scoring.assign(np.array([[2, 0.1], [0.1, 3]], np.float32), found), [1, 2])
    assert set(held) == {"a"}
    assert np.array_equal(held["a"], np.where(label == 7, 1, np.where(label == 9, 2, IGNORE)))


def test_one_label_is_background(tmp_path: Path, given: Clustered) -> None:
    label = np.full((8, 8), 7)
    label[:, 4:] = 9
    params = examples.Params(labels=folder(tmp_path / "labels", a=label), background=7)
    found, held = examples.fit(examples.grouping(params, "r"), given)
    assert (found.count, found.label_ids) == (1, (9,))
    assert np.array_equal(scoring.assign(np.array([[2, 0.1], [0.1, 3]], np.float32), found), [BACKGROUND, 1])
    assert set(np.unique(held["a"])) == {BACKGROUND, 1}


def test_more_than_a_few_labels_are_one_line(tmp_path: Path, given: Clustered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "MOST", 1)
    params = examples.Params(labels=folder(tmp_path / "labels", a=np.zeros((8, 8)), b=np.zeros((8, 8))))
    with pytest.raises(InputError, match=r"2 images of the run have a label, which is more than a few \(1\)"):
        examples.fit(examples.grouping(params, "r"), given)


def test_labels_without_a_class(tmp_path: Path, given: Clustered) -> None:
    params = examples.Params(labels=folder(tmp_path / "labels", a=np.full((8, 8), 255)))
    with pytest.raises(InputError, match=r"every pixel of 1 labels is void \(\[255\]\)"):
        examples.fit(examples.grouping(params, "r"), given)
    params = examples.Params(labels=folder(tmp_path / "other", a=np.full((8, 8), 3)), background=3)
    with pytest.raises(InputError, match=r"nothing but the background \(3\)"):
        examples.fit(examples.grouping(params, "r"), given)


def test_what_no_label_reaches_is_ignore(tmp_path: Path, given: Clustered) -> None:
    """Two clusters far from the labelled ones, and unconnected to them: no class, and a note."""
    far = np.concatenate([np.eye(2, 4), np.eye(4)[2:]]).astype(np.float32)
    with RaggedWriter(tmp_path / "s1.zarr", "features", depth=4) as out:
        tokens = np.zeros((4, 4, 4), np.float32)
        tokens[..., 0] = 1
        out.append("a", tokens)
    book = Codebook(far, np.array([9, 9, 9, 9]), 0.0, True, group=np.array([0, 1, 2, -1]))
    given = replace(given, book=book, shards=[ShardVectors(tmp_path / "s1.zarr")])
    params = examples.Params(labels=folder(tmp_path / "labels", a=np.full((8, 8), 7)))
    found, _ = examples.fit(examples.grouping(params, "r"), given)
    assert scoring.assign(np.eye(4, dtype=np.float32)[3:], found).tolist() == [IGNORE]  # noise
    assert IGNORE in found.columns


def test_the_label_that_is_called_background_is_background(tmp_path: Path, given: Clustered) -> None:
    label = np.full((8, 8), 7)
    label[:, 4:] = 9
    params = examples.Params(labels=folder(tmp_path / "labels", a=label), class_names={7: "Background", 9: "cat"})
    found, _ = examples.fit(examples.grouping(params, "r"), given)
    assert (found.count, found.label_ids, found.background_label) == (1, (9,), 7)


@pytest.mark.parametrize("name", ["", " sky", "a\nb", "a\x7fb", "a\u2028b"])
def test_names_of_labels_are_names(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        examples.Params(labels="labels", class_names={1: name})


def test_names_are_no_part_of_what_is_painted(tmp_path: Path) -> None:
    path = folder(tmp_path / "labels", a=np.zeros((8, 8)))
    one, other = (examples.Params(labels=path, class_names={0: name}) for name in ("x", "y"))
    before = examples.grouping(one, "r")
    assert before == examples.grouping(other, "r")
    assert examples.naming(one, "r") != examples.naming(other, "r")
    (tmp_path / "labels/b.png").write_bytes((tmp_path / "labels/a.png").read_bytes())
    assert examples.grouping(one, "r") != before


def test_labels_stay_in_what_a_round_learns_from(tmp_path: Path) -> None:
    """Known pixels of the label win over the mask, however unsure the mask is; void ones do not."""
    with RaggedWriter(tmp_path / "masks.zarr", "masks", dtype="uint8") as out:
        out.append("a", np.array([[1, 1], [2, 2]], np.uint8))
        out.append("b", np.array([[1, 2], [1, 2]], np.uint8))
    with RaggedWriter(tmp_path / "sure.zarr", "confidence", dtype="uint8") as out:
        out.append("a", np.array([[0, 255], [255, 0]], np.uint8))
        out.append("b", np.array([[0, 255], [255, 255]], np.uint8))
    with RaggedWriter(tmp_path / "held.zarr", "masks", dtype="uint8") as out:
        out.append("a", np.array([[2, 2, 255, 255], [2, 2, 255, 255], [1, 1, 0, 0], [1, 1, 0, 0]], np.uint8))
    taught = Masks(
        [tmp_path / "masks.zarr"], 3, sure=[tmp_path / "sure.zarr"], confidence=0.5, held=tmp_path / "held.zarr"
    )
    assert taught["a"].tolist() == [[2, 1], [1, 0]]
    assert taught["b"].tolist() == [[255, 2], [1, 2]]
    assert taught.counts.tolist() == [1, 3, 3]


def test_classes_are_learnt_from_windows(tmp_path: Path, given: Clustered, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from the whole image: what is outside of a core is no class, and says nothing."""
    found, _ = windowed(tmp_path / "labels")
    label = np.full((8, 12), 7)
    label[:, 4:] = 9
    folder(tmp_path / "labels", a=label)
    tokens = {"0": np.zeros((4, 4, 2), np.float32), "4": np.zeros((4, 4, 2), np.float32)}
    tokens["0"][:, :2, 0], tokens["0"][:, 2:, 1], tokens["4"][..., 1] = 1, 1, 1
    with RaggedWriter(tmp_path / "w0.zarr", "features", depth=2) as out:
        for row in found.rows[:2]:
            out.append(row.id, tokens[row.id[-1]], parent="a")
    monkeypatch.setattr(labelled, "read_manifest", lambda path: found)
    files = labelled.chosen_labels(found, str(tmp_path / "labels"), None)
    read = labelled.read(files, [255], replace(given, shards=[ShardVectors(tmp_path / "w0.zarr")]))
    assert (read.classes, read.owners, set(read.files)) == ((7, 9), ("a", "a"), {0})
    half = np.concatenate([read.shares[read.images == i].sum(axis=0) for i in (0, 1)])
    np.testing.assert_allclose(half, [8, 4, 0, 12])  # of 4 x 6 tokens of the image: 8 are 7, and 16 are 9
