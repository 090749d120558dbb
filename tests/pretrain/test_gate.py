"""The gate: measures against brute force and closed forms, a broken network is refused, the same one is no better."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from maskmill.backbones import weights_file
from maskmill.backbones.network import import_timm
from maskmill.errors import NumericsError
from maskmill.images.raster import Shown
from maskmill.pretrain import _compare, _gate
from maskmill.pretrain._light import Light
from maskmill.pretrain.accept import TITLES, accept, sentence
from maskmill.pretrain.run import PretrainSource
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.model import Stage
from maskmill.store.artefact import read_json, write_table
from maskmill.store.manifest import Row
from maskmill.training.resources import Resources

N, T, D = 24, 8, 16


def scene(noise: float, seed: int = 0) -> _compare.Views:
    """Tokens of six classes, each place a little different, seen twice through noise."""
    rng = np.random.default_rng(7)
    true = rng.normal(size=(6, D))[rng.integers(0, 6, (N, T))] + 0.4 * rng.normal(size=(N, T, D))
    tokens = true + noise * np.random.default_rng(seed).normal(size=(2, N, T, D))
    return _compare.Views(tokens.astype(np.float32), tokens.mean(2).astype(np.float32))


def broken(kind: str) -> _compare.Views:
    """Features that say nothing of the photos."""
    rng = np.random.default_rng(1)
    if kind == "noise":
        return _compare.Views(*(rng.normal(size=s).astype(np.float32) for s in ((2, N, T, D), (2, N, D))))
    one = rng.normal(size=D).astype(np.float32)
    tiny = 1e-8 if kind == "almost one point" else 0.0
    tokens = one + tiny * rng.normal(size=(2, N, T, D))
    return _compare.Views(tokens.astype(np.float32), tokens.mean(2).astype(np.float32))


@pytest.fixture(scope="module")
def good() -> _compare.Measured:
    return _compare.measure(scene(0.3), 0)


def plain(views: _compare.Views) -> dict[str, list[float]]:
    """The four measures that count, with loops and lists."""
    tokens, photos = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (views.tokens, views.photos))
    _, n, t, _ = tokens.shape
    found: dict[str, list[float]] = {name: [] for name in _compare.COUNTED}

    def shared(mine: list[Any], theirs: list[Any], count: int) -> float:
        k = len(mine)
        return (len(set(mine) & set(theirs)) / k - k / count) / (1 - k / count)

    k, places = max(5, n // 32), (n - 1) * t
    many = max(5, places // 32)
    for i in range(n):
        cosine = [[float(photos[view, i] @ photos[0, j]) for j in range(n)] for view in range(2)]
        found["same_photo"].append(float(np.argmax(cosine[1]) == i))
        others = [j for j in range(n) if j != i]
        near = [sorted(others, key=lambda j: -row[j])[:k] for row in cosine]
        found["photo_neighbours"].append(shared(near[0], near[1], n - 1))
        kept, closer = [], []
        for p in range(t):
            bank = [(j, q) for j in others for q in range(t)]
            row = [{b: float(tokens[view, i, p] @ tokens[0][b]) for b in bank} for view in range(2)]
            lists = [sorted(bank, key=lambda b: -r[b])[:many] for r in row]
            kept.append(shared(lists[0], lists[1], places))
            own = float(tokens[1, i, p] @ tokens[0, i, p])
            closer.append(np.mean([own > value for value in row[1].values()]))
        found["token_neighbours"].append(float(np.mean(kept)))
        found["same_place"].append(float(np.mean(closer)))
    return found


def test_measures_are_those_of_plain_loops(good: _compare.Measured) -> None:
    for name, values in plain(scene(0.3)).items():
        np.testing.assert_allclose(good.each[name], values, atol=1e-6, err_msg=name)
        assert good.values[name] == pytest.approx(np.mean(values), abs=1e-6)


def test_features_that_are_the_same_in_both_views_keep_everything() -> None:
    found = _compare.measure(scene(0.0), 0)
    assert {name: found.values[name] for name in _compare.COUNTED} == dict.fromkeys(_compare.COUNTED, 1.0)


@pytest.mark.parametrize("kind", ["noise", "one point", "almost one point"])
def test_a_broken_network_scores_like_chance_and_is_refused(kind: str, good: _compare.Measured) -> None:
    found = _compare.measure(broken(kind), 0)
    chance = {"same_photo": 1 / N, "photo_neighbours": 0.0, "token_neighbours": 0.0, "same_place": 0.5}
    for name, value in chance.items():
        assert found.values[name] == pytest.approx(value, abs=0.12), name
    verdict = _compare.better(good, found)
    assert not verdict.better
    assert verdict.falls == _compare.COUNTED
    assert ("spread" in verdict.lost) == (kind != "noise")
    assert _compare.better(found, good).better


def test_one_point_has_no_clusters() -> None:
    found = _compare.measure(broken("one point"), 0)
    assert (found.values["rank"], found.clusters, found.values["halves_8"]) == (1.0, None, None)
    assert found.values["spread"] == pytest.approx(0, abs=1e-6)


def test_the_same_features_are_no_better(good: _compare.Measured) -> None:
    again = _compare.measure(scene(0.3), 0)
    verdict = _compare.better(good, again)
    assert verdict == _compare.Verdict(False, (), (), (), ("no measure has changed beyond chance",))
    told = _compare.compare(good, again, [again.clusters, again.clusters])  # type: ignore[list-item]
    assert told["agreement"] == {"photo_neighbours": 1.0, "token_neighbours": 1.0, "clusters": 1.0}
    assert told["predicted"] == {"before": 1.0, "after": 1.0}


def test_other_draws_of_equally_good_features_are_no_better(good: _compare.Measured) -> None:
    """The error of a measure is that of its mean over photos: of 20 pairs hardly any may seem to differ."""
    wins = [_compare.better(good, _compare.measure(scene(0.3, seed), 0)).better for seed in range(1, 11)]
    assert sum(wins) <= 2


def test_less_noise_is_better_and_more_is_worse(good: _compare.Measured) -> None:
    worse = _compare.measure(scene(1.0), 0)
    assert _compare.better(worse, good).better
    assert _compare.better(good, worse).falls


def test_a_lost_rank_outweighs_what_rises() -> None:
    """All tokens on two directions: neighbours are kept, but nothing else is left."""
    views = scene(0.6)
    flat = _compare.Views(views.tokens.copy(), views.photos)
    flat.tokens[..., 2:] = 0
    before, after = (_compare.measure(each, 0) for each in (views, flat))
    assert after.values["rank"] <= 2 < _compare.KEPT_RANK * before.values["rank"]  # type: ignore[operator]
    assert "rank" in _compare.better(before, after).lost
    assert not _compare.better(before, after).better


def test_few_photos_tell_nothing() -> None:
    views = scene(0.3)
    some = [_compare.measure(_compare.Views(views.tokens[:, :n], views.photos[:, :n]), 0) for n in (1, 2, 7)]
    for found in some:
        assert _compare.better(found, found).reasons == (f"{len(found.near_photos)} photos are too few to tell; it "
                                                         f"takes {_compare.FEWEST}",)  # fmt: skip
        _compare.compare(found, found)


def test_rank_and_spread_have_closed_forms() -> None:
    rows = np.repeat(np.concatenate([np.eye(6), -np.eye(6)]), 3, axis=0)
    assert _compare.effective_rank(rows[:, :]) == pytest.approx(6)
    assert _compare.effective_rank(np.hstack([rows, np.zeros((36, 60))])) == pytest.approx(6)  # more columns than rows
    assert _compare.spread(rows) == pytest.approx(1)
    cosines = rows[:20] @ rows[:20].T
    assert _compare.spread(rows[:20]) == pytest.approx(1 - cosines.mean())
    two = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])  # singular values 3 and 1, times the root of two
    assert _compare.effective_rank(two) == pytest.approx(4 / (3**0.75))


def test_shared_neighbours_of_chance_are_zero() -> None:
    rng = np.random.default_rng(0)
    lists = [np.stack([rng.permutation(50)[:10] for _ in range(2000)]) for _ in range(2)]
    assert _compare.kept(*lists, 50).mean() == pytest.approx(0, abs=0.01)
    assert (_compare.kept(lists[0], lists[0][:, ::-1], 50) == 1).all()


def test_predicted_quality_is_the_mean_agreement_with_the_others(good: _compare.Measured) -> None:
    other = _compare.measure(scene(1.0), 0)
    witness = np.random.default_rng(0).integers(0, 5, N * T)
    told = _compare.compare(good, other, [witness])["predicted"]
    assert good.clusters is not None
    pair, own = _compare.rand(good.clusters, other.clusters), _compare.rand(good.clusters, witness)
    assert told["before"] == pytest.approx((pair + own) / 2)  # type: ignore[operator]
    assert _compare.compare(good, other)["predicted"] == {"before": None, "after": None}


def test_threads_change_nothing(good: _compare.Measured) -> None:
    torch.set_num_threads(3)
    try:
        assert _compare.measure(scene(0.3), 0).values == good.values
    finally:
        torch.set_num_threads(1)


def test_features_that_are_no_numbers_are_refused() -> None:
    views = scene(0.3)
    views.tokens[1, 3, 2, 0] = np.nan
    with pytest.raises(NumericsError, match="NaN or infinite features"):
        _compare.measure(views, 0)


def ramp(height: int, width: int) -> np.ndarray:
    """A photo uint8 [h, w, 3] whose colours say where a pixel is."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 0 * y], 2).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (160, 240), (200, 200)])
