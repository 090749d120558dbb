"""The panoptic student: how things and stuff are merged, its targets and loss by hand, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import ends_the_same
from square_photos import IDS, picture, write_world

from maskmill.errors import ConfigError, StoreError
from maskmill.images.instances import VOID, Instances, InstanceStore, InstanceWriter, ranked
from maskmill.recipe.resolve import load
from maskmill.rounds.infer import Student
from maskmill.rounds.panoptic.crops import MARK, semantic_of
from maskmill.rounds.panoptic.merge import Found, merged
from maskmill.rounds.panoptic.params import Params
from maskmill.rounds.panoptic.training import semantic_loss
from maskmill.rounds.run import Detected, MaskFiles, Round, Sources, StudentFiles, detect, predict, train
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.resources import Resources

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL: dict[str, Any] = {
    "student": "panoptic", "encoder": "semantic", "steps": 12, "batch_size": 4, "crop": 64, "width": 32, "unfrozen": 5,
    "layers": 1, "encoder_rate": 1.0, "jitter": 0.0, "learning_rate": 3e-3, "size": {"short_side": 96},
    "scale": [0.7, 1.0], "copy_paste": 0.5, "features": [], "least_score": 0.0, "paint_score": 0.3, "stuff_area": 0.01,
}  # fmt: skip


def found(masks: np.ndarray, labels: list[int], scores: list[float], semantic: np.ndarray) -> Found:
    certain = np.full(semantic.shape, 0.5, np.float32)
    return Found(masks.astype(bool), np.array(labels, np.int64), np.array(scores, np.float32), semantic, certain)


# --- merging ---------------------------------------------------------------------------------------------------------


def test_things_by_score_then_large_stuff() -> None:
    masks = np.zeros((4, 1, 20))
    masks[0, 0, :6] = masks[1, 0, 2:8] = masks[2, 0, 5:10] = masks[3, 0, 12:14] = 1
    semantic = np.array([[1] * 6 + [0] * 4 + [2] * 9 + [3]])
    seen = found(masks, [1, 2, 2, 1], [0.9, 0.8, 0.7, 0.4], semantic)
    mask, sure = merged(seen, 2, Params(stuff_area=0.1), np.dtype(np.uint8))
    # The second loses 4 of 6 cells to the first; the fourth is not sure enough; class 3 of stuff has one cell of 20.
    assert mask.tolist() == [[1] * 6 + [2] * 4 + [4] * 9 + [0]]
    assert sure[0, [0, 6, 12, 19]].tolist() == pytest.approx([0.9, 0.7, 0.5, 0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 6))
def test_merging_is_that_of_a_plain_loop(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    masks = rng.random((count, 5, 6)) < 0.4
    seen = found(masks, list(rng.integers(1, 3, count)), list(rng.random(count)), rng.integers(0, 4, (5, 6)))
    params = Params(paint_score=0.3, overlap=0.4, stuff_area=0.1)
    taken, mask = np.zeros((5, 6), bool), np.zeros((5, 6), int)
    for i in ranked(seen.scores):
        area = masks[i].sum()
        if seen.scores[i] >= 0.3 and area and (masks[i] & taken).sum() / area <= 0.4:
            mask[masks[i] & ~taken] = seen.labels[i]
            taken |= masks[i]
    for kind in range(1, 4):
        own = (seen.semantic == kind) & ~taken
        if own.sum() >= 3:
            mask[own] = 2 + kind
    assert merged(seen, 2, params, np.dtype(np.uint8))[0].tolist() == mask.tolist()


# --- targets and loss ------------------------------------------------------------------------------------------------


def test_cells_are_things_stuff_or_unknown() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :, :4] = masks[1, 4:] = masks[2, :4, 4:] = True  # a thing, stuff below, unknown above
    seen = Instances(masks, np.array([1, VOID, VOID]), np.array([1, MARK + 2, 1], np.float32))
    assert semantic_of(seen, np.array([False, True, False])).tolist() == [[0, -1], [0, 2]]


def test_the_semantic_loss_is_the_mean_over_known_cells() -> None:
    maps = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.tensor([[[0, -1], [2, 1]], [[-1, -1], [-1, 0]]])
    wanted = torch.nn.functional.cross_entropy(maps, target, ignore_index=-1)
    assert semantic_loss(maps, target).item() == pytest.approx(wanted.item(), abs=1e-6)
    nothing = semantic_loss(maps, torch.full_like(target, -1))
    nothing.backward()
    assert nothing.item() == 0
    assert maps.grad is not None
    assert not maps.grad.any()


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Photos with one square each: a thing of class 1 or 2, and stuff of class 3 around it."""
    root = tmp_path_factory.mktemp("photos")
    made = write_world(root)
    attrs = {"clusters": 3, "ignore": 255, "round": 0, "things": 2}
    with (
        RaggedWriter(root / "panoptic/0.zarr", "masks", dtype="uint8", attrs=attrs) as masks,
        InstanceWriter(root / "instances/0.zarr", {"clusters": 3, "round": 0}) as instances,
    ):
        for i in range(2):
            label = picture(i)[1][::2, ::2]
            masks.append(IDS[i], np.where(label > 0, label, 3).astype(np.uint8))
            instances.append(IDS[i], Instances((label > 0)[None], np.array([label.max()]), np.ones(1, np.float32)))
    return made | {"panoptic": root / "panoptic/0.zarr", "instances": root / "instances/0.zarr"}


