"""The student on photos: its network, what it is shown, determinism, resume, and its way through predict and export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import checkpoints, stop_at
from PIL import Image
from square_photos import ENCODER, IDS, picture, write_world

from maskmill.backbones import weights_file
from maskmill.errors import InputError, StoreError
from maskmill.images.masks import to_size
from maskmill.recipe.sections import ConfigError
from maskmill.rounds import _augment, _layers, _photo_training
from maskmill.rounds.deeplabv3plus import Params, training
from maskmill.rounds.deeplabv3plus.network import build
from maskmill.rounds.infer import Student
from maskmill.rounds.run import MaskFiles, Round, Sources, StudentFiles, predict, train
from maskmill.store.artefact import read_json, read_tensors, write_table
from maskmill.store.manifest import read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged
from maskmill.training import loop
from maskmill.training.resources import Resources
from maskmill.training.team import Team

SMALL: dict[str, Any] = {
    "student": "deeplabv3plus",
    "steps": 12,
    "batch_size": 6,
    "crop": 64,
    "width": 32,
    "unfrozen": 5,
}
SMALL |= {"unfrozen": 5, "jitter": 0.1, "grey": 0.0}  # the colours tell the classes
SMALL |= {"learning_rate": 5e-3, "size": {"short_side": 96}, "scale": [0.5, 1.0], "features": []}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_world(tmp_path_factory.mktemp("photos"))


def fit(world: dict[str, Any], out: Path, threads: int = 1, seed: int = 0, masks: str = "full", **options: Any) -> Path:
    sources = Sources({}, world["manifest"], world["weights"])
    train(
        sources,
        [world["root"] / masks / "0.zarr"],
        SMALL | options,
        StudentFiles(out),
        round=Round(1, seed, 2),
        resources=Resources(threads, "cpu"),
    )
    return out


@pytest.fixture(scope="module")
def student(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(world, tmp_path_factory.mktemp("student") / "student.safetensors", masks="masks", steps=60)


def test_it_learns_what_it_is_shown(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    tensors = read_tensors(student)[0]
    assert tensors["loss"][0] == pytest.approx(np.log(3), rel=1e-3)
    assert tensors["loss"][-10:].mean() < 0.3 * tensors["loss"][0]
    rows = read_manifest(world["manifest"]).of("0")
    predict(student, rows, MaskFiles(tmp_path / "m.zarr", tmp_path / "c.zarr"), resources=Resources(device="cpu"))
    masks, right = Ragged(tmp_path / "m.zarr", "masks"), []
    for i, image_id in enumerate(IDS):
        _, label = picture(i)
        mask = masks[image_id]
        assert mask.shape[0] == 48  # 96 px of short side, logits every 4 px, two mask cells each
        right.append((to_size(mask, label.shape) == label).mean())
    assert np.mean(right) > 0.9
    assert Ragged(tmp_path / "c.zarr", "confidence").ids == IDS


def test_same_bytes_for_any_threads_workers_and_memory(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads decode in a process of their own; without memory for masks they are read by that process."""
    first = fit(world, tmp_path / "a.safetensors")
    assert fit(world, tmp_path / "b.safetensors", threads=2).read_bytes() == first.read_bytes()
    lean = read_tensors(fit(world, tmp_path / "c.safetensors", threads=2, cache_mib=0))[0]
    for name, value in read_tensors(first)[0].items():
        np.testing.assert_array_equal(value, lean[name], err_msg=name)
    other = read_tensors(fit(world, tmp_path / "d.safetensors", seed=1))[0]
    assert not np.array_equal(other["loss"], read_tensors(first)[0]["loss"])