def test_places_are_the_same_in_both_views(
    height: int, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_gate, "LIGHT", Light(jitter_chance=0, grey=0, blur=0))
    Image.fromarray(ramp(height, width)).save(tmp_path / "ramp.png")
    for name in ("a", "b", "c"):
        row = Row(name, str(tmp_path / "ramp.png"), width, height, "s0", None)
        found = _gate.pair(row, np.array([0, 0, 0], np.uint8), 96, 0)
        assert found is not None
        assert found.places.shape == (2, _gate.PLACES, 2)
        assert (found.places >= 0).all()
        assert (found.places < 1).all()
        cells = (found.places * 96).astype(int)
        first, other = (found.pictures[v, cells[v, :, 0], cells[v, :, 1]].astype(int) for v in range(2))
        assert np.abs(first - other).max() <= 4  # a pixel of the view is 1.3 to 2.7 levels of the ramp
        assert np.ptp(first[:, 0]) > 40


def test_places_show_data_and_photos_without_any_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("a", "a", 200, 200, "s0", None)
    valid = np.zeros((200, 200), bool)
    monkeypatch.setattr(_gate, "read_filled", lambda row, fill: Shown(ramp(200, 200), valid))
    assert _gate.pair(row, np.zeros(3, np.uint8), 64, 0) is None
    valid[:, 100:] = True
    found = _gate.pair(row, np.zeros(3, np.uint8), 64, 0)
    assert found is not None
    assert (found.places[0, :, 1] >= 0.5).all()


