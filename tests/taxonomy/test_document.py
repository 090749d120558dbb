"""taxonomy.yaml: what it says, and one clear line for everything that it cannot say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maskmill.errors import ConfigError
from maskmill.recipe.resolve import load
from maskmill.store.classes import BACKGROUND, IGNORE, Correction
from maskmill.taxonomy import _document as documents
from maskmill.taxonomy import file as source

GOOD = """
taxonomy: 1
classes:
  - {name: road, colour: "#804080", clusters: [3, 17b]}
  - {name: "car: blue", clusters: [12]}
  - {name: nothing}
background: [5]
ignore: [17a]
split: {17: 2}
corrections:
  - {image: a/b, region: 4, class: "car: blue"}
  - {image: a/b, was: road, class: ignore}
  - {image: c, class: background}
"""


def written(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "taxonomy.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_what_a_file_says(tmp_path: Path) -> None:
    found = documents.read(written(tmp_path, GOOD))
    assert found.numbers == {"road": 1, "car: blue": 2, "nothing": 3}
    assert found.leaves == {(3, None): 1, (17, 1): 1, (12, None): 2, (5, None): BACKGROUND, (17, 0): IGNORE}
    assert found.fixes == (
        Correction("a/b", 2, region=4), Correction("a/b", IGNORE, was=1), Correction("c", BACKGROUND)
    )  # fmt: skip
    assert found.unnamed == "ignore"


def test_names_and_colours_do_not_count_as_content(tmp_path: Path) -> None:
    before = documents.read(written(tmp_path, GOOD)).content
    renamed = GOOD.replace("road", "street").replace("#804080", "#000001")
    assert documents.read(written(tmp_path, renamed)).content == before
    for one, other in [("[12]", "[13]"), ("region: 4", "region: 5"), ("{17: 2}", "{17: 3}"), ("[5]", "[]")]:
        assert documents.read(written(tmp_path, GOOD.replace(one, other))).content != before
    assert documents.read(written(tmp_path, GOOD + "unnamed: keep\n")).content != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("classes: []", "taxonomy: is required"),
        ("taxonomy: 2\nclasses: []", "version 2, this maskmill reads 1"),
        ("taxonomy: 1\nklasses: []", "unknown key (did you mean 'classes'?)"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [3]}, {name: b, clusters: [3]}]",
         "cluster 3 is in class 'a' and in class 'b'"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [3]}]\nignore: [3]", "cluster 3 is in class 'a' and in ignore"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [3, 3]}]", "cluster 3 is in class 'a' and in class 'a'"),
        ("taxonomy: 1\nclasses: [{name: a}, {name: a}]", "'a' is there twice"),
        ("taxonomy: 1\nclasses: [{name: background}]", "list its clusters under background:"),
        ("taxonomy: 1\nclasses: [{name: ' a'}]", "no blank at its ends"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [x]}]", "'x' is no cluster"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [0]}]", "0 is no cluster"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [17b]}]", "cluster 17b: split does not say"),
        ("taxonomy: 1\nsplit: {17: 2}\nclasses: [{name: a, clusters: [17]}]", "name its parts 17a to 17b"),
        ("taxonomy: 1\nsplit: {17: 2}\nclasses: [{name: a, clusters: [17c]}]", "cluster 17c: split does not say"),
        ("taxonomy: 1\nsplit: {17: 1}\nclasses: []", "a cluster is split into 2 to 26 parts"),
        ("taxonomy: 1\nclasses: [{name: a, id: 2}]", "give each of 1 to 1 once"),
        ("taxonomy: 1\nclasses: [{name: a, colour: red}]", "classes.0.colour"),
        ("taxonomy: 1\nclasses: [{name: cat}]\ncorrections: [{image: i, class: cta}]",
         "no class 'cta' (did you mean 'cat'?)"),
        ("taxonomy: 1\nclasses: [{name: a}]\ncorrections: [{image: i, class: a, was: a, region: 1}]",
         "give one of them"),
        ("taxonomy: 1\nclasses: [", "not valid YAML"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [3.0]}]", "classes.0.clusters.0"),
        ("taxonomy: 1\nclasses: []\nsplit: {true: 2}", "split"),
        ("taxonomy: 1\nclasses: [{name: \"a\\x7fb\"}]", "no line break or control character"),
        ("taxonomy: 1\nclasses: [{name: a, clusters: [3, 017]}]",
         "017 has a leading zero, with which YAML counts in eights (15); write 17, or '017' in quotes"),
        ("taxonomy: 1\nclasses: []\nsplit: {017: 2}", "017 has a leading zero"),
        ("taxonomy: 1\nclasses: []\nbackground: [0_17]", "write 17"),
        ("taxonomy: 1\nclasses: []\nignore: ['017']", "'017' is no cluster; write its number, as 17"),
        ("taxonomy: 1\nclasses: []\nignore: [08]", "'08' is no cluster; write its number, as 17"),
        ("taxonomy: 1\nclasses: [{name: a}]\ncorrections: [{image: 000123, class: a}]", "or '000123' in quotes"),
        ("taxonomy: 1\nclasses: []\nignore: [1:30]", "1:30 is a number in base 60 to YAML"),
        ("taxonomy: 1\nclasses: [{name: a}]\ncorrections: [{image: 2007_000175, class: a}]", "put the id in quotes"),
    ],
)  # fmt: skip
def test_what_it_cannot_say(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        documents.read(path)
    assert said in str(error.value)
    assert str(error.value).startswith(path)
    assert ": :" not in str(error.value)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; save one in the report"):
        documents.read(str(tmp_path / "none.yaml"))


def test_which_recipe_a_file_is_for(tmp_path: Path) -> None:
    mine = written(tmp_path, "taxonomy: 1\nrecipe: kmeans\nclasses: []")
    params = source.Params(file=[mine])
    assert source.serves(params, "kmeans", ["kmeans", "comus"], 1)
    assert not source.serves(params, "comus", ["kmeans", "comus"], 1)
    with pytest.raises(ConfigError, match="written for kmeans, which this run does not have"):
        source.serves(params, "comus", ["comus"], 1)
    other = tmp_path / "other.yaml"
    other.write_text("taxonomy: 1\nclasses: []")
    with pytest.raises(ConfigError, match="are both for recipe kmeans"):
        source.serves(source.Params(file=[mine, str(other)]), "kmeans", ["kmeans"], 1)


def test_numbers_of_clusters_mean_something_for_one_recipe_and_one_seed(tmp_path: Path) -> None:
    params = source.Params(file=[written(tmp_path, "taxonomy: 1\nclasses: []")])
    assert source.serves(params, "kmeans", ["kmeans"], 1)
    with pytest.raises(ConfigError, match=r"codebook and members: are missing, and the run has 2 seeds"):
        source.serves(params, "kmeans", ["kmeans"], 2)
    with pytest.raises(ConfigError, match="recipe: is missing, and the run has kmeans, comus"):
        source.serves(params, "kmeans", ["kmeans", "comus"], 1)


def test_the_file_that_a_run_writes_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/taxonomy.yaml").write_text("taxonomy: 1\nclasses: []")
    with pytest.raises(ConfigError, match="the run writes this file anew; copy it out of results/ first"):
        source.serves(source.Params(file=["results/taxonomy.yaml"]), "kmeans", ["kmeans"], 1)


def test_a_file_may_name_as_many_clusters_as_there_can_be(tmp_path: Path) -> None:
    """More than a configuration may have values; of one without an end the reader still says what is wrong."""
    assert documents.MOST_VALUES > 5 * 65534 + 26 * 65534 // 4  # each cluster a class with a name, colour and list
    many = ", ".join(map(str, range(1, 50_101)))
    found = documents.read(written(tmp_path, f"taxonomy: 1\nclasses: [{{name: a, clusters: [{many}]}}]"))
    assert len(found.leaves) == 50_100
    with pytest.raises(ConfigError, match="more than 32 MiB"):
        documents.read(written(tmp_path, "taxonomy: 1\n" + "# much\n" * 5_000_000))


def known_before(folder: Path, head: str = "", **cluster: Any) -> None:
    """Resolve a run of the recipe kmeans with a file that names clusters 1 and 9, and the part 2 of another."""
    path = written(folder, f"taxonomy: 1\n{head}classes: [{{name: a, clusters: [1, 9]}}]")
    config = {"recipes": ["kmeans"], "taxonomy": {"source": "file", "file": path}, "cluster": cluster}
    load(config, Path(__file__).parents[2] / "recipes")


def test_a_cluster_that_cannot_be_is_known_before_the_first_job(tmp_path: Path) -> None:
    known_before(tmp_path, clusters=9)
    with pytest.raises(ConfigError, match="cluster 9: the clustering has 8, numbered 1 to 8; remove it"):
        known_before(tmp_path, clusters=8)
    with pytest.raises(ConfigError, match="cluster 12: the clustering has 9"):
        known_before(tmp_path, head="split: {12: 2}\n", clusters=9)
    known_before(tmp_path, clusters="auto")  # the number is not known yet
    known_before(tmp_path, method="leiden", clusters=None)
    known_before(tmp_path, head="codebook: abc\nmembers: QUJD\n", clusters=8)  # is carried over
    with pytest.raises(ConfigError, match="cluster 9"):
        known_before(tmp_path, head="codebook: abc\n", clusters=8)  # nothing says where these clusters lay


def test_another_place_is_not_another_content(tmp_path: Path) -> None:
    one, other = (source.Params(file=[written(tmp_path / name, GOOD)]) for name in ("a", "b"))
    assert source.grouping(one, "r") == source.grouping(other, "r")
    assert source.place(one, "r") != source.place(other, "r")
