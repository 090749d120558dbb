"""Naming clusters in the report, in a real browser with real keys; what is saved is read with a YAML library."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
import synthetic_run
import yaml
from playwright.sync_api import Page

from maskmill.report.run import run
from maskmill.store.artefact import write_json
from maskmill.store.classes import BACKGROUND, IGNORE, Correction, Leaf, merged, write
from maskmill.store.codebook import fingerprint, read
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged
from maskmill.taxonomy import _document
from maskmill.taxonomy.run import NameFiles, names

CLUSTERS = 8
SHOWN = (
    "[...document.querySelectorAll('.atlas[data-recipe=kmeans] .cluster')].filter(e => !e.hidden)"
    ".map(e => Number(e.dataset.cluster))"
)
CURRENT = "Number(document.querySelector('.atlas[data-recipe=kmeans] .cluster.current').dataset.cluster)"
SAID = "document.querySelector('.atlas[data-recipe=kmeans] .said').textContent"
PROGRESS = "document.querySelector('.atlas[data-recipe=kmeans] .progress').textContent"
TEXT = "maskmill.desks.get('kmeans').naming.text()"
FOLDER = "results/recipes/kmeans/seed0"


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.report(tmp_path_factory.mktemp("run"), clusters=CLUSTERS)


@pytest.fixture
def browser(tab: tuple[Page, list[str]], html: Path) -> Iterator[Page]:
    page, problems = tab
    problems.clear()
    chromium.load(page, html)
    page.evaluate("localStorage.clear()")
    opened(page, html)
    yield page
    assert problems == []


def opened(page: Page, html: Path) -> None:
    """The page again, at the clusters of the recipe kmeans, with the focus on the first."""
    chromium.load(page, html)
    page.evaluate("document.querySelector('input[name=recipe][value=kmeans]').click()")
    page.evaluate("document.activeElement.blur()")
    page.evaluate("document.querySelector('#clusters').scrollIntoView({behavior: 'instant'})")
    page.keyboard.press("k")


def press(page: Page, *keys: str) -> None:
    """Keys; what is longer than a key's name is typed."""
    for key in keys:
        if key.startswith("'"):
            page.keyboard.type(key[1:])
        else:
            page.keyboard.press(key)


def saved(page: Page) -> tuple[str, dict[str, Any]]:
    """The file that Ctrl-S saves: its text, and what a YAML library reads in it."""
    with page.expect_download() as found:
        page.keyboard.press("Control+s")
    text = Path(found.value.path()).read_text("utf-8")
    return text, yaml.safe_load(text)


def owners(body: dict[str, Any]) -> dict[str, list[str]]:
    """{class, background or ignore: its clusters} of a parsed file."""
    found = {row["name"]: row["clusters"] for row in body["classes"]}
    found |= {name: body[name] for name in ("background", "ignore")}
    return {name: [str(cluster) for cluster in clusters] for name, clusters in found.items()}


