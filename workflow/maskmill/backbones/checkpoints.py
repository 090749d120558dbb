"""Checkpoints as people publish them: read without unpickling, taken out of their wrappers, loaded into a network."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskmill.backbones.network import resample_positions
from maskmill.errors import WeightsError
from maskmill.reading import SPECIAL, is_special

if TYPE_CHECKING:
    import torch

WRAPPERS = ("state_dict", "model", "teacher", "student", "model_state", "model_ema")
HEADS = ("head", "fc", "classifier", "pre_logits", "mask_token")  # of a classifier or of pretraining; not needed
PREFIXES = ("module.", "_orig_mod.", "teacher.", "student.", "model.", "backbone.", "encoder.")
BODY = ("blocks.", "patch_embed.", "conv", "stem", "layer1.", "stages.")  # how a backbone's own tensors begin


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Tensors of a .safetensors or a torch file, never unpickling objects; wrappers and prefixes removed."""
    import torch
    from safetensors.torch import load_file

    if is_special(path):
        raise WeightsError(f"features.<name>.checkpoint: {str(path)!r} is {SPECIAL}; give a file")
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
