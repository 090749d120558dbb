"""The images that are the least sure of their classes, and plain words where nobody can know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic_run
from report_page import check, report, text_of

from maskmill.store.artefact import write_json
from maskmill.store.calibration import Calibration
from maskmill.store.provenance import Provenance


def named(root: Path, calibration: dict[str, Any] | None) -> dict[str, Any]:
    """A run of which labelled images named the recipe kmeans; the plan of its report."""
    plan = synthetic_run.build(root, images=10, clusters=4, labelled=False)
    plan["recipes"]["kmeans"]["named"] = True
    classes = [{"id": i, "name": f"c{i}", "colour": f"#00000{i}", "clusters": [str(i)]} for i in range(1, 5)]
    body: dict[str, Any] = {"classes": classes, "examples": [], "notes": []}
    for seed in plan["seeds"]:
        folder = root / f"results/recipes/kmeans/seed{seed}/taxonomy"
        more = {} if calibration is None else {"calibration": calibration}
        write_json(folder / "classes.json", body | more, Provenance.of("taxonomy", {}))
        (folder / "taxonomy.yaml").write_text("taxonomy: 1\n")
    return plan


def test_the_least_sure_images_come_first_with_links(tmp_path: Path) -> None:
    sampled = {"set0/image-000002": 0.9, "set1/image-000001": 0.31, "not/shown": 0.42}
    told = Calibration("platt", None, 70, 4, 0.2, 0.05).facts()  # type: ignore[arg-type]
    html = report(tmp_path, named(tmp_path, told | {"sampled": sampled}))
    check(html)
    text = text_of(html)
    assert "Least sure in kmeans Of 3 sampled images, those whose classes are most likely wrong: " in text
    order = [
        text.index(part)
        for part in ("(31.0 % likely right)", "not/shown (42.0 % likely right)", "(90.0 % likely right)")
    ]
    assert order == sorted(order)
    assert '">set1/image-000001</a> (31.0 % likely right)' in html
    assert "calibrated on 70 regions or tokens of 4 labelled images" in text
    assert "error 0.200 before, 0.050 after" in text


@pytest.mark.parametrize("labels", [True, False])
def test_without_enough_labels_nothing_is_called_calibrated(tmp_path: Path, labels: bool) -> None:
    told = Calibration.none("1 labelled image; at least 3", 0, 1).facts() | {"sampled": {}} if labels else None
    text = text_of(report(tmp_path, named(tmp_path, told)))
    assert ("Confidence in the classes of kmeans: uncalibrated: 1 labelled image; at least 3." in text) == labels
    assert "calibrated on" not in text
    assert "Least sure" not in text