def test_what_is_pressed_is_what_is_saved_and_comes_back(browser: Page, html: Path, tmp_path: Path) -> None:
    page = browser
    order = page.evaluate(SHOWN)
    assert sorted(order) == list(range(1, CLUSTERS + 1))
    assert page.evaluate(PROGRESS) == "0 of 8 clusters, 0 % of the area"
    press(page, "n", "'road", "Enter")  # goes on to the next cluster without a name
    assert page.evaluate(CURRENT) == order[1]
    press(page, "Enter", "'sky", "Enter", "n", "'road", "Enter")  # the same name joins the class
    assert page.evaluate(SAID) == f"Cluster {order[2]}: road, with 1 other."
    press(page, "b", "i")
    press(page, "n", "'oops", "Enter", "u", "Control+z", "r")  # undo twice, the second one the `ignore`; again
    assert page.evaluate(SAID) == "Done again."
    press(page, "End", "s", "'3", "Enter")  # the last one into three parts
    assert page.evaluate("document.querySelectorAll('[data-recipe=kmeans] .current .unit').length") == 3
    press(page, "n", "'sky", "Enter", "'tree, or bush", "Enter", "'", "Enter")
    text, body = saved(page)
    last = order[-1]
    want = {
        "road": sorted([order[0], order[2]]),
        "sky": sorted([order[1], f"{last}a"], key=lambda c: int(str(c).rstrip("a"))),
        "tree, or bush": [f"{last}b"],
        "background": [order[3]],
        "ignore": [order[4]],
    }
    assert owners(body) == {name: [str(c) for c in clusters] for name, clusters in want.items()}
    assert body["split"] == {last: 3}
    book = read(html.parent / FOLDER / "cluster/codebook.safetensors")
    head = {"taxonomy": 1, "recipe": "kmeans", "seed": 0, "codebook": fingerprint(book), "unnamed": "ignore"}
    assert {key: body[key] for key in head} == head
    assert body["members"] == synthetic_run.MEMBERS
    assert page.evaluate(PROGRESS).startswith("5 of 8 clusters, ")
    shares = [row[1] for row in page.evaluate("maskmill.desks.get('kmeans').data.clusters")]
    assert f", {int(100 * sum(shares[:5]) / sum(shares))} % of the area" in page.evaluate(PROGRESS)
    assert "taxonomy: {source: file, file: taxonomy-kmeans.yaml}" in page.evaluate(
        "document.querySelector('.atlas[data-recipe=kmeans] .next').innerText"
    )

    (tmp_path / "mine.yaml").write_text(text)
    document = _document.read(str(tmp_path / "mine.yaml"))  # the stage taxonomy understands it
    assert [each.name for each in document.classes] == ["road", "sky", "tree, or bush"]
    assert document.leaves == {
        (order[0], None): 1, (order[2], None): 1, (order[1], None): 2, (last, 0): 2, (last, 1): 3,
        (order[3], None): BACKGROUND, (order[4], None): IGNORE,
    }  # fmt: skip

    opened(page, html)  # this browser has kept it
    assert page.evaluate(TEXT) == text
    page.evaluate("localStorage.clear()")
    opened(page, html)
    assert page.evaluate(PROGRESS) == "0 of 8 clusters, 0 % of the area"
    page.set_input_files(".atlas[data-recipe=kmeans] input[type=file]", tmp_path / "mine.yaml")
    chromium.until(page, f"({SAID}).includes('mine.yaml is loaded: 3 classes')")
    assert saved(page)[0] == text
    press(page, "u")
    assert page.evaluate(PROGRESS) == "0 of 8 clusters, 0 % of the area"


def test_the_next_name_is_the_one_that_tells_most(browser: Page) -> None:
    """Clusters 1 and 2 tell of each other: once 1 has a name, 3 is next, though it is smaller than 2."""
    browser.evaluate("""() => {
        const desk = maskmill.desks.get('kmeans');
        desk.data.influences = Array.from({length: 8}, (_, i) => [[i + 1, 1]]);
        const shares = [[1, 0.36], [2, 0.25], [3, 0.16], [4, 0.01], [5, 0.0064], [6, 0], [7, 0], [8, 0]];
        desk.naming.about.shares = new Map(shares);
        desk.data.influences[0].push([2, 0.9]);
        desk.data.influences[1].push([1, 0.9]);
        desk.data.influences[3].push([5, 0.5]);
    }""")
    press(browser, "t")
    assert browser.evaluate(CURRENT) == 1  # 0.6 + 0.9 * 0.5 against 0.5 + 0.9 * 0.6
    press(browser, "b", "t")
    assert browser.evaluate(CURRENT) == 3  # 0.4 against 0.1 * 0.5 of 2
    press(browser, "b", "t")
    assert browser.evaluate(CURRENT) == 4  # 0.1 + 0.5 * 0.08 against 0.08 of 5 and 0.05 of 2
    press(browser, "b", "t")
    assert browser.evaluate(CURRENT) == 2  # 0.05 against 0.5 * 0.08 of 5


