"""Layouts of published checkpoints, each as a synthetic file: the backbone's tensors are found in all of them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskmill.backbones.checkpoints import load_state, read_checkpoint
from maskmill.backbones.network import import_timm
from maskmill.errors import WeightsError

timm = import_timm()
State = dict[str, torch.Tensor]
Layout = Callable[[State, State], Any]
ARGS = argparse.Namespace(arch="vit_small", lr=0.0005, crops=[0.4, 1.0], out=None)


def below(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def few(*names: str) -> State:
    """Tensors of heads, queues and probes."""
    return {name: torch.zeros(3, 3) for name in names}


def sequential(state: State) -> State:
    """A ResNet as a torch.nn.Sequential has nothing of its names: an unknown layout."""
    return {f"{i}.tensor": value for i, value in enumerate(state.values())}


# name -> (the backbone's state, that of the other network) -> what torch.save was given
RESNETS: dict[str, Layout] = {
    "torchvision, timm": lambda s, o: s | few("fc.weight", "fc.bias"),
    "MoCo v1 and v2": lambda s, o: {
        "epoch": 200, "arch": "resnet50", "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}},
        "state_dict": below("module.encoder_q.", s | few("fc.0.weight", "fc.2.weight")) | below("module.encoder_k.", o)
        | few("module.queue", "module.queue_ptr"),
    },
    "MoCo v3": lambda s, o: {
        "state_dict": below("module.base_encoder.", s | few("fc.0.weight")) | below("module.momentum_encoder.", o)
        | few("module.predictor.0.weight"),
    },
    "SimSiam": lambda s, o: {
        "state_dict": below("module.encoder.", s | few("fc.0.weight")) | few("module.predictor.0.weight")
    },
    "SwAV and DeepCluster v2, published": lambda s, o: below(
        "module.", s | few("projection_head.0.weight", "prototypes.weight", "prototypes.prototypes0.weight")
    ),
    "SwAV and DeepCluster v2, training": lambda s, o: {
        "epoch": 1, "state_dict": below("module.", s | few("prototypes.weight")), "optimizer": {}, "amp": None,
    },
    "DINO, ResNet": lambda s, o: {
        "student": below("module.backbone.", o), "teacher": below("module.backbone.", s), "args": ARGS, "epoch": 3,
    },
    "DenseCL, OpenSelfSup": lambda s, o: {
        "meta": {"epoch": 200}, "state_dict": below("backbone.", s) | below("encoder_q.0.", s)
        | below("encoder_k.0.", o) | few("encoder_q.1.mlp.0.weight", "queue", "queue2"),
    },
    "mmselfsup": lambda s, o: {
        "state_dict": below("backbone.", s) | below("encoder_k.module.0.", o) | few("neck.mlp.0.weight", "head.w")
    },
    "BYOL, OpenSelfSup": lambda s, o: {
        "state_dict": below("backbone.", s) | below("online_net.0.", s) | below("target_net.0.", o)
    },
    "BYOL, byol-pytorch": lambda s, o: below("net.", s) | below("online_encoder.net.", s)
    | below("target_encoder.net.", o) | few("online_predictor.0.weight"),
    "SlotCon": lambda s, o: {
        "args": ARGS, "model": below("module.encoder_q.", s) | below("module.encoder_k.", o) | few("module.center"),
    },
    "PixPro": lambda s, o: {
        "opt": ARGS, "model": below("module.encoder.", s) | below("module.encoder_k.", o) | few("module.projector.w"),
    },
    "Barlow Twins and VICReg, training": lambda s, o: {
        "epoch": 1, "model": below("module.backbone.", s) | few("module.projector.0.weight", "module.bn.running_mean"),
    },
    "MaskContrast": lambda s, o: {
        "model": below("module.model_q.backbone.", s) | below("module.model_k.backbone.", o)
        | few("module.model_q.head.weight", "module.queue"), "amp": None, "epoch": 60,
    },
    "PiCIE and MDC": lambda s, o: {
        "epoch": 9, "args": ARGS, "classifier1_state_dict": few("module.weight"),
        "state_dict": below("module.backbone.", s) | few("module.decoder.layer4.weight"),
    },
    "solo-learn": lambda s, o: {
        "state_dict": below("backbone.", s) | below("momentum_backbone.", o) | few("projector.0.weight"),
    },
    "averaged weights of timm": lambda s, o: {"state_dict": o, "state_dict_ema": s, "args": ARGS, "arch": "x"},
}  # fmt: skip

VITS: dict[str, Layout] = {
    "timm": lambda s, o: s | few("head.weight", "head.bias"),
    "DINO, published": lambda s, o: s,
    "DINO, full": lambda s, o: {
        "student": below("module.backbone.", o) | few("module.head.mlp.0.weight"),
        "teacher": below("backbone.", s) | few("head.mlp.0.weight"),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 100, "args": ARGS, "dino_loss": few("center"), "fp16_scaler": {"scale": 65536.0},
    },
    "iBOT": lambda s, o: {"state_dict": s | few("masked_embed")},
    "iBOT, training": lambda s, o: {
        "student": below("module.backbone.", o), "teacher": below("module.backbone.", s), "args": ARGS,
        "ibot_loss": few("center", "center2"),
    },
    "DINOv2, teacher_checkpoint": lambda s, o: {
        "teacher": below("backbone.", s) | few("backbone.mask_token", "dino_head.mlp.0.weight", "ibot_head.mlp.0.bias")
    },
    "DINOv2, teacher_checkpoint in chunks": lambda s, o: {
        "teacher": {re.sub(r"^(backbone.blocks)\.(\d+)", r"\1.0.\2", k): v for k, v in below("backbone.", s).items()}
    },
    "FSDP and compiled": lambda s, o: {
        "model": {
            f"_orig_mod._fsdp_wrapped_module.{k.replace('attn', '_checkpoint_wrapped_module.attn')}": v
            for k, v in s.items()
        }
    },
    "MAE": lambda s, o: {
        "model": s | few("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight"),
        "optimizer": {}, "epoch": 800, "scaler": {}, "args": ARGS,
    },
    "SimMIM": lambda s, o: {"model": below("encoder.", s) | few("encoder.mask_token", "decoder.0.weight")},
    "MoCo v3": lambda s, o: {
        "state_dict": below("module.base_encoder.", s | few("head.0.weight")) | below("module.momentum_encoder.", o)
    },
    "DeiT, averaged": lambda s, o: {"model": o, "model_ema": s, "args": ARGS},
    "STEGO": lambda s, o: {
        "state_dict": below("net.model.", s) | few("net.cluster1.0.weight", "cluster_probe.clusters"), "epoch": 0
    },
    "Leopart": lambda s, o: below("model.", s) | few("model.head.last_layer.weight"),
    "Leopart, training": lambda s, o: {"state_dict": below("model.", o) | below("teacher.", s) | few("queue")},
    "HP": lambda s, o: {
        "net_model_state_dict": below("module.model.", s) | few("module.cluster1.0.weight"),
        "linear_model_state_dict": few("module.weight"), "epoch": 1,
    },
    "transformers, ViT": lambda s, o: below("vit.", transformers(s, dinov2=False)) | few("classifier.weight"),
    "transformers, DINOv2": lambda s, o: transformers(s, dinov2=True) | few("embeddings.mask_token"),
}  # fmt: skip


def transformers(state: State, dinov2: bool) -> State:
    """The names that transformers gives to the tensors of timm's ViT."""
    names = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    for kind in ("weight", "bias"):
        names[f"patch_embed.proj.{kind}"] = f"embeddings.patch_embeddings.projection.{kind}"
        names[f"norm.{kind}"] = f"layernorm.{kind}"
    parts = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
             "mlp.fc2": "output.dense", "attn.proj": "attention.output.dense"}  # fmt: skip
    if dinov2:
        parts |= {part: part for part in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")}
        parts |= {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    found: State = {}
    for name, value in state.items():
        if name in names:
            found[names[name]] = value
            continue
        _, number, part = name.split(".", 2)
        layer = f"encoder.layer.{number}."
        if part.startswith("attn.qkv"):
            for i, third in enumerate(value.chunk(3)):
                found[f"{layer}attention.attention.{('query', 'key', 'value')[i]}.{part.split('.')[-1]}"] = third
        elif part in parts:
            found[layer + parts[part]] = value
        else:
            stem, kind = part.rsplit(".", 1)
            found[f"{layer}{parts[stem]}.{kind}"] = value
    return found


def model(kind: str) -> Any:
    if kind == "resnet":
        return timm.create_model("resnet10t", pretrained=False, num_classes=0)
    name = "vit_small_patch14_dinov2" if kind == "dinov2" else "vit_tiny_patch16_224"
    return timm.create_model(name, pretrained=False, num_classes=0, depth=2, embed_dim=24, num_heads=3, img_size=56)


def numbers(network: Any, seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(v.shape, generator=generator) if v.is_floating_point() else v
        for k, v in network.state_dict().items()
    }


def check(body: Any, network: Any, expected: State, folder: Path) -> None:
    torch.save(body, folder / "c.pth")
    load_state(network, read_checkpoint(folder / "c.pth", network.state_dict().keys()), "c.pth")
    got = network.state_dict()
    assert got.keys() == expected.keys()
    assert [name for name, value in expected.items() if not torch.equal(got[name], value)] == []


@pytest.mark.parametrize("layout", list(RESNETS))
def test_resnets(layout: str, tmp_path: Path) -> None:
    network = model("resnet")
    state = numbers(network, 1)
    check(RESNETS[layout](state, numbers(network, 2)), network, state, tmp_path)


@pytest.mark.parametrize("layout", list(VITS))
def test_vits(layout: str, tmp_path: Path) -> None:
    network = model("dinov2" if "DINOv2" in layout else "vit")
    state = numbers(network, 1)
    check(VITS[layout](state, numbers(network, 2)), network, state, tmp_path)


def test_chunks_leave_networks_alone_that_number_their_blocks_twice(tmp_path: Path) -> None:
    network = timm.create_model("efficientnet_lite0", pretrained=False, num_classes=0)
    state = numbers(network, 1)
    check({"state_dict": below("module.", state)}, network, state, tmp_path)


def test_what_was_taken_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = model("vit")
    state = numbers(network, 1)
    check(VITS["DINO, full"](state, numbers(network, 2)), network, state, tmp_path)
    assert "c.pth: took teacher.backbone, not student.module.backbone" in capsys.readouterr().err
    check(state, network, state, tmp_path)
    assert capsys.readouterr().err == ""


def test_a_student_alone_is_taken(tmp_path: Path) -> None:
    network = model("vit")
    state = numbers(network, 1)
    check({"student": below("module.backbone.", state)}, network, state, tmp_path)


def test_two_networks_of_equal_rank_are_not_guessed(tmp_path: Path) -> None:
    network = model("resnet")
    torch.save(below("left.", numbers(network, 1)) | below("right.", numbers(network, 2)), tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"holds several networks of this architecture, below left, right; save"):
        read_checkpoint(tmp_path / "c.pth", network.state_dict().keys())


def test_an_unknown_layout_names_what_was_found(tmp_path: Path) -> None:
    network = model("resnet")
    torch.save({"state_dict": sequential(numbers(network, 1))}, tmp_path / "c.pth")
    state = read_checkpoint(tmp_path / "c.pth", network.state_dict().keys())
    with pytest.raises(WeightsError, match=r"found 0.tensor, 1.tensor, 2.tensor, wanted conv1.0.weight.*any prefix"):
        load_state(network, state, "c.pth")


class Marks:
    """What an attacker puts into a pickle: unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.file),))


@pytest.mark.parametrize("place", ["within", "deep", "class", "beside"])
def test_options_may_hold_nothing_but_plain_values(place: str, tmp_path: Path) -> None:
    """`argparse.Namespace` opens no door: what it holds is refused as anywhere else, and nothing is executed."""
    made = tmp_path / "made"
    network = model("resnet")
    args: Any = {
        "within": argparse.Namespace(arch=Marks(made)),
        "deep": argparse.Namespace(crops=[{"scale": argparse.Namespace(x=Marks(made))}]),
        "class": argparse.Namespace(out=Path("/tmp/x")),
        "beside": argparse.Action(["-x"], "x"),
    }[place]
    torch.save({"model": numbers(network, 1), "args": args}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="not a readable checkpoint"):
        read_checkpoint(tmp_path / "c.pth", network.state_dict().keys())
    assert not made.exists()


def test_a_mapping_that_holds_itself_ends(tmp_path: Path) -> None:
    network = model("resnet")
    body: dict[str, Any] = {"state_dict": numbers(network, 1)}
    body |= {f"self{i}": body for i in range(100)}
    check(body, network, body["state_dict"], tmp_path)


def test_mappings_without_end_are_left_out(tmp_path: Path) -> None:
    network = model("resnet")
    deep: dict[str, Any] = {}
    for _ in range(150):
        deep = {"a": deep}
    state = numbers(network, 1)
    check({"optimizer": {"state": {i: {"step": 1} for i in range(3000)}}, "deep": deep, "model": state}, network, state,
          tmp_path)  # fmt: skip