def test_windows_of_one_file_wait_for_the_other_photos() -> None:
    rows = [Row(f"slide/{i:03d}", "p", 9, 9, "s0", None, parent="slide") for i in range(900)]
    rows += [Row(f"z{i:02d}", "p", 9, 9, "s0", None) for i in range(30)]
    found = _gate.chosen(rows, 448, 0)
    assert len(found) == 64
    assert [row.id for row in found] == sorted(row.id for row in found)
    assert sum(row.parent is None for row in found) == 30
    assert len(_gate.chosen(rows, 224, 0)) == 256
    assert found != _gate.chosen(rows, 448, 1)


def test_a_network_is_asked_at_the_places() -> None:
    """A backbone whose tokens are the colours of its cells, and whose batches are as many as there are views."""

    class Cells:
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            assert len(images) <= 4
            cells = images.reshape(len(images), 8, 8, 8, 8, 3).float().mean((2, 4))
            return cells, cells.mean((1, 2))

    rng = np.random.default_rng(0)
    seen = [
        _gate.Pair(rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8), rng.random((2, _gate.PLACES, 2)))
        for _ in range(5)
    ]
    views = _gate.look(Cells(), seen, batch=4)  # type: ignore[arg-type]
    for view, n, t in itertools.product(range(2), range(5), range(_gate.PLACES)):
        y, x = (seen[n].places[view, t] * 8).astype(int)
        cell = seen[n].pictures[view, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
        np.testing.assert_allclose(views.tokens[view, n, t], cell.mean((0, 1), dtype=float), rtol=1e-5)
    np.testing.assert_allclose(views.photos[1, 4], seen[4].pictures[1].mean((0, 1), dtype=float), rtol=1e-5)


def test_the_side_is_that_of_the_feature_set() -> None:
    def side(**size: int) -> int:
        return _gate.side_of(FeatureSet(backbone="colour", size=Size(**size)), 14)

    assert (side(square=224), side(short_side=100), side(long_side=16), side(square=1024)) == (224, 98, 14, 448)


NAME = "resnet10t"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photos of blobs and their manifest; weights: `good` (random), `point` (every token the same)."""
    folder = tmp_path_factory.mktemp("gate")
    rng, rows = np.random.default_rng(0), []
    for i in range(12):
        small = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"im{i}.png")
        rows.append(Row(f"im{i}", str(folder / f"im{i}.png"), 96, 80, "s0", None))
    write_table(folder / "m.parquet", pa.table({key: [getattr(r, key) for r in rows] for key in Row.__annotations__}))
    torch.manual_seed(0)
    model = import_timm().create_model(NAME, pretrained=False, num_classes=0).train()
    model(torch.randn(8, 3, 96, 96))
    state = model.state_dict()
    facts = {"architecture": NAME, "mean": [0.5] * 3, "std": [0.25] * 3}
    weights_file.write(folder / "good.safetensors", state, facts)
    point = {key: value * 0 if key.startswith("conv1") else value for key, value in state.items()}
    weights_file.write(folder / "point.safetensors", point, facts | {"pretrain": {"method": "dino"}})
    return folder


def source(world: Path, rule: str, weights: Path | None) -> PretrainSource:
    section = Stage.of("pretrain", {"method": "dino", "accept": rule, "start": "weights" if weights else "scratch"})
    chosen = FeatureSet(backbone=NAME, size=Size(square=64)).model_copy(update={"pretrain": section.as_dict()})
    return PretrainSource(world / "m.parquet", chosen, weights)


@pytest.mark.parametrize(
    ("start", "trained", "rule", "taken", "said"),
    [
        ("good", "good", "better", "start", "features are no better: no measure has changed beyond chance; the weights "
         "that it started from are kept"),
        ("good", "point", "better", "start", "features are worse in"),
        ("good", "point", "always", "trained", "the trained weights are taken all the same (accept: always)"),
        ("point", "good", "better", "trained", "features are better in"),
        (None, "point", "better", "start", "features are worse in"),
    ],
)  # fmt: skip
def test_which_weights_are_taken(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str | None, trained: str, rule: str,
    taken: str, said: str,
) -> None:  # fmt: skip
    before = world / f"{start}.safetensors" if start else None
    out, report = tmp_path / "weights.safetensors", tmp_path / "report.json"
    accept(source(world, rule, before), world / f"{trained}.safetensors", out, report, Resources())
    line = capsys.readouterr().err.strip()
    body = read_json(report)
    assert said in line
    assert line == f"pretrain: {body['sentence']} (12 photos)"
    assert (body["accepted"], body["start"]) == (taken, "weights" if start else "scratch")
    assert [row["name"] for row in body["measures"]] == list(TITLES)
    assert {row["name"] for row in body["measures"] if row["counts"]} == set(_compare.COUNTED)
    state, facts = weights_file.read(out)
    wanted = world / f"{trained if taken == 'trained' else start}.safetensors"
    if taken == "trained" or start:
        assert facts["sha256"] == weights_file.read(wanted)[1]["sha256"]
    else:
        assert facts["about"] == f"random weights of {NAME}"
        assert float(state["conv1.0.weight"].std()) > 0
    assert (facts["accepted"], facts["architecture"]) == (taken, NAME)
    assert facts["pretrain"] == ({"method": "dino"} if trained == "point" else None)


def test_a_sentence_names_what_rose_and_what_fell() -> None:
    mixed = _compare.Verdict(True, ("same_photo", "same_place"), ("token_neighbours",), (), ())
    assert sentence(mixed, "better") == (
        "features are better in finding a photo again, telling places from other photos, worse in neighbours of "
        "places; the trained weights are taken"
    )
    worse = _compare.Verdict(False, ("same_photo",), (), ("spread",), ())
    assert sentence(worse, "better") == (
        "features are worse in spread, better in finding a photo again; the weights that it started from are kept"
    )
    tied = _compare.Verdict(False, ("same_photo",), ("same_place",), (), ())
    assert sentence(tied, "better") == (
        "features are no better: better in finding a photo again, but worse in telling places from other photos; the "
        "weights that it started from are kept"
    )
    few = _compare.Verdict(False, (), (), (), ("3 photos are too few to tell; it takes 8",))
    assert sentence(few, "better").startswith("features are no better: 3 photos are too few to tell; it takes 8; the")
