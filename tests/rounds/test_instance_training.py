"""The instance network in training: it learns, the same bytes whatever interrupts it, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interrupted import checkpoints, stop_at
from square_photos import IDS, picture, write_weights, write_world

from maskmill.backbones import weights_file
from maskmill.errors import NumericsError, StoreError
from maskmill.images.instances import VOID, Instances, InstanceStore, InstanceWriter, mask_iou
from maskmill.recipe.sections import ConfigError
from maskmill.rounds.infer import Student
from maskmill.rounds.run import Detected, History, MaskFiles, Round, Sources, StudentFiles, detect, predict, train
from maskmill.store.artefact import read_tensors
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training import loop
from maskmill.training.resources import Resources

SMALL: dict[str, Any] = {
    "student": "instance", "encoder": "semantic", "steps": 12, "batch_size": 6, "crop": 64, "width": 32, "unfrozen": 5,
    "layers": 1, "encoder_rate": 1.0, "jitter": 0.0, "learning_rate": 3e-3, "size": {"short_side": 96},
    "scale": [0.7, 1.0], "copy_paste": 0.5, "features": [], "least_score": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_world(tmp_path_factory.mktemp("photos"))


def write_instances(path: Path, ids: list[str], full: bool = False) -> Path:
    """The squares of the photos as instances at half size; or, full, all below a stripe of void at the top.

    What a network learns in a few steps is where almost everything is an object.
    """
    with InstanceWriter(path, {"clusters": 2}) as out:
        for image_id in ids:
            _, label = picture(IDS.index(image_id))
            label = label[::2, ::2]
            masks, labels = [label > 0], [int(label.max())]
            if full:
                stripe = np.arange(len(label))[:, None] < np.full(label.shape[1], 4)
                masks, labels = [~stripe, stripe], [*labels, VOID]
            out.append(image_id, Instances(np.array(masks), np.array(labels), np.ones(len(masks), np.float32)))
    return path


@pytest.fixture(scope="module")
def instances(world: dict[str, Any]) -> Path:
    return write_instances(world["root"] / "instances/0.zarr", IDS, full=True)


def fit(world: dict[str, Any], instances: Path, out: Path, threads: int = 1, **options: Any) -> Path:
    history = options.pop("history", None)
    sources = Sources({}, world["manifest"], options.pop("weights", world["weights"]), [instances])
    train(
        sources,
        world["masks"],
        SMALL | options,
        StudentFiles(out),
        round=Round(1, 0, 2),
        history=history,
        resources=Resources(threads, "cpu"),
    )
    return out


@pytest.fixture(scope="module")
def student(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two photos, learnt by heart."""
    root = tmp_path_factory.mktemp("heart")
    two = write_instances(root / "instances/0.zarr", IDS[:2])
    return fit(world, two, root / "student.safetensors", steps=150, copy_paste=0.0)


def test_two_photos_are_learnt_by_heart(world: dict[str, Any], student: Path) -> None:
    tensors, made = read_tensors(student)
    assert tensors["loss"][-10:].mean() < 0.3 * tensors["loss"][:10].mean()
    assert (made["params"]["diagnostics"]["images"], made["params"]["diagnostics"]["instances"]) == (2, 2)
    model = Student.load(student)
    for i in range(2):
        pixels, label = picture(i)
        found = model.instances(pixels)
        assert found.labels[0] == label.max()
        assert mask_iou(found.at(label.shape).masks[:1], (label > 0)[None])[0, 0] > 0.8
        assert (np.diff(found.scores) <= 0).all()


def test_same_bytes_for_any_threads_workers_and_memory(world: dict[str, Any], instances: Path, tmp_path: Path) -> None:
    first = fit(world, instances, tmp_path / "a.safetensors")
    assert fit(world, instances, tmp_path / "b.safetensors", threads=2).read_bytes() == first.read_bytes()
    lean = read_tensors(fit(world, instances, tmp_path / "c.safetensors", threads=2, cache_mib=0))[0]
    for name, value in read_tensors(first)[0].items():
        np.testing.assert_array_equal(value, lean[name], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "ema": 0.9, "schedule": "step", "drop_loss": None}])
