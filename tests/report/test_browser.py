"""The report in a real browser: it loads, filters, switches and obeys the keyboard, without an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromium
import pytest
import synthetic_run
from playwright.sync_api import Page

from maskmill.report.run import run


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.report(tmp_path_factory.mktemp("run"))


@pytest.fixture
def browser(tab: tuple[Page, list[str]], html: Path) -> Iterator[Page]:
    page, problems = tab
    problems.clear()
    chromium.load(page, html)
    yield page
    assert problems == []


ROWS = "[...document.querySelectorAll('.row')].filter(r => !r.hidden).map(r => r.dataset.id)"
FOCUS = (
    "document.activeElement.getAttribute('aria-label') || document.activeElement.id || document.activeElement.tagName"
)


def test_every_image_loads(browser: Page) -> None:
    browser.evaluate("document.querySelectorAll('img[loading]').forEach(i => i.loading = 'eager')")
    loaded = "Promise.all([...document.querySelectorAll('img[src]')].map(i => i.decode().then(() => i.naturalWidth)))"
    widths = browser.evaluate(loaded)
    assert len(widths) > 60
    assert min(widths) > 0
    photos = """Promise.all([...new Set([...document.querySelectorAll('.row .frame')].map(
      f => getComputedStyle(f).backgroundImage.slice(5, -2)))].map(
      async s => { const i = new Image(); i.src = s; await i.decode(); return i.naturalWidth; }))"""
    widths = browser.evaluate(photos)
    assert len(widths) == 10
    assert min(widths) > 0


def test_recipe_switch(browser: Page) -> None:
    shown = (
        "[...document.querySelectorAll('.row:first-child .panel')].filter(p => p.offsetParent)"
        ".map(p => p.innerText.trim())"
    )
    steps = [text.removesuffix(" 0.90") for text in browser.evaluate(shown)]
    assert steps == ["photo", "cut", "round 0", "round 1", "round 2"]
    browser.evaluate("document.querySelector('input[name=recipe][value=kmeans]').click()")
    assert browser.evaluate(shown) == ["photo", "clusters"]
    assert browser.evaluate("[...document.querySelectorAll('.atlas')].filter(a => a.offsetParent).length") == 1
    browser.evaluate("document.querySelector('input[name=recipe][value=\"\"]').click()")
    assert browser.evaluate(shown) == ["photo", "kmeans clusters", "comus round 2"]


def test_filter_by_text(browser: Page) -> None:
    assert len(browser.evaluate(ROWS)) == 10
    browser.evaluate("document.querySelector('#find').focus()")
    browser.keyboard.insert_text("SET1")
    assert len(browser.evaluate(ROWS)) == 5
    assert all(name.startswith("set1/") for name in browser.evaluate(ROWS))
    assert browser.evaluate("document.querySelector('#shown').textContent") == "5 of 10"
    browser.keyboard.insert_text("nothing like it")
    assert browser.evaluate(ROWS) == []
    assert browser.evaluate("document.querySelector('#nothing').offsetParent !== null")
    browser.evaluate("document.querySelector('#clear').click()")
    assert len(browser.evaluate(ROWS)) == 10


def test_filter_by_cluster(browser: Page, html: Path) -> None:
    from maskmill.store.ragged import Ragged

    folder = html.parent / "results/recipes/comus/seed0/round2/masks"
    stores = [Ragged(path, "masks") for path in sorted(folder.glob("*.zarr"))]
    expected = sorted(name for store in stores for name in store.ids if (store[name] == 2).any())
    chip = "document.querySelector('.legend[data-for=comus] .chip[data-cluster=\"2\"]')"
    browser.evaluate(f"{chip}.click()")
    assert sorted(browser.evaluate(ROWS)) == expected
    assert 0 < len(expected) < 10
    assert browser.evaluate(f"{chip}.getAttribute('aria-pressed')") == "true"
    assert browser.evaluate("document.querySelectorAll('canvas.only').length") == 3 * len(expected)
    browser.evaluate(f"{chip}.click()")
    assert len(browser.evaluate(ROWS)) == 10


def test_lightbox_by_keyboard(browser: Page) -> None:
    title = "document.querySelector('#box-title').textContent"
    browser.evaluate("document.querySelector('.row .panel').focus()")
    browser.keyboard.press("Enter")
    assert browser.evaluate("document.querySelector('#box').open")
    first = browser.evaluate(title)
    assert first.endswith(": photo")
    browser.keyboard.press("ArrowRight")
    assert browser.evaluate(title).endswith(": comus, cut")
    browser.keyboard.press("ArrowLeft")
    browser.keyboard.press("ArrowLeft")
    assert browser.evaluate(title).endswith(": comus, round 2")
    browser.keyboard.press("ArrowDown")
    assert browser.evaluate(title).endswith(": comus, round 2")
    assert browser.evaluate(title).split(":")[0] != first.split(":")[0]
    browser.evaluate("document.activeElement.blur()")
    browser.keyboard.press("Escape")
    browser.wait_for_function("!document.querySelector('#box').open")
    browser.wait_for_function(f"({FOCUS}).includes('round 2')")


def test_arrows_wander_in_the_gallery(browser: Page) -> None:
    browser.evaluate("document.querySelector('.row .panel').focus()")
    browser.keyboard.press("End")
    assert "round 2" in browser.evaluate(FOCUS)
    before = browser.evaluate(FOCUS)
    browser.keyboard.press("ArrowDown")
    assert "round 2" in browser.evaluate(FOCUS)
    assert browser.evaluate(FOCUS) != before
    browser.keyboard.press("Home")
    assert browser.evaluate(FOCUS).endswith("photo")


def test_tab_reaches_everything_and_shows_where(browser: Page) -> None:
    wanted = browser.evaluate(
        """[...document.querySelectorAll('a[href], button, input, summary, [tabindex="0"]')]
        .filter(e => e.checkVisibility() && e.tabIndex >= 0 && !e.disabled)
        .filter(e => !(e.type === 'radio' && !e.checked)).length"""
    )
    seen = browser.evaluate("window.seen = new Set(); window.bare = []; 0")
    for _ in range(wanted + 5):
        browser.keyboard.press("Tab")
        seen = browser.evaluate(
            """(() => { const e = document.activeElement; if (e === document.body) return seen.size; seen.add(e);
            const own = [e, e.nextElementSibling, ...e.querySelectorAll('.frame')].filter(Boolean);
            if (!own.some(o => getComputedStyle(o).outlineStyle !== 'none')) bare.push(e.outerHTML.slice(0, 80));
            return seen.size; })()"""
        )
    assert seen >= wanted
    assert browser.evaluate("bare") == []


def test_opacity_and_pointer(browser: Page) -> None:
    browser.evaluate(
        "const slider = document.querySelector('#opacity'); slider.value = 30; slider.dispatchEvent(new Event('input'))"
    )
    assert browser.evaluate("getComputedStyle(document.querySelector('.row img.mask')).opacity") == "0.3"
    browser.evaluate("document.querySelector('input[value=kmeans]').click()")
    panel = "document.querySelector('.row .panel.last:not([hidden]) .frame')"
    x, y = browser.evaluate(
        f"(() => {{ const f = ({panel}); f.scrollIntoView({{block: 'center', behavior: 'instant'}});"
        " const r = f.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
    )
    browser.mouse.move(x, y)
    browser.wait_for_function(r"/^cluster \d/.test(document.querySelector('#tip').textContent)")


@pytest.mark.parametrize("width", [360, 768, 1440, 3840])
def test_no_sideways_scrolling(browser: Page, html: Path, width: int) -> None:
    chromium.load(browser, html, width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_empty_run_has_no_errors(tab: tuple[Page, list[str]], tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path, images=0, labelled=False, benchmarks=False, rejected=0)
    run(plan, tmp_path / "results", tmp_path / "benchmarks", tmp_path / "report.html")
    page, problems = tab
    problems.clear()
    chromium.load(page, tmp_path / "report.html")
    assert page.evaluate("document.documentElement.className") == "js"
    assert problems == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>throw new Error('thrown')</script>", "thrown"),
        ("<script>console.error('written')</script>", "written"),
        ("<script>console.warn('warned')</script>", "warned"),
        ("<img src='nowhere.png'>", "ERR_FILE_NOT_FOUND"),
        ("<img src='http://127.0.0.1:9/x.png'>", "loads http://127.0.0.1:9/x.png"),
        ("<meta http-equiv=Content-Security-Policy content=\"img-src 'none'\"><img src='data:image/gif,'>", "img-src"),
    ],
)
def test_what_the_tests_above_would_see(tab: tuple[Page, list[str]], tmp_path: Path, body: str, said: str) -> None:
    page, problems = tab
    problems.clear()
    (tmp_path / "page.html").write_text(body)
    chromium.load(page, tmp_path / "page.html")
    assert any(said in problem for problem in problems)
