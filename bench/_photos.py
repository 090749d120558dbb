"""Real tokens for the benches: photos through the embedded ViT-S/14, keys less their bias."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / "resources/weights/vit_small_focus.safetensors"  # where the workflow keeps it


def data_folder(name: str) -> Path | None:
    """A development set under $MASKMILL_DATA (default: ../shared/data), or None."""
    folder = Path(os.environ.get("MASKMILL_DATA") or ROOT.parent / "shared/data") / name
    return folder if folder.is_dir() else None


def photo_tokens(paths: list[Path], side: int) -> Iterator[np.ndarray]:
    """Tokens float32 [side / 14, side / 14, 384] of each photo, squeezed to side x side pixels."""
    import torch

    from maskmill.backbones.network import load
    from maskmill.backbones.weights import prepare
    from maskmill.images.decode import decode, resize
    from maskmill.recipe.feature_set import FeatureSet

    feature_set = FeatureSet(backbone="vit_small_focus", facet="key", size={"square": side})
    if not WEIGHTS.is_file():
        prepare(feature_set, WEIGHTS)
    backbone = load(WEIGHTS, feature_set, torch.device("cpu"))
    for path in paths:
        pixels = torch.from_numpy(resize(decode(path), (side, side)))[None]  # [1, side, side, 3]
        yield backbone.forward(pixels)[0][0].numpy()