def test_names_are_completed_and_fields_can_be_left(browser: Page) -> None:
    order = browser.evaluate(SHOWN)
    press(browser, "n", "'pavement", "Enter", "n", "'person", "Enter", "n", "'p")
    offered = "[...document.querySelectorAll('#offer:not([hidden]) li')].map(e => e.textContent)"
    assert browser.evaluate(offered) == ["pavement", "person"]
    press(browser, "ArrowDown", "ArrowDown")
    assert browser.evaluate("document.activeElement.value") == "person"
    press(browser, "Enter")
    assert owners(saved(browser)[1])["person"] == [str(c) for c in sorted(order[1:3])]
    press(browser, "n", "'nothing of this", "Escape")
    assert browser.evaluate("document.activeElement.className").startswith("cluster")
    press(browser, "1", ".")  # the class of this number, and it once more
    assert owners(saved(browser)[1])["pavement"] == [str(c) for c in sorted([order[0], *order[3:5]])]
    press(browser, "n", "'background", "Enter", "Home", "x", "f")
    assert browser.evaluate(SHOWN) == [order[0], *order[6:]]
    press(browser, "f", "?")
    assert browser.evaluate("document.querySelector('.sheet').open")
    press(browser, "j", "Escape")
    chromium.until(browser, "!document.querySelector('.sheet').open")
    assert browser.evaluate(CURRENT) == order[0]
    assert owners(saved(browser)[1])["background"] == [str(order[5])]


def test_classes_are_renamed_joined_moved_coloured_and_dissolved(browser: Page) -> None:
    press(browser, "n", "'a", "Enter", "n", "'b", "Enter", "n", "'c", "Enter", "c", "Alt+ArrowDown", "Alt+ArrowDown")
    assert [row["name"] for row in saved(browser)[1]["classes"]] == ["b", "c", "a"]
    field = "document.querySelector('.atlas[data-recipe=kmeans] .classes li:first-child {}')"
    browser.evaluate(f"{field.format('.name')}.focus()")
    press(browser, "Control+a", "'street", "Enter")
    colour = field.format("[type=color]")
    browser.evaluate(f"{colour}.value = '#804080'; {colour}.dispatchEvent(new Event('change'))")
    body = saved(browser)[1]
    assert body["classes"][0] | {"clusters": None} == {"name": "street", "colour": "#804080", "clusters": None}
    browser.evaluate(f"{field.format('.name')}.focus()")
    press(browser, "Control+a", "'c", "Enter")  # a name that exists
    body = saved(browser)[1]
    assert [(row["name"], len(row["clusters"])) for row in body["classes"]] == [("c", 2), ("a", 1)]
    browser.evaluate(f"{field.format('.gone')}.click()")
    browser.select_option(".atlas[data-recipe=kmeans] .rest select", "keep")
    body = saved(browser)[1]
    assert [row["name"] for row in body["classes"]] == ["a"]
    assert body["unnamed"] == "keep"


AWKWARD = [
    "<img src=x onerror=window.hurt=1>", "yes", "null", "1e3", "17", "0x1F", "a: b", "a #b", "- a",
    '"q" \'r\' \\n', "{x}, [y]",
    "straße", "木", "🌳 tree", "~", "&a", "*a", "!a", "%a", "@a", "2026-01-01", "1:30", "__proto__", "toString",
    "</script>",
]  # fmt: skip


def about(page: Page) -> str:
    """The argument of `maskmill.read` for the recipe kmeans."""
    return "maskmill.desks.get('kmeans').naming.about"


