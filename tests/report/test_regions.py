"""Corrections of single regions in the large view of the gallery, in a real browser with real clicks and keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
import synthetic_run
import yaml
from playwright.sync_api import Page

from maskmill.store.ragged import Ragged
from maskmill.taxonomy import _document

CLUSTERS = 8
IMAGE = "set1/image-000001"  # two regions
TEXT = "maskmill.desks.get('comus').naming.text()"
CHOSEN = "maskmill.regions.chosen()"
CORRECTIONS = "JSON.stringify(maskmill.desks.get('comus').naming.doc.corrections)"
PIXEL = """([id, x, y]) => { const row = [...document.querySelectorAll('.row')].find(r => r.dataset.id === id);
  const c = row.querySelector('.panel.named[data-recipe=comus] canvas');
  return [...c.getContext('2d').getImageData(Math.floor(x * c.width), Math.floor(y * c.height), 1, 1).data]; }"""


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.report(tmp_path_factory.mktemp("run"), clusters=CLUSTERS)


@pytest.fixture
def segments(html: Path) -> np.ndarray:
    """Regions [h, w] of the image."""
    shards = [Ragged(path, "segments") for path in (html.parent / "results/recipes/comus/cut").glob("*.zarr")]
    return next(shard[IMAGE] for shard in shards if IMAGE in shard.ids)


@pytest.fixture
def browser(tab: tuple[Page, list[str]], html: Path) -> Iterator[Page]:
    page, problems = tab
    problems.clear()
    chromium.load(page, html)
    page.evaluate("localStorage.clear()")
    opened(page, html)
    yield page
    assert problems == []


def opened(page: Page, html: Path, recipe: str = "comus", step: str = "cut") -> None:
    """The page again, with the large view of a panel of the image."""
    chromium.load(page, html)
    page.evaluate(f"document.querySelector('input[name=recipe][value={recipe}]').click()")
    panel = f".row[data-id='{IMAGE}'] .panel[data-recipe={recipe}][data-step='{step}']"
    page.evaluate(f'document.querySelector("{panel}").focus()')
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('#box').open")


def place_of(segments: np.ndarray, region: int) -> tuple[float, float]:
    """A place well inside a region, x and y in 0..1."""
    ys, xs = np.nonzero(segments == region)
    middle = np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2)
    return (xs[middle] + 0.5) / segments.shape[1], (ys[middle] + 0.5) / segments.shape[0]


def click(page: Page, place: tuple[float, float]) -> None:
    """A click on a place of the large view."""
    area = page.evaluate("document.querySelector('#box-frame').getBoundingClientRect().toJSON()")
    page.mouse.click(area["x"] + place[0] * area["width"], area["y"] + place[1] * area["height"])


def saved(page: Page) -> dict[str, Any]:
    """The file that the page saves, after the large view was closed, as a YAML library reads it."""
    page.keyboard.press("Escape")
    chromium.until(page, "!document.querySelector('#box').open")
    with page.expect_download() as found:
        page.keyboard.press("Control+s")
    body: dict[str, Any] = yaml.safe_load(Path(found.value.path()).read_text("utf-8"))
    return body


def test_a_clicked_region_gets_another_class(browser: Page, html: Path, segments: np.ndarray, tmp_path: Path) -> None:
    """Click, type, Enter; it is painted, saved, understood by the stage, kept by the browser, and undone."""
    page = browser
    first, second = np.unique(segments[segments > 0])[:2].tolist()
    assert page.evaluate(CHOSEN) == 0
    click(page, place_of(segments, second))
    assert page.evaluate(CHOSEN) == second
    assert page.evaluate("document.querySelectorAll('#box-frame .pick canvas').length") == 1
    page.keyboard.press("Enter")
    page.keyboard.type("bird")
    page.keyboard.press("Enter")
    expected = [{"image": IMAGE, "region": second, "class": "bird"}]
    assert yaml.safe_load(page.evaluate(CORRECTIONS)) == expected
    assert page.evaluate("document.activeElement.id") == "box-frame"  # on with the keys
    assert "region" in page.evaluate("document.querySelector('#box-correct .fixes').textContent")
    panel = f".row[data-id='{IMAGE}'] .panel.named[data-recipe=comus]"
    chromium.until(page, f'document.querySelector("{panel}").dataset.stale === ""')
    colour = page.evaluate("maskmill.desks.get('comus').data.palette[0]")
    assert page.evaluate(PIXEL, [IMAGE, *place_of(segments, second)]) == [*bytes.fromhex(colour[1:]), 255]
    assert page.evaluate(PIXEL, [IMAGE, *place_of(segments, first)])[:3] != [*bytes.fromhex(colour[1:])]
    text = page.evaluate(TEXT)
    assert saved(page)["corrections"] == expected

    (tmp_path / "mine.yaml").write_text(text)
    document = _document.read(str(tmp_path / "mine.yaml"))
    assert [(each.image, each.region, each.value) for each in document.fixes] == [(IMAGE, second, 1)]

    opened(page, html)  # this browser has kept it
    assert page.evaluate(TEXT) == text
    page.evaluate("localStorage.clear()")
    opened(page, html)
    assert page.evaluate(CORRECTIONS) == "[]"
    page.set_input_files(".atlas[data-recipe=comus] input[type=file]", tmp_path / "mine.yaml")  # loaded back
    chromium.until(page, f"({TEXT}) === {json.dumps(text)}")
    page.keyboard.press("Control+z")
    assert page.evaluate(CORRECTIONS) == "[]"
    page.keyboard.press("Control+y")
    assert yaml.safe_load(page.evaluate(CORRECTIONS)) == expected


def test_regions_by_keys(browser: Page, segments: np.ndarray) -> None:
    page = browser
    regions = np.unique(segments[segments > 0]).tolist()
    press = page.keyboard.press
    press("1")  # nothing is chosen and no class is there: nothing happens
    assert page.evaluate(CORRECTIONS) == "[]"
    press("j")
    assert page.evaluate(CHOSEN) == regions[0]
    press("k")
    assert page.evaluate(CHOSEN) == regions[-1]
    press("j")
    press("n")
    page.keyboard.type("cat")
    press("Enter")
    press("j")
    press("1")  # the class of this number
    both = [{"image": IMAGE, "region": region, "class": "cat"} for region in regions[:2]]
    assert yaml.safe_load(page.evaluate(CORRECTIONS)) == both
    press("i")
    assert yaml.safe_load(page.evaluate(CORRECTIONS))[1] == both[1] | {"class": "ignore"}
    press("u")
    assert yaml.safe_load(page.evaluate(CORRECTIONS)) == both
    press("x")
    assert yaml.safe_load(page.evaluate(CORRECTIONS)) == both[:1]
    press("r")  # nothing was undone since
    press("ArrowRight")  # the next panel of the same image: the region stays chosen
    assert page.evaluate(CHOSEN) == regions[1]
    press("ArrowDown")
    assert page.evaluate(CHOSEN) == 0
    assert page.evaluate("document.querySelector('#box-frame .pick')") is None


def test_a_click_beside_all_regions_still_hides_the_mask(browser: Page, segments: np.ndarray) -> None:
    bare = "document.querySelector('#box-frame').classList.contains('bare')"
    click(browser, place_of(np.where(segments > 0, 0, 1), 1))
    assert browser.evaluate(bare)
    region = int(segments.max())
    for chosen in (region, 0):  # chosen, and let go
        click(browser, place_of(segments, region))
        assert browser.evaluate(CHOSEN) == chosen
    assert browser.evaluate(bare)


def test_the_list_chooses_a_region_or_what_is_wrong(browser: Page, segments: np.ndarray) -> None:
    region = int(segments.max())
    browser.select_option("#box-correct select", f"#{region}")
    assert browser.evaluate(CHOSEN) == region
    assert browser.evaluate("document.querySelector('#box-correct select').value") == f"#{region}"
    browser.select_option("#box-correct select", "")
    assert browser.evaluate(CHOSEN) == 0
    assert browser.evaluate("document.querySelector('#box-correct select').value") == ""


def test_corrections_apply_one_after_the_other(browser: Page, segments: np.ndarray) -> None:
    """As in the run: the whole image, then a region, then all of a class; and nothing outside the regions."""
    first, second = np.unique(segments[segments > 0])[:2].tolist()
    browser.evaluate(
        """([image, region]) => { const { naming } = maskmill.desks.get('comus');
        naming.correct({image, class: 'a'}); naming.correct({image, region, class: 'b'});
        naming.correct({image, was: 'a', class: 'c'}); }""",
        [IMAGE, second],
    )
    called = f"(region) => maskmill.regions.calledIn(maskmill.desks.get('comus'), '{IMAGE}', region)"
    assert [browser.evaluate(called, region) for region in (first, second)] == ["c", "b"]
    outside = browser.evaluate(f"maskmill.ownerIn(maskmill.desks.get('comus'), '{IMAGE}')(0, 0)")
    assert outside is None


def test_recipes_of_tokens_have_no_regions(browser: Page, html: Path) -> None:
    opened(browser, html, "kmeans", "clusters")
    assert browser.evaluate("maskmill.desks.get('kmeans').data.parts") is None
    browser.keyboard.press("j")
    assert browser.evaluate(CHOSEN) == 0
    assert browser.evaluate("document.querySelector('#box-correct .hint')") is None
    browser.keyboard.press("Escape")
    chromium.until(browser, "!document.querySelector('#box').open")
