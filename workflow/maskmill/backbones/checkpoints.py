"""Checkpoints as people publish them: read without unpickling, and loaded into a network.

`layouts` finds the tensors.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskmill.backbones.layouts import backbone_of
from maskmill.backbones.network import resample_positions
from maskmill.errors import WeightsError
from maskmill.reading import SPECIAL, is_special

if TYPE_CHECKING:
    import torch

HEADS = ("head", "fc", "classifier", "pre_logits", "mask_token")  # of a classifier or of pretraining; not needed
UNKNOWN = 0.7  # share of missing tensors from which on the file is of another network, or of an unknown layout


def read_checkpoint(path: Path, wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """The backbone's tensors of a .safetensors or a torch file, without wrappers and prefixes, by `wanted` names.

    Objects are never unpickled; the one exception is `argparse.Namespace`, a record of options that training code saves
    beside its tensors, whose values must be plain ones too. What was chosen among several networks goes to stderr.
    """
    import torch
    from safetensors.torch import load_file

    if is_special(path):
        raise WeightsError(f"features.<name>.checkpoint: {str(path)!r} is {SPECIAL}; give a file")
    if not path.is_file():
        raise WeightsError(f"features.<name>.checkpoint: {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            body = load_file(path)
        else:
            with torch.serialization.safe_globals([argparse.Namespace]):
                body = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling errors, truncated files, foreign formats
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{path}: not a readable checkpoint ({reason}); nothing but tensors is loaded, as a pickle may run any "
            "code. If you trust it, convert it where it came from: "
            "safetensors.torch.save_file(model.state_dict(), 'checkpoint.safetensors')"
        ) from None
    state, choice = backbone_of(body, wanted, str(path))
    if choice:
        print(f"weights: {choice}", file=sys.stderr)
    return state


def load_state(model: Any, state: dict[str, torch.Tensor], origin: str) -> None:
    """Load a state dict; ViT position embeddings of another grid are resampled, classifier weights left out.

    Raises:
        WeightsError: tensors are missing or of another shape; names the first three, or, where nearly all are missing,
            the first three that the file has.
    """
    given = list(state)
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
    if len([k for k in wanted if k not in state]) > UNKNOWN * len(wanted):
        raise _unknown(origin, list(wanted), given)
    if wrong or surplus:
        what = "are missing or of another shape" if wrong else "are in the file, but not in this architecture"
        raise WeightsError(
            f"{origin}: {len(wrong or surplus)} of {len(wanted)} tensors {what} ({', '.join((wrong or surplus)[:3])}); "
            "check that features.<name>.backbone is the architecture of the checkpoint"
        )
    model.load_state_dict({k: state[k] for k in wanted})


def _unknown(origin: str, wanted: Sequence[str], given: Sequence[str]) -> WeightsError:
    """For a file with hardly a name of the architecture."""
    found, sought = ", ".join(given[:3]), ", ".join(wanted[:3])
    return WeightsError(
        f"{origin}: no tensors of this architecture by name: found {found}, wanted {sought} "
        "below any prefix (timm's names, those of transformers, or those of DINOv2's training); check that "
        "features.<name>.backbone is the architecture of the checkpoint, or rename the tensors (docs/backbones.md)"
    )


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