def test_awkward_names_survive_and_are_text(browser: Page) -> None:
    before = browser.evaluate("document.images.length")
    for name in AWKWARD[:CLUSTERS]:
        press(browser, "n")
        browser.keyboard.insert_text(name)
        press(browser, "Enter")
    _, body = saved(browser)
    assert [row["name"] for row in body["classes"]] == AWKWARD[:CLUSTERS]
    for start in range(CLUSTERS, len(AWKWARD), CLUSTERS):
        names = AWKWARD[start : start + CLUSTERS]
        classes = [{"name": name, "clusters": [i + 1]} for i, name in enumerate(names)]
        fixes = [{"image": name, "class": name} for name in names]
        given = yaml.safe_dump({"taxonomy": 1, "classes": classes, "corrections": fixes}, allow_unicode=start % 16 == 0)
        back = browser.evaluate(f"(t) => maskmill.write({{...maskmill.read(t, {about(browser)}), members: ''}})", given)
        assert yaml.safe_load(back)["classes"] == classes
        assert yaml.safe_load(back)["corrections"] == fixes
    assert browser.evaluate("document.images.length") == before
    assert browser.evaluate("window.hurt") is None


@pytest.mark.parametrize("flow", [False, None, True], ids=["block", "mixed", "flow"])
@pytest.mark.parametrize("width", [40, 400])
def test_other_spellings_of_the_same_file_are_read(browser: Page, flow: bool | None, width: int) -> None:
    body = {
        "taxonomy": 1, "recipe": "kmeans", "seed": 0, "unnamed": "background", "split": {3: 2, 5: 4},
        "classes": [
            {"name": "a rather long name of a class that is folded", "clusters": [1, "3a", "3b"]},
            {"name": "car", "colour": "#0a0B0c", "clusters": [2]}, {"name": "none of it", "clusters": []},
        ],
        "background": ["5d"], "ignore": [4, 6],
        "corrections": [
            {"image": "a/b c.jpg", "region": 4, "class": "car"}, {"image": "x", "was": "car", "class": "ignore"},
        ],
        "members": "QUJD\nREVG\n",
    }  # fmt: skip
    given = yaml.safe_dump(body, default_flow_style=flow, width=width, sort_keys=False)
    if flow is None and width == 400:
        given = given.replace("members: 'QUJD\n\n  REVG\n\n  '", "members: |\n  QUJD\n  REVG").replace("\n", "\r\n")
    elif "members: 'QUJD" in given or 'members: "QUJD' in given:
        given = yaml.safe_dump({k: v for k, v in body.items() if k != "members"}, default_flow_style=flow, width=400)
        body.pop("members")
    back = yaml.safe_load(browser.evaluate(f"(t) => maskmill.write(maskmill.read(t, {about(browser)}))", given))
    body["classes"][1]["colour"] = "#0a0b0c"
    book = browser.evaluate(f"{about(browser)}.codebook")
    assert back == {"corrections": [], "split": {}} | body | {"codebook": book}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: the file is empty"),
        ("a: 1", "line 1: this is no taxonomy: the line `taxonomy: 1` is missing"),
        ("taxonomy: 2", "line 1: taxonomy: the version: a whole number from 1 to 1"),
        ("taxonomy: 1\nclases: []", 'line 2: a taxonomy has no key "clases"; it has taxonomy, recipe'),
        ("taxonomy: 1\nclasses:\n  - {name: a, clusters: [1]}\n  - {name: a}", 'line 4: the class "a" stands there'),
        ("taxonomy: 1\nclasses:\n- name: a\n  clusters: [1]\nignore: [1]", "line 5: cluster 1 is given twice, to a"),
        ("taxonomy: 1\nbackground: [9]", "line 2: background: there is no cluster 9"),
        ("taxonomy: 1\nbackground: [07]", "line 2: background: 07 has a leading zero, with which YAML counts"),
        ("taxonomy: 1\nsplit: {02: 3}", "line 2: split: 02 has a leading zero"),
        ("taxonomy: 1\nsplit: {2: 010}", "line 2: split: cluster 2: 010 has a leading zero"),
        ("taxonomy: 1\nbackground: [2a]", "line 2: background: cluster 2 has no part 2a; see split"),
        ("taxonomy: 1\nsplit: {2: 3}\nignore: [2]", "line 3: ignore: cluster 2 is split; name its parts 2a to 2c"),
        ("taxonomy: 1\nsplit: {2: 27}", "line 2: split: cluster 2: a whole number from 2 to 26"),
        ("taxonomy: 1\nclasses: [{name: yes}]", 'name: yes is no text to YAML; write "yes" in quotes'),
        ("taxonomy: 1\nclasses: [{name: ignore}]", '"ignore" is no class; list its clusters below ignore:'),
        ("taxonomy: 1\nclasses: [{name: a, colour: red}]", 'colour: "red" is no colour'),
        ("taxonomy: 1\nclasses: [{name: a, id: 3}]", "the ids of the classes are 3; give each of 1 to 1 once, or none"),
        ("taxonomy: 1\nunnamed: drop", 'unnamed: "drop" is none of ignore, background, keep'),
        ("taxonomy: 1\ncorrections: [{image: a, class: b}]", 'class: there is no class "b"'),
        ("taxonomy: 1\ncodebook: abc", "line 2: it was written for another clustering (codebook abc, here "),
        ("taxonomy: 1\nclasses: &a []", "line 2: \"&a []\": anchors, tags and folded text are no part of a taxonomy"),
        ("taxonomy: 1\nclasses: !!python/object:os.x {}", "anchors, tags and folded text are no part of a taxonomy"),
        ("taxonomy: 1\ntaxonomy: 1", 'line 2: "taxonomy" stands here twice'),
        ("taxonomy: 1\nclasses: [", "a bracket is not closed"),
        ("taxonomy: 1\n---\nclasses: []", "line 2: several documents in one file"),
        ("taxonomy: 1\nclasses:\n\t- {name: a}", "line 3: a tab before the text"),
        ("taxonomy: 1\nsome text", "line 2: not a `key: value`"),
        ("taxonomy: 1\n  classes: []", "line 2: indented more than the line before"),
        ("- 1", "line 1: this is no taxonomy"),
        ("taxonomy: 1\nclasses: [] more", 'line 2: "more" is too much here'),
    ],
)  # fmt: skip
def test_other_yaml_is_refused_with_its_line(browser: Page, tmp_path: Path, text: str, said: str) -> None:
    press(browser, "n", "'road", "Enter")
    before = browser.evaluate(TEXT)
    (tmp_path / "other.yaml").write_text(text)
    browser.set_input_files(".atlas[data-recipe=kmeans] input[type=file]", tmp_path / "other.yaml")
    chromium.until(browser, f"({SAID}).startsWith('other.yaml, line')")
    assert said in browser.evaluate(SAID)
    assert browser.evaluate(TEXT) == before


