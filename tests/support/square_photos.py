"""Photos with one square each, their masks, and a random encoder, for students that see photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from maskmill.backbones import weights_file
from maskmill.backbones.network import import_timm
from maskmill.store import codebook
from maskmill.store.artefact import write_table
from maskmill.store.ragged import RaggedWriter

ENCODER = "test_efficientnet"
IDS = [f"im{i}" for i in range(8)]


def picture(i: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo uint8 [h, w, 3] with one red or blue square on grey, and its labels (1 red, 2 blue)."""
    rng = np.random.default_rng(i)
    h, w = 90 + 10 * (i % 3), 120 - 10 * (i % 2)
    label = np.zeros((h, w), np.uint8)
    y, x = rng.integers(8, h - 60), rng.integers(8, w - 60)
    label[y : y + 50, x : x + 50] = 1 + i % 2
    colours = np.array([[128, 128, 128], [220, 40, 40], [40, 40, 220]])
    return (colours[label] + rng.normal(0, 8, (h, w, 3))).clip(0, 255).astype(np.uint8), label


def write_weights(path: Path, architecture: str = ENCODER) -> Path:
    """A weights file as the rule `weights` makes it, of seeded random numbers."""
    torch.manual_seed(0)
    model = import_timm().create_model(architecture, pretrained=False, num_classes=0)
    facts = {"architecture": architecture, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    path.parent.mkdir(parents=True, exist_ok=True)
    weights_file.write(path, model.state_dict(), facts)
    return path


def write_world(root: Path) -> dict[str, Any]:
    """Photos, manifest, masks at half size, weights, codebook."""
    sizes = []
    for kind in ("masks", "full"):  # full: without background, so that any student predicts a cluster
        with RaggedWriter(root / kind / "0.zarr", "masks", dtype="uint8") as out:
            for i, image_id in enumerate(IDS):
                pixels, label = picture(i)
                Image.fromarray(pixels).save(root / f"{image_id}.png")
                sizes.append(label.shape)
                mask = label[::2, ::2].copy() if kind == "masks" else 1 + (label[::2, ::2] > 0)
                mask[:2] = 255
                out.append(image_id, mask.astype(np.uint8))
    table = {"id": IDS, "path": [str(root / f"{i}.png") for i in IDS], "shard": ["0"] * len(IDS)}
    table |= {"height": [s[0] for s in sizes[: len(IDS)]], "width": [s[1] for s in sizes[: len(IDS)]]}
    write_table(root / "manifest.parquet", pa.table(table | {"label": pa.array([None] * len(IDS), pa.string())}))
    codebook.write(root / "book.safetensors", codebook.Codebook(np.eye(2, dtype=np.float32), np.ones(2), 0.0, True))
    weights = write_weights(root / "weights/w.safetensors")
    return {"root": root, "masks": [root / "masks/0.zarr"], "manifest": root / "manifest.parquet", "weights": weights}