def test_an_interrupted_training_ends_in_the_same_bytes(
    world: dict[str, Any], instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    whole = fit(world, instances, tmp_path / "whole.safetensors", threads=2, **options)
    out = tmp_path / "parts.safetensors"
    stop_at(monkeypatch, 2, 7)
    for step in (3, 8):
        with pytest.raises(loop.StoppedError, match=f"after step {step} of 12"):
            fit(world, instances, out, threads=2, **options)
    fit(world, instances, out, **options)
    assert out.read_bytes() == whole.read_bytes()
    assert not checkpoints(tmp_path)


def test_only_the_last_blocks_of_a_vit_learn(world: dict[str, Any], instances: Path, tmp_path: Path) -> None:
    weights = write_weights(tmp_path / "vit.safetensors", "test_vit")
    before = {name: value.numpy() for name, value in weights_file.read(weights)[0].items()}
    out = fit(world, instances, tmp_path / "s.safetensors", weights=weights, unfrozen=2, steps=2)
    after = read_tensors(out)[0]
    changed = {name for name, value in before.items() if not np.array_equal(value, after[f"network.encoder.{name}"])}
    assert changed
    assert {name.split(".")[1] for name in changed} == {"4", "5"}
    again = fit(
        world, instances, tmp_path / "t.safetensors", weights=weights, unfrozen=0, steps=1, start="continue",
        history=History(out),
    )  # fmt: skip
    kept = read_tensors(again)[0]
    assert all(np.array_equal(v, kept[n]) for n, v in after.items() if n.startswith("network.encoder."))
    with pytest.raises(ConfigError, match=r"rounds\.start: continue, but .* another network .* use start: fresh"):
        fit(world, instances, tmp_path / "u.safetensors", start="continue", history=History(out))


def test_instances_of_a_shard_and_the_masks_painted_from_them(
    world: dict[str, Any], student: Path, tmp_path: Path
) -> None:
    rows = read_manifest(world["manifest"]).of("0")
    detect(student, rows, tmp_path / "i.zarr", Resources(2, "cpu"))
    predict(student, Detected(tmp_path / "i.zarr"), MaskFiles(tmp_path / "m.zarr", tmp_path / "c.zarr"))
    predict(student, rows, MaskFiles(tmp_path / "n.zarr"), resources=Resources(device="cpu"))
    found, model = InstanceStore(tmp_path / "i.zarr"), Student.load(student)
    assert found.ids == IDS
    masks, direct = Ragged(tmp_path / "m.zarr", "masks"), Ragged(tmp_path / "n.zarr", "masks")
    sure = Ragged(tmp_path / "c.zarr", "confidence")
    for image_id in IDS:
        np.testing.assert_array_equal(masks[image_id], direct[image_id])
        mask, best = model.sure_mask(found[image_id])
        np.testing.assert_array_equal(masks[image_id], mask)
        np.testing.assert_array_equal(sure[image_id], best)
        assert mask.shape == found[image_id].size
        logits = model.logits(found[image_id])
        np.testing.assert_array_equal(logits.argmax(axis=0), mask)  # what refinement starts from
    assert masks.attrs["round"] == 1


def test_the_painted_masks_teach_a_student_of_masks(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    """MaskDistill: a detector first, then a segmenter on its masks; the confidence of the first is its scores."""
    predict(student, read_manifest(world["manifest"]).of("0"), MaskFiles(tmp_path / "m.zarr", tmp_path / "c.zarr"))
    settings = {"student": "deeplabv3plus", "steps": 40, "batch_size": 4, "crop": 64, "width": 32, "unfrozen": 5}
    settings |= {"learning_rate": 5e-3, "size": {"short_side": 96}, "features": [], "confidence": 0.01}
    history = History(student, [tmp_path / "c.zarr"])
    out = tmp_path / "s.safetensors"
    sources = Sources({}, world["manifest"], world["weights"])
    train(
        sources,
        [tmp_path / "m.zarr"],
        settings,
        StudentFiles(out),
        round=Round(2, 0, 2),
        history=history,
        resources=Resources(1, "cpu"),
    )
    assert not Student.load(out).objects
    assert Student.load(out).mask(picture(0)[0]).any()


def test_refined_masks_keep_the_photo_s_edges(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    rows = read_manifest(world["manifest"]).of("0")[:1]
    predict(student, rows, MaskFiles(tmp_path / "m.zarr"), {"refine": "crf"}, manifest=world["manifest"])
    _, label = picture(0)
    mask = Ragged(tmp_path / "m.zarr")[IDS[0]]
    truth = Instances((label > 0)[None], np.array([1]), np.ones(1, np.float32)).at(mask.shape).masks
    assert mask_iou(mask[None] > 0, truth)[0, 0] > 0.8


def test_nothing_to_learn_from_has_a_name(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    empty = tmp_path / "none/0.zarr"
    with InstanceWriter(empty, {"clusters": 2}) as out:
        for image_id in IDS:
            out.append(image_id, Instances.none((4, 4)))
    with pytest.raises(NumericsError, match=r"none: no photo has an instance, .* raise paint\.keep_closest"):
        fit(world, empty, tmp_path / "s.safetensors")
    with pytest.raises(ConfigError, match="instance learns from instances; give --instances"):
        train(
            Sources({}, world["manifest"], world["weights"]),
            world["masks"],
            SMALL,
            StudentFiles(tmp_path / "s"),
            round=Round(1, 0, 2),
            resources=Resources(1, "cpu"),
        )
    with pytest.raises(ConfigError, match="sees photos; give --manifest and --weights"):
        train(
            Sources({}, instances=[empty]),
            world["masks"],
            SMALL,
            StudentFiles(tmp_path / "s"),
            round=Round(1, 0, 2),
            resources=Resources(1, "cpu"),
        )
    one = write_instances(tmp_path / "one/0.zarr", IDS)
    with RaggedWriter(tmp_path / "ones.zarr", "masks", dtype="uint8") as out:
        for image_id in IDS:
            out.append(image_id, np.ones((4, 4), np.uint8))
    sources = Sources({}, world["manifest"], world["weights"], [one])
    with pytest.raises(StoreError, match="holds class 2 of 1 clusters"):
        train(
            sources,
            [tmp_path / "ones.zarr"],
            SMALL,
            StudentFiles(tmp_path / "s"),
            round=Round(1, 0, 1),
            resources=Resources(1, "cpu"),
        )


def test_students_of_masks_have_no_instances(world: dict[str, Any], tmp_path: Path) -> None:
    settings = {"student": "deeplabv3plus", "steps": 1, "batch_size": 2, "crop": 64, "width": 32, "features": []}
    settings["size"] = {"short_side": 96}
    full = [world["root"] / "full/0.zarr"]
    out = tmp_path / "s.safetensors"
    train(
        Sources({}, world["manifest"], world["weights"]),
        full,
        settings,
        StudentFiles(out),
        round=Round(1, 0, 2),
        resources=Resources(1, "cpu"),
    )
    with pytest.raises(StoreError, match="predicts masks, no instances; use maskmill rounds predict"):
        detect(out, read_manifest(world["manifest"]).of("0"), tmp_path / "i.zarr", Resources(device="cpu"))
    with pytest.raises(StoreError, match="predicts masks, no instances"):
        Student.load(out).instances(picture(0)[0])