def test_a_file_can_be_dropped(browser: Page) -> None:
    browser.evaluate(
        """() => { const data = new DataTransfer();
        data.items.add(new File(['taxonomy: 1\\nclasses:\\n  - {name: road, clusters: [2]}\\n'], 'dropped.yaml'));
        document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); }"""
    )
    chromium.until(browser, f"({SAID}).includes('dropped.yaml is loaded: 1 class.')")
    assert owners(saved(browser)[1])["road"] == ["2"]


PIXEL = """([id, x, y]) => { const row = [...document.querySelectorAll('.row')].find(r => r.dataset.id === id);
  const c = row.querySelector('.panel.named[data-recipe=kmeans] canvas');
  return [...c.getContext('2d').getImageData(Math.floor(x * c.width), Math.floor(y * c.height), 1, 1).data]; }"""


def test_the_gallery_shows_the_classes_and_corrections_of_an_image(browser: Page, html: Path) -> None:
    live = "document.querySelectorAll('.panel.named[data-recipe=kmeans]:not(.asleep)').length"
    assert browser.evaluate(live) == 0
    order = browser.evaluate(SHOWN)
    store = Ragged(html.parent / FOLDER / "taxonomy/survey.zarr", "masks")
    image = store.ids[0]
    values = store[image]
    cluster = int(np.bincount(values.ravel()).argmax())
    ys, xs = np.nonzero(values == cluster)
    place = [image, (xs[0] + 0.5) / values.shape[1], (ys[0] + 0.5) / values.shape[0]]
    for _ in range(order.index(cluster)):
        press(browser, "j")
    press(browser, "n", "'road", "Enter", "n", "'sky", "Enter")
    assert browser.evaluate(live) == 10
    browser.evaluate("document.querySelector('.row').scrollIntoView({behavior: 'instant'})")
    chromium.until(browser, "document.querySelector('.row .panel.named[data-recipe=kmeans]').dataset.stale === ''")
    first, second = browser.evaluate("maskmill.desks.get('kmeans').data.palette.slice(0, 2)")
    assert browser.evaluate(PIXEL, place) == [*bytes.fromhex(first[1:]), 255]

    browser.evaluate("document.querySelector('.row .panel.named[data-recipe=kmeans]').focus()")
    press(browser, "Enter")
    browser.select_option("#box-correct select", "=road")
    browser.focus("#box-correct input")
    press(browser, "'sky", "Enter")
    assert browser.evaluate(PIXEL, place) == [*bytes.fromhex(second[1:]), 255]
    press(browser, "Escape")
    chromium.until(browser, "!document.querySelector('#box').open")
    body = saved(browser)[1]
    assert body["corrections"] == [{"image": image, "was": "road", "class": "sky"}]

    browser.evaluate("document.querySelectorAll('.row')[1].querySelector('.panel.photo').focus()")
    press(browser, "Enter")
    browser.get_by_role("button", name="Leave this image out").click()
    press(browser, "Escape")
    chromium.until(browser, "!document.querySelector('#box').open")
    assert saved(browser)[1]["corrections"][1] == {"image": store.ids[1], "class": "ignore"}
    browser.evaluate("document.querySelector('.atlas[data-recipe=kmeans] .classes .fixes .gone').click()")
    assert saved(browser)[1]["corrections"] == [{"image": store.ids[1], "class": "ignore"}]