@pytest.mark.parametrize("options", [{}, {"optimiser": "sgd", "learning_rate": 0.01, "ema": 0.9, "schedule": "cosine"}])
def test_an_interrupted_training_ends_in_the_same_bytes(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    whole = fit(world, tmp_path / "whole.safetensors", threads=2, **options)
    out = tmp_path / "parts.safetensors"
    stop_at(monkeypatch, 2, 7)
    for step in (3, 8):
        with pytest.raises(loop.StoppedError, match=f"after step {step} of 12"):
            fit(world, out, threads=2, **options)
    fit(world, out, **options)
    assert out.read_bytes() == whole.read_bytes()
    assert not checkpoints(tmp_path)


def test_only_the_last_levels_of_the_encoder_learn(world: dict[str, Any], tmp_path: Path) -> None:
    before = {k: v.numpy() for k, v in weights_file.read(world["weights"])[0].items()}
    after = read_tensors(fit(world, tmp_path / "s.safetensors", unfrozen=1, steps=2))[0]
    changed = {name for name, value in before.items() if not np.array_equal(value, after[f"network.encoder.{name}"])}
    assert changed
    assert all(name.startswith("blocks.4.") for name in changed)
    assert not any("running_" in name for name in changed)
    none = read_tensors(fit(world, tmp_path / "n.safetensors", unfrozen=0, steps=2))[0]
    assert all(np.array_equal(value, none[f"network.encoder.{name}"]) for name, value in before.items())


@pytest.mark.parametrize("architecture", [ENCODER, "test_resnet", "test_convnext"])
@pytest.mark.parametrize("stride", [8, 16])
def test_any_cnn_with_levels_is_an_encoder(architecture: str, stride: int) -> None:
    network = build(architecture, 5, Params(output_stride=stride, width=32)).train()  # type: ignore[arg-type]
    torch.nn.init.normal_(network.classify.weight)
    x = torch.randn(2, 3, 64, 96)
    out = network(x)
    assert out.shape == (2, 5, 16, 24)
    torch.testing.assert_close(network(x[1:])[0], out[1], atol=1e-4, rtol=1e-4)  # images stay apart


def test_freezing_follows_the_feature_levels() -> None:
    encoder = build("test_resnet", 2, Params(width=32)).encoder
    for unfrozen, first in ((1, "layer4"), (2, "layer3"), (3, "layer2")):
        _layers.freeze(encoder, unfrozen)
        learning = {name.split(".")[0] for name, p in encoder.named_parameters() if p.requires_grad}
        assert learning == {f"layer{i}" for i in range(int(first[-1]), 5)}
    _layers.freeze(encoder, 5)
    assert all(p.requires_grad for name, p in encoder.named_parameters() if not name.startswith("fc"))


def test_enlarging_is_bilinear() -> None:
    x = torch.randn(2, 3, 5, 7)
    expected = torch.nn.functional.interpolate(x, (20, 28), mode="bilinear", align_corners=False)
    torch.testing.assert_close(_layers.enlarge(x, (20, 28)), expected, atol=1e-5, rtol=1e-5)


def test_what_stays_on_the_device_serves_training_after_prediction() -> None:
    """The matrices of an enlargement are kept; one that prediction made must not be one that no gradient may pass."""
    _layers._matrix.cache_clear()
    _photo_training._channels.cache_clear()
    with torch.inference_mode():
        _layers.enlarge(torch.randn(1, 1, 3, 3), (7, 9))
        _photo_training.normalise(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), {"mean": [0.5] * 3, "std": [0.25] * 3})
    x = torch.randn(1, 1, 3, 3, requires_grad=True)
    _layers.enlarge(x, (7, 9)).sum().backward()
    assert x.grad is not None
    seen = _photo_training.normalise(
        torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), {"mean": [0.5] * 3, "std": [0.25] * 3}
    )
    torch.testing.assert_close(seen, torch.full((1, 3, 2, 2), 2.0))


