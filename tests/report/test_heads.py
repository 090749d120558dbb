"""How the report draws the training of heads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskmill.errors import StoreError
from maskmill.report import _heads
from maskmill.store.artefact import write_json
from maskmill.store.provenance import Provenance


def points(path: str) -> np.ndarray:
    return np.array([[float(v) for v in part.split()] for part in path.lstrip("M").split("L")])


def test_a_curve_spans_its_box_and_keeps_its_ends() -> None:
    drawn = _heads.curve("loss", [3.0, 1.0, 2.0])
    np.testing.assert_allclose(points(drawn.path), [[0, 2], [110, 62], [220, 32]])
    assert (drawn.first, drawn.last) == ("3", "2")
    assert len(points(_heads.curve("loss", list(range(5000))).path)) == _heads.POINTS
    assert np.isfinite(points(_heads.curve("flat", [1.0] * 4).path)).all()


def test_bars_have_the_area_of_their_shares() -> None:
    shares = [0.1, 0.4, 0.3, 0.2]
    corners = points(_heads.bars(shares).rstrip("Z"))
    x, y = corners[:, 0], _heads.HEIGHT - corners[:, 1]
    area = float(np.trapezoid(y, x))
    assert area == pytest.approx(_heads.WIDTH * _heads.HEIGHT * sum(shares) / (4 * max(shares)), rel=1e-3)


def test_heads_of_every_seed_are_read(tmp_path: Path) -> None:
    body = {
        "loss": [1.0, 0.5], "monitors": {"entropy": [0.4, 0.9]}, "clusters": [0.7, 0.3],
        "shifts": {"self": 0.5}, "histograms": {"features self": [0.5, 0.5], "codes self": [1.0, 0.0]},
    }  # fmt: skip
    for seed in (0, 3):
        write_json(tmp_path / f"recipes/stego/seed{seed}/adapt/monitor.json", body, Provenance.of("adapt", {}))
    recipes = {"stego": {"sections": {"adapt": {"method": "stego"}}}, "kmeans": {"sections": {}}}
    heads = _heads.read(tmp_path, recipes, [0, 3])
    assert [(head.recipe, head.seed, head.steps, head.largest) for head in heads] == [
        ("stego", s, 2, 0.7) for s in (0, 3)
    ]
    assert [curve.name for curve in heads[0].curves] == ["loss", "entropy"]
    assert [histogram.shift for histogram in heads[0].histograms] == [165.0, None]
    with pytest.raises(StoreError, match=r"monitor\.json"):
        _heads.read(tmp_path, recipes, [7])