def fit(world: dict[str, Any], out: Path, masks: Path | None = None, threads: int = 1, **options: Any) -> Path:
    sources = Sources({}, world["manifest"], world["weights"], [world["instances"]])
    taught = [masks or world["panoptic"]]
    where = Resources(threads, "cpu")
    train(sources, taught, SMALL | options, StudentFiles(out), round=Round(1, 0, 3), resources=where)
    return out


@pytest.fixture(scope="module")
def student(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("heart") / "student.safetensors"
    return fit(world, out, steps=120, copy_paste=0.0)


def test_things_and_stuff_are_learnt_by_heart(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    model = Student.load(student)
    assert (model.things, model.clusters, model.objects) == (2, 3, True)
    for i in range(2):
        pixels, label = picture(i)
        mask, sure = model.sure_mask(pixels)
        shown = np.where(label > 0, label, 3)
        rows, columns = (np.arange(n) * m // n for n, m in zip(label.shape, mask.shape, strict=True))
        assert (mask[np.ix_(rows, columns)] == shown).mean() > 0.85
        assert sure[mask > 0].mean() > 100
    rows = read_manifest(world["manifest"]).rows[:2]
    detect(student, rows, tmp_path / "i.zarr")
    predict(student, rows, MaskFiles(tmp_path / "m.zarr", tmp_path / "c.zarr"))
    masks = Ragged(tmp_path / "m.zarr")
    assert (masks.attrs["things"], masks.attrs["clusters"]) == (2, 3)
    assert set(InstanceStore(tmp_path / "i.zarr")[IDS[0]].labels) <= {1, 2}
    np.testing.assert_array_equal(masks[IDS[1]], model.mask(picture(1)[0]))
    with pytest.raises(StoreError, match="paints photos, not stored instances"):
        predict(student, Detected(tmp_path / "i.zarr"), MaskFiles(tmp_path / "n.zarr"))


def test_the_same_bytes_for_any_threads(world: dict[str, Any], tmp_path: Path) -> None:
    first = fit(world, tmp_path / "a.safetensors", steps=3)
    assert fit(world, tmp_path / "b.safetensors", threads=2, steps=3).read_bytes() == first.read_bytes()


def test_an_interrupted_training_ends_in_the_same_bytes(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_in(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        fit(world, folder / "s.safetensors", steps=4)

    ends_the_same(monkeypatch, train_in, tmp_path, ("s.safetensors",), 2)


def test_masks_without_stuff_are_refused(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the masks have no classes of stuff; set paint.stuff"):
        fit(world, tmp_path / "s.safetensors", masks=world["masks"][0])


def test_a_recipe_that_does_not_fit_says_so() -> None:
    for changes, said in (
        ({"paint": {"stuff": None}}, r"rounds.student: panoptic learns things and stuff; add paint: \{stuff:"),
        (
            {"paint": {"stuff": {"features": "semantics"}}},
            r"paint.stuff.features: no feature set 'semantics' \(did you mean 'semantic'",
        ),
        ({"rounds": {"match": "hungarian"}}, "rounds.match: hungarian: the classes of student panoptic keep their ids"),
        (
            {"rounds": {"student": "deeplabv3plus", "match": "hungarian"}},  # it would mix things and stuff
            "rounds.match: hungarian: .* keep their ids, of which the first are things",
        ),
        ({"taxonomy": {"source": "file", "file": "x.yaml"}}, "paint.stuff: its classes have no names"),
    ):
        with pytest.raises(ConfigError, match=said):
            load({"recipes": ["u2seg"], **changes}, RECIPES)
    with pytest.raises(ConfigError, match=r"paint.stuff: fills what segments leave, but pool: token has none"):
        load({"recipes": ["kmeans"], "paint": {"stuff": {"features": "semantic"}}}, RECIPES)