FIX = Correction("set0/image-000000", 2, None, 1)


def written_by_the_run(
    folders: list[Path],
    values: list[int],
    naming: dict[str, Any],
    fix: Correction = FIX,
    unnamed: str = "ignore",
    decided: Sequence[int] | None = None,
) -> str:
    """The files of the stage taxonomy of some seeds, whose cluster i has the class values[i]; the first document.

    Clusters that are not among the decided ones (numbers from 1; by default all) are what `unnamed` makes of them.
    """
    for folder in folders:
        codebook = folders[0] / "cluster/codebook.safetensors"
        book = read(codebook)
        parts = np.zeros((0, book.centroids.shape[1]), np.float32)
        open_ = set() if decided is None else set(range(1, len(values) + 1)) - set(decided)
        leaves = [Leaf(i, value, i + 1 in open_) for i, value in enumerate(values)]
        count = max(len(naming["classes"]), *values)
        found = replace(
            merged(book, leaves, parts, count), corrections=(fix,), unnamed=unnamed, notes=("a <b>note</b>",)
        )
        write(folder / "taxonomy/classes.safetensors", found, Provenance.of("taxonomy", {}))
        write_json(folder / "taxonomy/members.json", {"members": synthetic_run.MEMBERS}, Provenance.of("taxonomy", {}))
        names(
            folder / "taxonomy/classes.safetensors",
            codebook,
            folder / "taxonomy/members.json",
            {"recipe": "kmeans", "seed": 0, "source": "file", "naming": naming},
            NameFiles(folder / "taxonomy/classes.json", folder / "taxonomy/taxonomy.yaml"),
        )
    return (folders[0] / "taxonomy/taxonomy.yaml").read_text("utf-8")


