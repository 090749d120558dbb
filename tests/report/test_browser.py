"""The report in a real browser: it loads, filters, switches and obeys the keyboard, without an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
import synthetic_run

from maskmill.report.run import run


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    run(synthetic_run.build(root), root / "results", root / "benchmarks", root / "report.html")
    return root / "report.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Page]:
    executable = chromium.find()
    if executable is None:
        pytest.skip("no Chromium here (set CHROMIUM to its path)")
    with chromium.page(executable, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def browser(tab: chromium.Page, html: Path) -> Iterator[chromium.Page]:
    tab.problems.clear()
    tab.open(html)
    yield tab
    assert tab.problems == []


ROWS = "[...document.querySelectorAll('.row')].filter(r => !r.hidden).map(r => r.dataset.id)"
FOCUS = (
    "document.activeElement.getAttribute('aria-label') || document.activeElement.id || document.activeElement.tagName"
)


def test_every_image_loads(browser: chromium.Page) -> None:
    browser.run("document.querySelectorAll('img[loading]').forEach(i => i.loading = 'eager')")
    loaded = "Promise.all([...document.querySelectorAll('img[src]')].map(i => i.decode().then(() => i.naturalWidth)))"
    widths = browser.run(loaded)
    assert len(widths) > 60
    assert min(widths) > 0
    photos = """Promise.all([...new Set([...document.querySelectorAll('.row .frame')].map(
      f => getComputedStyle(f).backgroundImage.slice(5, -2)))].map(
      async s => { const i = new Image(); i.src = s; await i.decode(); return i.naturalWidth; }))"""
    widths = browser.run(photos)
    assert len(widths) == 10
    assert min(widths) > 0


def test_recipe_switch(browser: chromium.Page) -> None:
    shown = (
        "[...document.querySelectorAll('.row:first-child .panel')].filter(p => p.offsetParent)"
        ".map(p => p.innerText.trim())"
    )
    steps = [text.removesuffix(" 0.90") for text in browser.run(shown)]
    assert steps == ["photo", "cut", "round 0", "round 1", "round 2"]
    browser.run("document.querySelector('input[name=recipe][value=kmeans]').click()")
    assert browser.run(shown) == ["photo", "clusters"]
    assert browser.run("[...document.querySelectorAll('.atlas')].filter(a => a.offsetParent).length") == 1
    browser.run("document.querySelector('input[name=recipe][value=\"\"]').click()")
    assert browser.run(shown) == ["photo", "kmeans clusters", "comus round 2"]


def test_filter_by_text(browser: chromium.Page) -> None:
    assert len(browser.run(ROWS)) == 10
    browser.run("document.querySelector('#find').focus()")
    browser.write("SET1")
    assert len(browser.run(ROWS)) == 5
    assert all(name.startswith("set1/") for name in browser.run(ROWS))
    assert browser.run("document.querySelector('#shown').textContent") == "5 of 10"
    browser.write("nothing like it")
    assert browser.run(ROWS) == []
    assert browser.run("document.querySelector('#nothing').offsetParent !== null")
    browser.run("document.querySelector('#clear').click()")
    assert len(browser.run(ROWS)) == 10


def test_filter_by_cluster(browser: chromium.Page, html: Path) -> None:
    from maskmill.store.ragged import Ragged

    folder = html.parent / "results/recipes/comus/seed0/round2/masks"
    stores = [Ragged(path, "masks") for path in sorted(folder.glob("*.zarr"))]
    expected = sorted(name for store in stores for name in store.ids if (store[name] == 2).any())
    chip = "document.querySelector('.legend[data-for=comus] .chip[data-cluster=\"2\"]')"
    browser.run(f"{chip}.click()")
    assert sorted(browser.run(ROWS)) == expected
    assert 0 < len(expected) < 10
    assert browser.run(f"{chip}.getAttribute('aria-pressed')") == "true"
    assert browser.run("document.querySelectorAll('canvas.only').length") == 3 * len(expected)
    browser.run(f"{chip}.click()")
    assert len(browser.run(ROWS)) == 10


def test_lightbox_by_keyboard(browser: chromium.Page) -> None:
    title = "document.querySelector('#box-title').textContent"
    browser.run("document.querySelector('.row .panel').focus()")
    browser.press("Enter")
    assert browser.run("document.querySelector('#box').open")
    first = browser.run(title)
    assert first.endswith(": photo")
    browser.press("ArrowRight")
    assert browser.run(title).endswith(": comus, cut")
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.run(title).endswith(": comus, round 2")
    browser.press("ArrowDown")
    assert browser.run(title).endswith(": comus, round 2")
    assert browser.run(title).split(":")[0] != first.split(":")[0]
    browser.run("document.activeElement.blur()")
    browser.press("Escape")
    browser.until("!document.querySelector('#box').open")
    browser.until(f"({FOCUS}).includes('round 2')")


def test_arrows_wander_in_the_gallery(browser: chromium.Page) -> None:
    browser.run("document.querySelector('.row .panel').focus()")
    browser.press("End")
    assert "round 2" in browser.run(FOCUS)
    before = browser.run(FOCUS)
    browser.press("ArrowDown")
    assert "round 2" in browser.run(FOCUS)
    assert browser.run(FOCUS) != before
    browser.press("Home")
    assert browser.run(FOCUS).endswith("photo")


def test_tab_reaches_everything_and_shows_where(browser: chromium.Page) -> None:
    wanted = browser.run(
        """[...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
        .filter(e => e.checkVisibility() && !(e.type === 'radio' && !e.checked)).length"""
    )
    seen = browser.run("window.seen = new Set(); window.bare = []; 0")
    for _ in range(wanted + 5):
        browser.press("Tab")
        seen = browser.run(
            """(() => { const e = document.activeElement; if (e === document.body) return seen.size; seen.add(e);
            const own = [e, e.nextElementSibling, ...e.querySelectorAll('.frame')].filter(Boolean);
            if (!own.some(o => getComputedStyle(o).outlineStyle !== 'none')) bare.push(e.outerHTML.slice(0, 80));
            return seen.size; })()"""
        )
    assert seen >= wanted
    assert browser.run("bare") == []


def test_opacity_and_pointer(browser: chromium.Page) -> None:
    browser.run(
        "const slider = document.querySelector('#opacity'); slider.value = 30; slider.dispatchEvent(new Event('input'))"
    )
    assert browser.run("getComputedStyle(document.querySelector('.row img.mask')).opacity") == "0.3"
    browser.run("document.querySelector('input[value=kmeans]').click()")
    panel = "document.querySelector('.row .panel.last:not([hidden]) .frame')"
    x, y = browser.run(
        f"(() => {{ const f = ({panel}); f.scrollIntoView({{block: 'center', behavior: 'instant'}});"
        " const r = f.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    browser.move(x, y)
    browser.until(r"/^cluster \d/.test(document.querySelector('#tip').textContent)")


@pytest.mark.parametrize("width", [360, 768, 1440, 3840])
def test_no_sideways_scrolling(browser: chromium.Page, html: Path, width: int) -> None:
    browser.open(html, width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_empty_run_has_no_errors(tab: chromium.Page, tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path, images=0, labelled=False, benchmarks=False, rejected=0)
    run(plan, tmp_path / "results", tmp_path / "benchmarks", tmp_path / "report.html")
    tab.problems.clear()
    tab.open(tmp_path / "report.html")
    assert tab.run("document.documentElement.className") == "js"
    assert tab.problems == []
