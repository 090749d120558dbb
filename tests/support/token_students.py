"""Ragged token grids, noisy masks of them, and a student that learns from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from maskmill.rounds.run import Round, Sources, StudentFiles, train
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter
from maskmill.training.resources import Resources

SMALL: dict[str, Any] = {"student": "token_head", "count": 1, "features": ["a", "b"], "steps": 80, "batch_size": 6}
SMALL |= {"dimensions": 8, "hidden": 16, "layers": 1, "upsample": 2, "learning_rate": 5e-3}
IDS = [f"img{i:02d}" for i in range(12)]


def scene(image_id: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """True labels [h, w] in {0, 1, 2} of a ragged grid, and two feature sets that show them, b at half the grid."""
    rng = np.random.default_rng(int(image_id[3:]))
    h, w = 8 + 2 * (rng.integers(3)), 8 + 2 * (rng.integers(3))
    truth = np.zeros((h, w), np.uint8)
    y, x = 2 * rng.integers(0, h // 2 - 2), 2 * rng.integers(0, w // 2 - 2)
    truth[y : y + 4, x : x + 4] = 1 + int(image_id[3:]) % 2
    fine = np.random.default_rng(5).standard_normal((2, 12))[(truth > 0).astype(int)]  # a: object or not
    coarse = np.random.default_rng(6).standard_normal((3, 10))[truth[::2, ::2]]  # b: which class
    return truth, {
        "a": fine + 0.3 * rng.standard_normal(fine.shape),
        "b": coarse + 0.3 * rng.standard_normal(coarse.shape),
    }


def noisy(truth: np.ndarray, image_id: str, share: float = 0.3) -> np.ndarray:
    """The mask at twice the grid, with a share of the cells replaced by any class and a column of ignore."""
    rng = np.random.default_rng(100 + int(image_id[3:]))
    mask = np.repeat(np.repeat(truth, 2, 0), 2, 1)
    wrong = rng.random(mask.shape) < share
    mask[wrong] = rng.integers(0, 3, mask.shape)[wrong]
    mask[:, 0] = 255
    return mask


def write_world(root: Path, shards: list[list[str]], masks: dict[str, np.ndarray] | None = None) -> dict[str, Any]:
    """Stores of the shards; `masks` replaces the noisy ones."""
    paths: dict[str, list[Path]] = {"a": [], "b": [], "masks": []}
    for s, ids in enumerate(shards):
        for name, depth in (("a", 12), ("b", 10)):
            path = root / name / f"{s}.zarr"
            with RaggedWriter(
                path, "features", depth=depth, provenance=Provenance.of("features", {"set": name})
            ) as out:
                for image_id in ids:
                    out.append(image_id, scene(image_id)[1][name].astype(np.float32))
            paths[name].append(path)
        path = root / "masks" / f"{s}.zarr"
        with RaggedWriter(path, "masks", dtype="uint8") as out:
            for image_id in ids:
                mask = noisy(scene(image_id)[0], image_id) if masks is None else masks[image_id]
                out.append(image_id, mask)
        paths["masks"].append(path)
    return {"features": {name: paths[name] for name in ("a", "b")}, "masks": paths["masks"]}


def fit(
    world: dict[str, Any], out: Path, threads: int = 1, seed: int = 0, checkpoint: int = 0, **override: Any
) -> Path:
    params = SMALL | override
    sources = Sources(world["features"])
    files, resources = StudentFiles(out), Resources(threads, "cpu", checkpoint)
    train(sources, world["masks"], params, files, round=Round(1, seed, 2), resources=resources)
    return out