def test_a_named_run_opens_with_its_names(tab: tuple[Page, list[str]], tmp_path: Path) -> None:
    page, problems = tab
    problems.clear()
    plan = synthetic_run.build(tmp_path, images=3, clusters=4)
    plan["recipes"]["kmeans"]["named"] = True
    naming = {
        "classes": [
            [1, "</script><b>x", "#aa00FF"],
            [2, "na\u2028me: \u00e9", None],
            [3, "no", None],
            [4, "-", "#010203"],
        ]
    }
    seeds = [tmp_path / FOLDER.replace("seed0", f"seed{seed}") for seed in (0, 1)]
    first = written_by_the_run(seeds, [1, 2, 0, -1], naming)
    target = tmp_path / "report.html"
    run(plan, tmp_path / "results", tmp_path / "benchmarks", target)
    chromium.load(page, target)
    page.evaluate("localStorage.clear()")
    opened(page, target)
    assert page.evaluate("document.querySelector('.atlas[data-recipe=kmeans] .notes').textContent") == "a <b>note</b>"
    assert page.evaluate(PROGRESS) == "4 of 4 clusters, 100 % of the area"
    assert saved(page)[0] == first  # to the last byte as the stage writes it
    assert page.evaluate("document.querySelectorAll('.panel.named[data-recipe=kmeans]:not(.asleep)').length") == 0
    press(page, "Home", "x")
    kept = page.evaluate(TEXT)
    opened(page, target)
    assert page.evaluate(TEXT) == kept

    naming["classes"][0][1] = "later"  # the run has other names now: they are shown
    second = written_by_the_run(seeds, [1, 2, 0, -1], naming)
    run(plan, tmp_path / "results", tmp_path / "benchmarks", target)
    opened(page, target)
    assert saved(page)[0] == second
    assert owners(saved(page)[1])["later"] == ["1"]
    press(page, "u")  # and what was typed before is not lost
    assert page.evaluate(TEXT) == kept
    assert problems == []


def test_five_hundred_clusters_fit(tab: tuple[Page, list[str]], tmp_path: Path) -> None:
    page, problems = tab
    problems.clear()
    plan = synthetic_run.build(tmp_path, images=24, shard_size=24, clusters=500, seeds=(0,), tokens=24, labelled=False)
    target = tmp_path / "report.html"
    run(plan, tmp_path / "results", tmp_path / "benchmarks", target)
    assert target.stat().st_size < 16 << 20
    opened(page, target)
    assert len(page.evaluate(SHOWN)) == 500
    stops = "[...document.querySelectorAll('.atlas[data-recipe=kmeans] :is(button, input, select, li)')]"
    assert page.evaluate(f"{stops}.filter(e => e.tabIndex >= 0).length") < 30
    press(page, "n", "'road", "Enter", "End", "b")
    chromium.until(page, f"({PROGRESS}).startsWith('2 of 500 clusters')")
    assert problems == []


def test_maps_are_packed_as_the_page_unpacks_them(browser: Page, html: Path) -> None:
    for recipe in ("kmeans", "comus"):
        store = Ragged(html.parent / f"results/recipes/{recipe}/seed0/taxonomy/survey.zarr", "masks")
        maps = json.loads(browser.evaluate(f"JSON.stringify(maskmill.desks.get('{recipe}').data.maps)"))
        assert set(maps) == set(store.ids)
        for image, (height, width, text) in maps.items():
            numbers, value, shift = [], 0, 0
            for byte in base64.b64decode(text):
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    numbers.append(value)
                    value = shift = 0
            np.testing.assert_array_equal(np.repeat(numbers[::2], numbers[1::2]).reshape(height, width), store[image])


