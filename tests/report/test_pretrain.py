"""How the report shows backbones that the run has trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import report_page
import synthetic_run

from maskmill.dag.files import Graph
from maskmill.dag.jobs import jobs
from maskmill.errors import StoreError
from maskmill.recipe.resolve import load
from maskmill.report import _pretrain
from maskmill.report.run import run
from maskmill.store.artefact import write_json
from maskmill.store.provenance import Provenance

ABOUT = {"backbone": "vit_tiny_patch16_224", "method": "dino", "used": ["dino (semantic)"]}
SLUG = "vit_tiny_patch16_224.dino-0123ab"


def monitor() -> dict[str, Any]:
    """Of 400 steps, rows of every eighth; the method says its entropy at the first step only after one row."""
    rng, steps = np.random.default_rng(0), np.arange(400)
    rows = np.arange(50)
    entropy = [float("nan"), *(2 + 4 * (1 - np.exp(-rows[1:] / 20))).tolist()]
    return {
        "loss": (7 - 2 * (1 - np.exp(-steps / 150)) + 0.1 * rng.normal(size=400)).tolist(),
        "monitors": {
            "rank": (8 + rows * 0.5).tolist(),
            "spread": (0.05 + rows * 0.01).tolist(),
            "agreement": (0.2 + rows * 0.012).tolist(),
            "entropy": entropy,
            "never_told": [None] * 50,
        },
        "every": 8,
        "steps": 400,
        "images": 64,
    }  # fmt: skip


def gate(better: bool) -> dict[str, Any]:
    """A report of the gate, of which one number is not known."""
    measures = [
        ("a photo is found again in another crop and light", 0.31, 0.78, 0.47, 0.04, "better"),
        ("photos keep their neighbours in another crop and light", 0.25, 0.61, 0.36, 0.03, "better"),
        ("places keep their neighbours in another crop and light", 0.12, 0.44, 0.32, 0.01, "better"),
        ("a place is nearer to itself in another view than to other photos", 0.95, 0.951, 0.001, 0.004, ""),
        ("k-means of two halves of the photos, K = 8", None, 0.41, None, None, ""),
        ("effective rank of tokens", 12.34, 120.6, None, None, ""),
    ]
    rows = [
        {"name": f"m{i}", "title": title, "before": before, "after": after, "counts": change is not None, "says": says}
        | ({} if change is None else {"change": change, "error": error})
        for i, (title, before, after, change, error, says) in enumerate(measures)
    ]
    said = (
        "features are better in finding a photo again; the trained weights are taken"
        if better
        else "features are worse in neighbours of places; the weights that it started from are kept"
    )
    return {
        "better": better, "accept": "better", "accepted": "trained" if better else "start", "sentence": said,
        "start": "scratch", "photos": 256, "places": 16, "side": 224, "measures": rows, "reasons": [],
        "agreement": {"photo_neighbours": 0.103, "token_neighbours": 0.02, "clusters": None},
    }  # fmt: skip


def write(results: Path, better: bool = True) -> None:
    made = Provenance.of("pretrain", {})
    for name, body in (("monitor", monitor()), ("report", gate(better))):
        (results / "pretrain" / SLUG).mkdir(parents=True, exist_ok=True)
        write_json(results / "pretrain" / SLUG / f"{name}.json", body, made)


def test_a_backbone_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    (found,) = _pretrain.read(tmp_path, {SLUG: ABOUT})
    assert (found.backbone, found.method, found.steps, found.images) == ("vit_tiny_patch16_224", "dino", 400, 64)
    assert [curve.name for curve in found.curves] == ["loss", "rank", "spread", "agreement", "entropy"]
    assert found.curves[-1].first == "2.2"  # the first number that is known
    assert found.sentence == "Features are better in finding a photo again; the trained weights are taken."
    first, unknown, rank = found.measures[0], found.measures[4], found.measures[5]
    assert (first.before, first.after, first.change, first.says) == ("0.31", "0.78", "+0.47 ± 0.04", "better")
    assert (unknown.before, unknown.after, unknown.change, unknown.counts) == ("–", "0.41", "", False)
    assert (rank.before, rank.after) == ("12", "121")
    assert found.agreement == {"neighbours of photos": "0.10", "neighbours of places": "0.02", "clusters": "–"}
    with pytest.raises(StoreError, match=r"monitor\.json"):
        _pretrain.read(tmp_path, {"another": ABOUT})


@pytest.mark.parametrize("better", [True, False])
def test_the_page_says_whether_features_got_better(better: bool, tmp_path: Path) -> None:
    plan = synthetic_run.build(tmp_path, images=4)
    write(tmp_path / "results", better)
    run(plan | {"pretrained": {SLUG: ABOUT}}, tmp_path / "results", tmp_path / "benchmarks", tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    report_page.check(html)
    text = report_page.text_of(html)
    said = (
        "better in finding a photo again; the trained" if better else "worse in neighbours of places; the weights that"
    )
    assert f"Features are {said}" in text
    assert "dino from random weights, 400 steps of 64 images, read by dino (semantic)" in text
    assert "a photo is found again in another crop and light 0.31 0.78 +0.47 ± 0.04 better" in text
    assert "0.95 0.95 +0.00 ± 0.00 no change" in text
    assert "Of both networks agree: neighbours of photos 0.10, neighbours of places 0.02, clusters – (1" in text


def test_a_run_without_backbones_of_its_own_has_no_such_part(tmp_path: Path) -> None:
    html = synthetic_run.report(tmp_path, images=4).read_text()
    assert 'id="backbones"' not in html


def test_the_report_waits_for_the_backbones_of_the_run() -> None:
    """Two recipes that share a training show it once; a run without one has the plan that it always had."""
    root = Path(__file__).parents[2]

    def plan(*recipes: str) -> tuple[dict[str, Any], set[str]]:
        graph = Graph(load({"recipes": list(recipes), "preset": "small"}, root / "recipes"), lambda: ["s0000000000"])
        (job,) = (each for each in jobs(graph).values() if each.rule == "report")
        return json.loads(job.depends), {file for source in job.inputs.values() for file in source.files}

    told, files = plan("dino", "kmeans")
    ((slug, about),) = told["pretrained"].items()
    assert about == {"backbone": "vit_tiny_patch16_224", "method": "dino", "used": ["dino (semantic)"]}
    assert {f"results/pretrain/{slug}/monitor.json", f"results/pretrain/{slug}/report.json"} <= files
    assert "pretrained" not in plan("kmeans")[0]
