"""A taxonomy carried over to another clustering, by where the clusters lay."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from maskmill.errors import InputError
from maskmill.recipe.base import validate
from maskmill.store.classes import BACKGROUND
from maskmill.taxonomy import _members as members
from maskmill.taxonomy._carry import carry
from maskmill.taxonomy._document import Document

TEXT = """
taxonomy: 1
classes: [{name: road, clusters: [1, 2]}, {name: car, clusters: [3]}, {name: gone, clusters: [6]}]
background: [4]
"""


def document(text: str = TEXT) -> Document:
    return validate(Document, yaml.safe_load(text), "taxonomy.yaml")


def maps(*values: int) -> dict[str, np.ndarray]:
    """One image with a row of cells a value."""
    return {"image": members.coarse(np.repeat(np.array(values, np.uint16)[:, None], 4, axis=1))}


def test_a_permutation_of_the_clusters_is_followed() -> None:
    old, new = maps(1, 2, 3, 4, 5, 6, 1, 2), maps(6, 5, 4, 3, 2, 1, 6, 5)
    found = carry(document(), members.overlap(old, new, 6))
    assert found.owners == {6: 1, 5: 1, 4: 2, 3: BACKGROUND, 1: 3}  # old 5 has no owner, so new 2 has none
    assert found.notes == ()


def test_merged_and_unclear_clusters() -> None:
    """New cluster 1 has two clusters of one class; 2 a car and a road to equal shares; 3 lies nowhere."""
    old, new = maps(1, 2, 3, 1, 4, 4, 4, 4), maps(1, 1, 2, 2, 4, 4, 4, 4)
    found = carry(document(), members.overlap(old, new, 4))
    assert found.owners == {1: 1, 4: BACKGROUND}
    assert "class 'car' has no cluster any more" in found.notes
    assert "clusters 2 have members of several classes and none has more than half" in found.notes
    assert "clusters 3 lie in none of the images that the file knows" in found.notes


def test_what_had_no_name_gets_none() -> None:
    old, new = maps(5, 5, 5, 1), maps(1, 1, 1, 1)
    assert carry(document(), members.overlap(old, new, 1)).owners == {}


def test_a_split_cluster_counts_where_its_parts_have_one_owner() -> None:
    one = document("taxonomy: 1\nsplit: {1: 2}\nclasses: [{name: a, clusters: [1a, 1b]}]")
    two = document("taxonomy: 1\nsplit: {1: 2}\nclasses: [{name: a, clusters: [1a]}, {name: b, clusters: [1b]}]")
    counts = members.overlap(maps(1), maps(2), 2)
    assert carry(one, counts).owners == {2: 1}
    found = carry(two, counts)
    assert found.owners == {}
    assert "split clusters 1 could not be followed" in found.notes


def test_the_text_holds_the_maps() -> None:
    rng = np.random.default_rng(0)
    found = {f"ä/{i}": members.coarse(rng.integers(0, 900, (20, 30))) for i in range(5)}
    text = members.write(found.items())
    assert all(len(line) <= members.LINE for line in text.splitlines())
    back = members.read(text, "taxonomy.yaml")
    assert back.keys() == found.keys()
    assert all(np.array_equal(back[key], found[key]) for key in found)


def test_images_with_clusters_that_others_lack_come_first() -> None:
    plain = {f"a{i}": np.ones((16, 16), "<u2") for i in range(6)}
    rare = {"z": np.full((16, 16), 7, "<u2")}
    assert "z" in members.read(members.write((plain | rare).items(), images=2), "f")


@pytest.mark.parametrize("text", ["not base64 !", "AAAA", "", "eJwDAAAAAAE="])
def test_a_damaged_text_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"taxonomy.yaml: members: damaged .*save the file again"):
        members.read(text, "taxonomy.yaml")


def test_many_clusters_are_followed_in_no_time() -> None:
    """As many pairs as there are cells are counted, whatever the numbers of the clusters are."""
    old = {"image": np.full((16, 16), 65535, "<u2")}
    counts = members.overlap(old, maps(5, 5, 5, 5), 60000)
    assert counts.shape == (65536, 60001)
    assert counts.nnz == 1


def test_nested_text_is_one_line() -> None:
    import base64
    import zlib

    text = base64.b64encode(zlib.compress(b"[" * 10**6 + b"\n")).decode()
    with pytest.raises(InputError, match="members: damaged"):
        members.read(text, "taxonomy.yaml")