def test_networks_that_do_not_fit_are_named(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rounds\.encoder: 'semantic' is test_vit, which gives no levels"):
        build("test_vit", 3, Params())
    broken = world | {"weights": tmp_path / "w.safetensors"}
    weights_file.write(tmp_path / "w.safetensors", {"x": torch.zeros(1)}, {"architecture": ENCODER})
    with pytest.raises(StoreError, match=r"w\.safetensors: lacks .* of test_efficientnet"):
        fit(broken, tmp_path / "s.safetensors")
    with pytest.raises(ConfigError, match="deeplabv3plus sees photos; give --manifest and --weights"):
        train(
            Sources(),
            world["masks"],
            SMALL,
            StudentFiles(tmp_path / "s.safetensors"),
            round=Round(1, 0, 2),
            resources=Resources(1, "cpu"),
        )


def test_a_photo_that_vanished_is_named(world: dict[str, Any], tmp_path: Path) -> None:
    gone = read_manifest(world["manifest"])
    columns = {key: [getattr(row, key) for row in gone.rows] for key in ("id", "path", "width", "height", "shard")}
    columns["path"][3] = str(tmp_path / "gone.png")
    write_table(tmp_path / "m.parquet", pa.table(columns | {"label": pa.array([None] * 8, pa.string())}))
    for threads in (1, 2):
        with pytest.raises(InputError, match=r"gone\.png: .*run snakemake again"):
            fit(world | {"manifest": tmp_path / "m.parquet"}, tmp_path / "s.safetensors", threads=threads)


@given(seed=st.integers(0, 10_000), height=st.integers(20, 400), width=st.integers(20, 400))
@settings(max_examples=60, deadline=None)
def test_boxes_lie_in_the_photo_and_have_the_wanted_area(seed: int, height: int, width: int) -> None:
    generator = np.random.default_rng(seed)
    y0, y1, x0, x1 = _augment.draw_box(height, width, (0.3, 0.5), generator)
    assert 0 <= y0 < y1 <= 1 + 1e-12
    assert 0 <= x0 < x1 <= 1 + 1e-12
    area, aspect = (y1 - y0) * (x1 - x0), (x1 - x0) * width / ((y1 - y0) * height)
    if y1 - y0 < 1 and x1 - x0 < 1:
        assert 0.3 - 1e-9 <= area <= 0.5 + 1e-9
        assert 3 / 4 - 1e-6 <= aspect <= 4 / 3 + 1e-6
    else:  # a whole side: the middle of a long photo, or rounded to it
        assert 3 / 4 - 0.1 <= aspect <= 4 / 3 + 0.1


def random_resized_crop(height: int, width: int, scale: tuple[float, float], generator: np.random.Generator) -> Any:
    """(h, w) in pixels by the rule of torchvision and albumentations; None where it is the middle of the photo."""
    for _ in range(10):
        area = generator.uniform(*scale) * height * width
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if w <= width and h <= height:
            return h, w
    return None


@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.25, 1.0)])
def test_boxes_are_drawn_anew_until_they_fit(scale: tuple[float, float]) -> None:
    """COMUS's shares of 0.5 to 2: a larger share than the photo is never seen, and the photo is not padded."""
    whole = 0
    for seed in range(300):
        height, width = np.random.default_rng(1000 + seed).integers(150, 500, 2).tolist()
        expected = random_resized_crop(height, width, scale, np.random.default_rng(seed))
        y0, y1, x0, x1 = _augment.draw_box(height, width, scale, np.random.default_rng(seed))
        if expected is None:
            whole += 1
            aspect = min(max(width / height, 3 / 4), 4 / 3)
            expected = (min(height, width / aspect), min(width, height * aspect))
            assert (y0 + y1, x0 + x1) == pytest.approx((1, 1))
        assert ((y1 - y0) * height, (x1 - x0) * width) == pytest.approx(expected, abs=0.51)
    assert (whole > 60) == (scale[1] > 1)  # a third of the draws of 0.5 to 2


