"""The report: what it says about a synthetic run, and how it behaves in a real browser."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_run
from PIL import Image
from report_page import check, report, text_of

from maskmill.errors import StoreError
from maskmill.images import sample as _sample
from maskmill.images.masks import to_size
from maskmill.progress import duration
from maskmill.report import _facts, _objects, _pictures, _scores, _timing
from maskmill.report._page import SCRIPTS
from maskmill.report.run import _rejected, run
from maskmill.store.artefact import write_json
from maskmill.store.provenance import Provenance
from maskmill.store.seal import file_crc32c


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("run")
    return root, report(root, synthetic_run.build(root))


# --- the page as text ---------------------------------------------------------------------------------------------


def test_page_is_well_formed_and_loads_nothing(made: tuple[Path, str]) -> None:
    checker = check(made[1])
    for tag, values in checker.tags:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            value = values.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value[:60]}>"
    assert "http://" not in made[1]
    assert "https://" not in made[1]
    assert not re.findall(r"url\((?!data:image/)", made[1])
    assert "@import" not in made[1]


def test_page_says_what_the_run_was(made: tuple[Path, str]) -> None:
    text = text_of(made[1])
    for part in ("10 images", "3 shards", "2 rejected", "2 recipes", "2 seeds", "bad/0", "not an image"):
        number, _, word = part.partition(" ")
        assert part in text or f"{word} {number}" in text, part
    assert "hash of the configuration" in text
    assert "tau: 0.2" in text


def test_scores_have_mean_spread_and_best_and_never_share_a_table(made: tuple[Path, str]) -> None:
    tables = re.findall(r"<table>.*?</table>", made[1], re.S)[:3]
    assert len(tables) == len(synthetic_run.PROTOCOLS)
    last = tables[0].split("<tr")[-1]
    assert "48.5 ± 0.7" in last  # (0.48 + 0.49) / 2, sample sd 0.0071
    assert last.count("best") > 1
    assert "21.5 ± 0.7" in tables[0]


def test_objects_have_their_own_tables_with_the_rounds_below_the_cut(tmp_path: Path) -> None:
    html = report(tmp_path, synthetic_run.build(tmp_path, images=4, objects=True))
    check(html)
    objects, foreground = re.findall(r"<table>.*?</table>", html, re.S)[3:5]
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)', objects) == [
        "Recipe", "Step", "CorLoc", "mBO", "FG-ARI", "Box AP50", "Mask AP50",
    ]  # fmt: skip
    assert text_of(objects).split()[-7:] == ["comus", "cut", "70.0", "41.0", "37.0", "31.0", "29.0"]
    assert re.findall(r"<td>(.*?)</td>", foreground) == ["cut", "round 0", "round 1", "round 2"]
    last = foreground.split("<tr")[-1]
    assert "64.5 ± 0.7" in last  # (0.64 + 0.65) / 2
    assert last.count(" best<") == 4  # the smallest MAE is the best one
    assert "35.5 ± 0.7" in last
    assert "CorLoc rule" in html
    plan = synthetic_run.plan((0, 1), 6)  # objects switched off again: what an earlier run left is not shown
    assert "CorLoc" not in report(tmp_path, plan)


def test_object_protocols_that_differ_are_apart() -> None:
    def file(recipe: str, ignore: int) -> dict[str, Any]:
        rule = {"name": "saliency", "ignore": [ignore], "rules": {}}
        return {"recipe": recipe, "scores": [{"protocol": rule, "iou": 0.5, "mae": None, "images": 3}]}

    made = _objects.boards([file("a", 255), file("b", 0), file("c", 255)], [])
    assert [[row.recipe for row in board.rows] for board in made] == [["a", "c"], ["b"]]
    assert [cell.text for cell in made[0].rows[0].cells] == ["50.0", "–"]
    assert not any(cell.best for row in made[0].rows for cell in row.cells)


def test_no_labels_no_scores_but_facts(tmp_path: Path) -> None:
    html = report(tmp_path, synthetic_run.build(tmp_path, images=4, labelled=False, seeds=(3,)))
    text = text_of(check(html) and html)
    assert "This run has no labels" in text
    assert "mIoU" not in text
    assert "Clusters used" in text
    assert "Masks of seed 3" in text


def test_hostile_ids_are_text(tmp_path: Path) -> None:
    bad = ["<script>alert(1)</script>", 'a"onmouseover="alert(2)', "b'&amp;<img src=x>", "c</style><b>", "{{ 7 * 7 }}"]
    plan = synthetic_run.build(tmp_path, ids=bad, rejected=1)
    plan["title"] = "<i>T</i>&"
    plan["provenance"] = {"<b>key": "</pre><script>alert(3)</script>"}
    (tmp_path / "results/inputs/rejected.csv").write_text('id,path,reason\n"<u>id","</td>","<script>x"\n')
    html = report(tmp_path, plan)
    checker = check(html)
    kinds = [values.get("type") for tag, values in checker.tags if tag == "script"]
    assert kinds == ["application/json"] * 2 + [None] * len(SCRIPTS)
    assert not any(name.startswith("on") for _, values in checker.tags for name in values)
    assert {v["data-id"] for t, v in checker.tags if t == "li" and "data-id" in v} == set(bad)
    assert "&lt;i&gt;T&lt;/i&gt;&amp;" in html
    assert "<u>id" not in html
    assert "49" not in text_of(html).split("Gallery")[1].split("Clusters")[0]


@pytest.mark.parametrize(
    "case",
    [
        {"images": 3, "regions": False},
        {"images": 1, "shard_size": 1, "rejected": 0, "seeds": (0,)},
        {"images": 3, "benchmarks": False, "labelled": False},
        {"images": 0, "labelled": False, "benchmarks": False, "rejected": 0},
        {"images": 3, "clusters": 300},
    ],
    ids=["no regions", "one image", "no benchmarks", "no images", "16-bit masks"],
)
def test_poor_runs_render(tmp_path: Path, case: dict[str, Any]) -> None:
    html = report(tmp_path, synthetic_run.build(tmp_path, **case))
    check(html)
    text = text_of(html)
    assert "nan" not in text.lower().split("provenance")[0].replace("finance", "")
    if case.get("benchmarks") is False:
        assert "nothing is known about time" in text
    if case.get("rejected") == 0:
        assert "every image was read" in text


def test_gallery_and_crops_can_be_switched_off(tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path, images=3) | {"gallery": 0, "typical": 0}
    html = report(tmp_path, plan)
    check(html)
    assert "report.gallery is 0" in html
    assert '<li class="row"' not in html


def test_scores_of_the_clustering_are_shown_over_the_seeds(tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path, images=3)
    assert plan["seeds"] == [0, 1]
    for seed, silhouette in ((0, 0.5), (1, 0.25)):
        body = {"silhouette": silhouette, "labels": [0, 0, 1, 1, 2, 2] if seed else [2, 2, 0, 0, 1, 1]}
        folder = tmp_path / f"results/recipes/comus/seed{seed}/cluster"
        write_json(folder / "selection.json", body, Provenance.of("cluster", {}))
    html = report(tmp_path, plan)
    check(html)
    assert '<td class="n">0.38 ± 0.18</td><td class="n">1.00</td>' in html
    assert html.count('<td class="n">–</td><td class="n">–</td>') >= 2  # later rounds, and recipes without the file


@pytest.mark.parametrize(
    ("supported", "end", "tried", "said"),
    [
        (True, False, 9, ""),
        (True, True, 9, "the best lies at the end of the range; widen cluster.range"),
        (True, True, 7, "the best lies at the end of what so few vectors allow; use more images"),
        (False, False, 9, "no number from 2 to 9 is repeatable, so this is only the smallest; set cluster.clusters"),
    ],
)
def test_a_number_that_was_chosen_is_drawn(tmp_path: Path, supported: bool, end: bool, tried: int, said: str) -> None:
    plan = synthetic_run.build(tmp_path, images=3)
    curve = [{"clusters": k, "stability": 1.0 if k == 2 else 0.5, "reference": 0.25} for k in range(2, tried + 1)]
    auto = {"chosen": 2, "supported": supported, "end": end, "range": [2, 9], "stable": 0.75, "curve": curve}
    body = {"silhouette": 0.5, "labels": [0, 1], "auto": auto}
    write_json(tmp_path / "results/recipes/kmeans/seed0/cluster/selection.json", body, Provenance.of("cluster", {}))
    html = report(tmp_path, plan)
    check(html)
    assert "kmeans: stability 1.00 at 2 clusters, 0.25 without structure" in html
    assert f"<b>2</b> clusters, chosen from 2 to {tried}" in html
    assert html.count('class="warn"') == bool(said)
    assert said in html
    assert '<path class="course" d="M2.0 2.0L' in html  # 1 is at the top
    assert '<path class="shift" d="M2.0 0V64"/>' in html


def test_photo_that_has_moved_is_grey_and_named(tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path, images=3)
    (tmp_path / "photos/0.png").unlink()
    html = report(tmp_path, plan)
    check(html)
    assert "1 photo could not be read again" in text_of(html)


def test_the_list_of_rejected_files_is_the_one_of_the_manifest(tmp_path: Path) -> None:
    file = tmp_path / "rejected.csv"
    file.write_text("id,path,reason\na,a.png,not an image\n")
    crc32c = file_crc32c(file)
    assert _rejected(file, crc32c) == ([{"id": "a", "path": "a.png", "reason": "not an image"}], 1)
    file.write_text("id,path,reason\n")
    with pytest.raises(StoreError, match=r"rejected\.csv: damaged, or of other inputs than the manifest; delete it"):
        _rejected(file, crc32c)


def test_missing_masks_are_named(tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path, images=3)
    os.rename(tmp_path / "results/recipes/comus/cut", tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"cut/s0000\.zarr: no such store"):
        run(plan, tmp_path / "results", tmp_path / "benchmarks", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_same_run_same_page(made: tuple[Path, str], tmp_path: Path) -> None:
    root, html = made
    plan = synthetic_run.plan((0, 1), 6)
    run(plan, root / "results", root / "benchmarks", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == html


# --- what is computed ---------------------------------------------------------------------------------------------


def test_spread_is_even_and_bounded() -> None:
    assert _sample.spread(10, 4).tolist() == [0, 3, 6, 9]
    assert _sample.spread(3, 24).tolist() == [0, 1, 2]
    assert _sample.spread(0, 4).tolist() == []
    assert _sample.spread(5, 0).tolist() == []
    assert len(_sample.spread(10**6, 24)) == 24


def test_large_runs_open_few_shards(tmp_path: Path) -> None:
    synthetic_run._manifest(
        tmp_path / "results",
        *zip(*[(f"i{i:05d}", f"s{i // 50:04x}", "x.png", (4, 4)) for i in range(5000)], strict=True),
    )  # type: ignore[arg-type]
    sample = _sample.read(tmp_path / "results/inputs/manifest.parquet", 24)
    assert (sample.total, len(sample.shards), len(sample.gallery)) == (5000, 100, 24)
    assert set(sample.statistics) <= {picture.shard for picture in sample.gallery}
    assert 400 <= sample.measured <= _sample.STATISTICS_IMAGES


def test_balance_in_closed_form() -> None:
    assert _facts.balance(np.array([0.25, 0.25, 0.25, 0.25])) == pytest.approx(1)
    assert _facts.balance(np.array([0.5, 0, 0, 0])) == 0
    assert _facts.balance(np.array([0.3, 0.3, 0, 0])) == pytest.approx(0.5)
    assert np.isnan(_facts.balance(np.zeros(3)))


def test_changed_counts_cells_labelled_in_both() -> None:
    before, after = np.array([[0, 1, 255, 2]], np.uint8), np.array([[0, 2, 1, 255]], np.uint8)
    assert _facts.compare(before, after) == (0.25, 0.5)
    wide = after.repeat(2, axis=1).repeat(3, axis=0)
    assert _facts.compare(before, wide) == (0.25, 0.5)


def test_facts_agree_with_a_plain_count(made: tuple[Path, str]) -> None:
    from maskmill.store.ragged import Ragged

    results = made[0] / "results"
    sample = _sample.read(results / "inputs/manifest.parquet", 24)
    facts = _facts.measure(results, "comus", 0, 2, 6, sample)
    stores = [Ragged(p, "masks") for p in sorted((results / "recipes/comus/seed0/round0/masks").glob("*.zarr"))]
    masks = [store[i] for store in stores for i in range(len(store))]
    expected = [np.mean([(m == v).mean() for m in masks]) for v in range(7)]
    np.testing.assert_allclose(facts.shares[0], expected, atol=1e-12)
    assert facts.ignored[0] == pytest.approx(np.mean([(m == 255).mean() for m in masks]))
    assert facts.shares[0].sum() + facts.ignored[0] == pytest.approx(1)


def test_regions_are_counted_by_cluster(made: tuple[Path, str]) -> None:
    import pyarrow.parquet as pq

    results = made[0] / "results"
    sample = _sample.read(results / "inputs/manifest.parquet", 24)
    found = _facts.region_counts(results, "comus", 0, 6, sample.shards)
    tables = [pq.read_table(p) for p in sorted((results / "recipes/comus/seed0/cluster").glob("*.parquet"))]
    rows = [cluster for table in tables for cluster in table["cluster"].to_pylist()]
    assert found.tolist() == [rows.count(c) for c in range(6)]
    assert found.sum() == len(rows) > 0


def test_window_stays_inside_and_holds_the_box() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        size = tuple(int(v) for v in rng.integers(20, 300, 2))
        (y0, y1), (x0, x1) = np.sort(rng.random((2, 2)), axis=1)
        a, b, c, d = _pictures.window((y0, x0, y1, x1), size, 0.12)
        assert 0 <= a < c <= size[0]
        assert 0 <= b < d <= size[1]
        assert a <= y0 * size[0] + 1
        assert c >= y1 * size[0] - 1
        assert b <= x0 * size[1] + 1
        assert d >= x1 * size[1] - 1


def test_mask_png_shows_values_as_colours() -> None:
    import base64
    import io

    from PIL import Image

    colours = np.arange(27, dtype=np.uint8).reshape(9, 3) * 9
    for dtype in (np.uint8, np.uint16):
        mask = np.random.default_rng(0).integers(0, 9, (13, 17)).astype(dtype)
        mask[0] = np.iinfo(dtype).max
        uri = _pictures.mask_uri(mask, colours)
        picture = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert picture.mode == "P"
        pixels = np.asarray(picture.convert("RGBA"))
        np.testing.assert_array_equal(pixels[1:, :, :3], colours[mask[1:].astype(int)])
        np.testing.assert_array_equal(pixels[1:, :, 3] == 255, mask[1:] > 0)
        assert (pixels[0, :, 3] < 255).all()


def test_more_than_256_values_still_fit() -> None:
    mask = np.arange(400, dtype=np.uint16).reshape(20, 20)
    colours = _pictures.distinct(np.zeros((400, 3), np.uint8))
    assert len(np.unique(colours, axis=0)) == 400
    assert _pictures.mask_uri(mask, colours).startswith("data:image/png;base64,")


def test_crop_shows_the_region_outlined() -> None:
    image = np.full((100, 200, 3), 100, np.uint8)
    mask = to_size(np.array([[0, 1], [0, 0]], bool), (10, 10))
    uri = _pictures.crop_uri(image, mask, (0.0, 0.5, 0.5, 1.0), 0.1)
    assert uri.startswith("data:image/webp;base64,")


def test_protocols_that_differ_anywhere_are_apart() -> None:
    def file(recipe: str, clusters: int, name: str, size: str) -> dict[str, Any]:
        score = {"protocol": {"name": name, "size": size}, "miou": 0.1 * clusters, "images": 5}
        return {"recipe": recipe, "seed": 0, "round": 0, "clusters": clusters, "scores": [score]}

    boards = _scores.boards(
        [file("a", 2, "hungarian_iou", "original"), file("b", 2, "hungarian_iou", "short_side 320")]
    )
    assert [len(board.rows) for board in boards] == [1, 1]
    both = _scores.boards([file("a", 2, "hungarian_iou", "original"), file("b", 3, "hungarian_iou", "original")])
    assert [row.cells[0].best for row in both[0].rows] == [False, True]
    unfair = _scores.boards([file("a", 2, "many_to_one", "original"), file("b", 3, "many_to_one", "original")])
    assert not any(row.cells[0].best for row in unfair[0].rows)


def test_timing_leaves_out_what_is_gone(made: tuple[Path, str]) -> None:
    jobs = _timing.read_jobs(made[0] / "benchmarks", {"comus", "kmeans"}, {"s0000", "s0001", "s0002"})
    stages = {stage.rule: stage for stage in _timing.by_rule(jobs)}
    assert (stages["cut"].jobs, stages["cut"].seconds, stages["cut"].memory) == (3, 10.5, 350.0)
    assert stages["paint"].memory is None
    assert (stages["cluster_fit"].jobs, stages["rounds_train"].jobs) == (2, 2)
    assert "report" not in stages
    assert list(stages)[:4] == ["inputs", "weights", "features", "cut"]


def test_busy_time_counts_no_breaks() -> None:
    jobs = [_timing.RuleJob("a", 10, None, 10), _timing.RuleJob("a", 10, None, 15), _timing.RuleJob("b", 1, None, 100)]
    assert _timing.busy_seconds(jobs) == 16
    assert _timing.busy_seconds([]) == 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (42.2, "42 s"),
        (200, "3 min 20 s"),
        (18120, "5 h 02 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ignored_parts_are_hatched_calmly() -> None:
    """Thin faint lines: seldom, never opaque as a cluster is, and little of the photo is covered."""
    mask = np.full((60, 70), 255, np.uint8)
    mask[:30] = 1
    uri = _pictures.mask_uri(mask, np.array([[20, 22, 26], [9, 8, 7]], np.uint8))
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        found = np.asarray(image.convert("RGBA"))
    assert (found[:30] == [9, 8, 7, 255]).all()
    ignored = found[30:]
    lines = (ignored[..., :3] == _pictures.STRIPE).all(axis=2)
    assert 0.1 < lines.mean() < 0.2
    assert ignored[..., 3].max() < 128
    assert ignored[..., 3].mean() / 255 < 0.3