def test_after_its_run_a_taxonomy_still_knows_what_has_no_name(tab: tuple[Page, list[str]], tmp_path: Path) -> None:
    """What nobody has decided stays open in the document of a run, in the browser that wrote it and in any other."""
    page, problems = tab
    problems.clear()
    plan = synthetic_run.build(tmp_path, images=3, clusters=4)
    target = tmp_path / "report.html"
    run(plan, tmp_path / "results", tmp_path / "benchmarks", target)
    chromium.load(page, target)
    page.evaluate("localStorage.clear()")
    opened(page, target)
    order = page.evaluate(SHOWN)
    press(page, "n", "'road", "Enter")
    page.select_option(".atlas[data-recipe=kmeans] .rest select", "keep")
    entry = {"image": "set0/image-000000", "was": "road", "class": "ignore"}
    page.evaluate("entry => maskmill.desks.get('kmeans').naming.correct(entry)", entry)
    kept, _ = saved(page)
    values = [*[2, 3, 4][: order[0] - 1], 1, *[2, 3, 4][order[0] - 1 :]]  # the others are kept
    seeds = [tmp_path / FOLDER.replace("seed0", f"seed{seed}") for seed in (0, 1)]
    fix = Correction("set0/image-000000", -1, None, 1)
    written_by_the_run(seeds, values, {"classes": [[1, "road", None]]}, fix, "keep", [order[0]])
    plan["recipes"]["kmeans"]["named"] = True
    run(plan, tmp_path / "results", tmp_path / "benchmarks", target)
    opened(page, target)
    assert page.evaluate(PROGRESS).startswith("1 of 4 clusters")
    assert page.evaluate(TEXT) == kept
    page.evaluate("localStorage.clear()")  # another browser
    opened(page, target)
    assert page.evaluate(PROGRESS).startswith("1 of 4 clusters")
    body = saved(page)[1]
    assert owners(body) == {"road": [str(order[0])], "background": [], "ignore": []}
    assert body["unnamed"] == "keep"
    assert problems == []


def test_keys_of_the_page_are_left_alone_elsewhere(browser: Page) -> None:
    before = browser.evaluate(TEXT)
    browser.evaluate("document.activeElement.blur()")
    top = browser.evaluate("scrollY")
    press(browser, "ArrowDown", "ArrowDown", "ArrowDown")
    chromium.until(browser, f"scrollY > {top}")  # scrolls, and does not step
    assert browser.evaluate("document.activeElement.tagName") == "BODY"
    browser.evaluate("document.querySelector('#find').focus()")
    press(browser, "'binux1")
    assert browser.evaluate("document.querySelector('#find').value") == "binux1"
    browser.evaluate("document.querySelector('.row .panel').focus()")
    press(browser, "b", "i", "1")
    assert browser.evaluate(TEXT) == before


def test_names_that_differ_only_in_case_are_warned_of(browser: Page) -> None:
    """The name that exists is offered, and who keeps both is told so, as long as both are there."""
    order = browser.evaluate(SHOWN)
    press(browser, "n", "'cat", "Enter", "n", "'Cat")
    assert browser.evaluate("[...document.querySelectorAll('#offer:not([hidden]) li')].map(e => e.textContent)") == [
        "cat"
    ]
    press(browser, "Enter")
    said = f"Cluster {order[1]}: Cat, which differs from cat only in case and is not the same class. u undoes."
    assert browser.evaluate(SAID) == said
    assert "bad" in browser.evaluate("document.querySelector('.atlas[data-recipe=kmeans] .said').className")
    notes = "[...document.querySelectorAll('.atlas[data-recipe=kmeans] .twins')].map(e => e.textContent)"
    assert browser.evaluate(notes) == ["cat and Cat differ only in case and are not the same class."]
    press(browser, "u")
    assert browser.evaluate(notes) == []
    press(browser, "n", "'Ignore", "Enter")
    assert browser.evaluate(notes) == ["ignore and Ignore differ only in case and are not the same class."]
