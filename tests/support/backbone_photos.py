"""Photos of two halves and random backbones, for heads that train their backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from maskmill.backbones import weights_file
from maskmill.backbones.network import import_timm
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.store.artefact import write_table
from maskmill.store.manifest import Row

CNN, VIT = "resnet10t", "vit_tiny_patch16_224"
SETS = {
    CNN: FeatureSet(backbone=CNN, layer=2, size=Size(square=64)),  # stride 8
    VIT: FeatureSet(backbone=VIT, layer=1, size=Size(square=64)),
}
COMMON = {"unfreeze": True, "steps": 4, "batch_size": 6, "dimensions": 8, "hidden": 8}


def write_weights(folder: Path) -> dict[str, Path]:
    """Random networks in files as `maskmill weights` writes them; batch norms have statistics of some images."""
    found = {}
    for name in SETS:
        torch.manual_seed(0)
        model = import_timm().create_model(name, pretrained=False, num_classes=0).train()
        model(torch.randn(8, 3, 224, 224))
        found[name] = folder / f"{name}.safetensors"
        facts = {"architecture": name, "mean": [0.5] * 3, "std": [0.25] * 3}
        weights_file.write(found[name], model.state_dict(), facts)
    return found


def write_photos(folder: Path) -> Path:
    """Ten photos of two halves in two shards, not all of one size; their manifest."""
    rng, rows = np.random.default_rng(0), []
    for i in range(10):
        height, width = [(64, 80), (96, 64), (64, 64)][i % 3]
        pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
        pixels[:, : width // 2, i % 3] += 150
        Image.fromarray(pixels).save(folder / f"im{i}.png")
        rows.append(Row(f"im{i}", str(folder / f"im{i}.png"), width, height, f"s{i % 2}", None))
    write_table(folder / "m.parquet", pa.table({key: [getattr(r, key) for r in rows] for key in Row.__annotations__}))
    return folder / "m.parquet"