@pytest.mark.parametrize(
    ("angle", "zoom"), [(0.0, 1.0), (0.0, 0.75), (0.0, 1.25), (5.0, 1.0), (-5.0, 0.8), (90.0, 1.0)]
)
def test_a_turned_photo_is_seen_where_the_mask_says(angle: float, zoom: float) -> None:
    """MaskDistill's views against the rotation matrix in pixels about the middle; outside they are background."""
    label = 1 + ((np.indices((90, 120)) // 15).sum(0) % 2).astype(np.uint8)
    photo = np.repeat((label * 100)[..., None], 3, 2)
    turn = _augment.Turn(90, 120, np.deg2rad(angle), zoom)
    pixels, labels = np.array(turn.picture(photo, 96)), turn.labels(label, 96)
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    y, x = (((np.arange(96) + 0.5) / 96 - 0.5) * side for side in (90, 120))
    from_y, from_x = (sin * x + cos * y[:, None]) / zoom + 45, (cos * x - sin * y[:, None]) / zoom + 60
    inside = (from_y >= 0) & (from_y < 90) & (from_x >= 0) & (from_x < 120)
    rows, columns = from_y.astype(int).clip(0, 89), from_x.astype(int).clip(0, 119)
    expected = np.where(inside, label[rows, columns], 0)
    assert (labels == expected).mean() > 0.999
    assert (np.abs(pixels[..., 0].astype(int) - 100 * labels) < 50).mean() > 0.9  # all but the edges of the squares
    assert (pixels[~inside] < 60).mean() > 0.95 if (~inside).any() else inside.all()


def test_whole_photos_are_turned_and_zoomed_instead_of_cropped() -> None:
    """Over many draws the corner of the photo moves as the settings say; without zoom views are crops as before."""
    mask = np.ones((60, 80), np.uint8)
    photo = np.full((60, 80, 3), 200, np.uint8)
    params = Params(crop=64, zoom=(0.5, 0.5), rotation=0.0, jitter=0.0, grey=0.0, blur=0.0)
    _, labels = _augment.augment(photo, mask, 64, params, np.random.default_rng(0))
    expected = np.zeros((64, 64), np.uint8)
    expected[16:48, 16:48] = 1
    np.testing.assert_array_equal(labels, expected)
    params = Params(crop=64, zoom=(0.75, 1.25), rotation=5.0, jitter=0.0, grey=0.0, blur=0.0)
    seen = [_augment.augment(photo, mask, 64, params, np.random.default_rng(i))[1].mean() for i in range(200)]
    assert min(seen) == pytest.approx(0.75**2, abs=0.03)
    assert np.mean([share > 0.98 for share in seen]) == pytest.approx(0.45, abs=0.12)  # enlarged: nothing is outside


def test_schedules_of_the_papers() -> None:
    """COMUS keeps its rate; MaskDistill's falls to a tenth after epoch 41 of 45."""
    constant = Params(steps=200, schedule="constant")
    assert {training._rate(step, constant) for step in range(200)} == {1.0}
    step = Params(steps=450, schedule="step", step_at=41 / 45, step_factor=0.1)
    rates = [training._rate(i, step) for i in range(450)]
    assert rates == [1.0] * 410 + [0.1] * 40
    poly = Params(steps=100)
    assert [training._rate(i, poly) for i in (0, 50, 99)] == pytest.approx([1, 0.5, 0.01])


def test_pixels_and_labels_stay_together() -> None:
    """Labels that are also the photo's colour: after any crop and flip they still agree."""
    label = (np.indices((96, 128)) // 16).sum(0) % 2
    photo = np.repeat((label * 255).astype(np.uint8)[..., None], 3, 2)
    params = Params(crop=64, jitter=0.0, grey=0.0, blur=0.0, scale=(0.2, 0.6))
    for i in range(20):
        pixels, labels = _augment.augment(photo, label.astype(np.uint8), 64, params, np.random.default_rng(i))
        assert ((pixels[..., 0] > 127) == labels).mean() > 0.97


def test_no_jitter_is_the_identity_and_jitter_is_not() -> None:
    image = Image.fromarray(picture(0)[0])
    still = _augment.recolour(image, Params(jitter=0.0, grey=0.0, blur=0.0), np.random.default_rng(0))
    np.testing.assert_array_equal(np.array(still), np.array(image))
    moved = [np.array(_augment.recolour(image, Params(), np.random.default_rng(i))) for i in range(8)]
    assert sum(not np.array_equal(m, np.array(image)) for m in moved) >= 5


def test_every_image_once_an_epoch_from_any_step() -> None:
    params = Params(batch_size=5, steps=8)
    whole = list(_photo_training.CropSampler(10, params, 0, 0, Team()))
    assert [len(step) for step in whole] == [5] * 8
    drawn = [image for step in whole for _, _, image in step]
    assert all(sorted(drawn[a : a + 10]) == list(range(10)) for a in (0, 10, 20, 30))
    assert list(_photo_training.CropSampler(10, params, 0, 3, Team())) == whole[3:]
    shared = [list(_photo_training.CropSampler(10, params, 0, 0, Team(rank, 2))) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shared, strict=True)] == [sorted(step) for step in whole]


def test_wrong_settings_are_named() -> None:
    for bad, said in (
        ({"scale": (0.5, 0.2)}, "scale: expected"),
        ({"scale": (1.5, 2.0)}, "scale: expected 0 < from <= 1"),  # no box would ever fit
        ({"zoom": (1.25, 0.75)}, "zoom: expected"),
        ({"rotation": 5.0}, "rotation: 5 turns whole photos; set zoom too"),
        ({"crop": 100}, "multiple of 32"),
    ):
        with pytest.raises(ValueError, match=said):
            Params(**bad)  # type: ignore[arg-type]


def test_it_travels_through_export_and_predict(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    from maskmill.export.segmenter import SegmenterParts
    from maskmill.predict.run import Wanted
    from maskmill.predict.run import predict as apply

    SegmenterParts({"student": student}, {}, tmp_path / "none").write(
        tmp_path / "segmenter", {}, Provenance.of("export", {})
    )
    assert read_json(tmp_path / "segmenter/features.json")["features"] == {}
    where = {"segmenter": tmp_path / "segmenter", "out": tmp_path / "out"}
    assert apply([world["root"] / "im1.png"], wanted=Wanted(overlays=False, device="cpu"), **where).masks == 1
    mask, label = np.array(Image.open(tmp_path / "out/im1.png")), picture(1)[1]
    assert mask.shape == label.shape
    assert (mask == label).mean() > 0.9


def test_two_processes_give_one_student(world: dict[str, Any], tmp_path: Path) -> None:
    """Torchrun on the CPU: the sums are rounded in another order, otherwise it is the same training."""
    alone = fit(world, tmp_path / "alone.safetensors", steps=4)
    out, timing = tmp_path / "team/student.safetensors", tmp_path / "team/training.json"
    job = json.dumps({"asked": "", "reads": {}, "writes": [str(out), str(timing)]})  # as the workflow starts it
    arguments = [
        "--job", job, "rounds", "train", "--manifest", str(world["manifest"]), "--weights", str(world["weights"]),
        "--codebook", str(world["root"] / "book.safetensors"), "--masks", str(world["root"] / "full"), "--params",
        json.dumps(SMALL | {"steps": 4}), "--out", str(out), "--timing", str(timing),
        "--gpus", "2", "--device", "cpu",
    ]  # fmt: skip
    code = f"import sys; sys.argv = ['maskmill', *{arguments!r}]; from maskmill.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["student.safetensors", "training.json"]
    one, two = read_tensors(alone)[0], read_tensors(out)[0]
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-4)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=5e-3, err_msg=name)


def test_a_student_of_photos_wants_photos(world: dict[str, Any], student: Path, tmp_path: Path) -> None:
    assert Student.load(student).photos
    with pytest.raises(StoreError, match="sees photos; leave out --features"):
        predict(student, {"a": world["masks"][0]}, MaskFiles(tmp_path / "m.zarr"))


@pytest.fixture(scope="module")
def uninterrupted(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(world, tmp_path_factory.mktemp("uninterrupted") / "student.safetensors", steps=40)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint(
    world: dict[str, Any], uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """SLURM signals every process of a step, the decoding workers too."""
    out = tmp_path / "out/student.safetensors"
    arguments = [
        "rounds", "train", "--manifest", str(world["manifest"]), "--weights", str(world["weights"]), "--codebook",
        str(world["root"] / "book.safetensors"), "--masks", str(world["root"] / "full"), "--params",
        json.dumps(SMALL | {"steps": 40}), "--out", str(out), "--device", "cpu", "--threads", "2",
        "--checkpoint-steps", "3",
    ]  # fmt: skip
    code = f"import sys; sys.argv = ['maskmill', *{arguments!r}]; from maskmill.cli import main; main()"
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not checkpoints(out.parent) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, number)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 1, error
    assert "run the same command again to go on" in error.strip().splitlines()[-1]
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "goes on after step" in again.stderr
    assert out.read_bytes() == uninterrupted.read_bytes()
