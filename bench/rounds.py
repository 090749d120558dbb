"""How fast does each student train, and how long does it wait for data?

    python bench/rounds.py [--images DIR] [--count 64] [--steps 40] [--crop 224] [--threads 1,2] [--device auto]

Photos of a folder (default: ECSSD under $MASKMILL_DATA) with masks of random blobs; for the token head random tokens of
the sizes of the embedded backbones (32 x 32 x 384 and 14 x 14 x 320). Every line is one training by `rounds.run.train`
from files to student, read from its timing file: the clock runs over the steps, waiting is the time until a batch is
there. The first batch, which nothing can hide, is included.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _photos import data_folder

from maskmill.backbones.weights import prepare
from maskmill.images.decode import SUFFIXES, displayed_size
from maskmill.recipe.feature_set import FeatureSet
from maskmill.rounds.run import Round, Sources, StudentFiles, train
from maskmill.store.artefact import read_json, write_table
from maskmill.store.manifest import Row
from maskmill.store.ragged import RaggedWriter
from maskmill.training.resources import Resources

CLUSTERS = 20


def setup(folder: Path, options: argparse.Namespace) -> None:
    """Manifest, tokens, masks and weights."""
    files = sorted(p for p in options.images.rglob("*") if p.suffix.lower() in SUFFIXES)[: options.count]
    rows = [Row(str(path), str(path), *displayed_size(path)[::-1], "s0", None) for path in files]
    write_table(folder / "manifest.parquet", pa.table({k: [getattr(r, k) for r in rows] for k in Row.__annotations__}))
    rng = np.random.default_rng(0)
    with contextlib.ExitStack() as stack:
        fine = stack.enter_context(RaggedWriter(folder / "fine.zarr", "features", depth=384))
        coarse = stack.enter_context(RaggedWriter(folder / "coarse.zarr", "features", depth=320))
        masks = stack.enter_context(RaggedWriter(folder / "masks.zarr", "masks", dtype="uint8"))
        for row in rows:
            fine.append(row.id, rng.standard_normal((32, 32, 384), dtype=np.float32))
            coarse.append(row.id, rng.standard_normal((14, 14, 320), dtype=np.float32))
            masks.append(row.id, np.kron(rng.integers(0, CLUSTERS + 1, (4, 4)), np.ones((32, 32))).astype(np.uint8))
    prepare(FeatureSet(backbone="efficientnet_lite0"), folder / "w.safetensors")


def measure(folder: Path, params: dict[str, Any], threads: int, device: str) -> dict[str, Any]:
    """One training's timing file."""
    photos = params["student"] == "deeplabv3plus"
    stores = {} if photos else {"fine": [folder / "fine.zarr"], "coarse": [folder / "coarse.zarr"]}
    files = (folder / "manifest.parquet", folder / "w.safetensors") if photos else (None, None)
    sources, out = Sources(stores, *files), folder / "student.safetensors"
    with contextlib.redirect_stderr(io.StringIO()):
        train(
            sources,
            [folder / "masks.zarr"],
            params,
            StudentFiles(out, folder / "t.json"),
            round=Round(1, 0, CLUSTERS),
            resources=Resources(threads, device),
        )
    return read_json(folder / "t.json")


def main() -> None:
    """Print one line a student and thread count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=data_folder("ecssd/images"), help="folder of images")
    parser.add_argument("--count", type=int, default=64, help="images")
    parser.add_argument("--steps", type=int, default=40, help="of deeplabv3plus; token_head: ten times as many")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if options.images is None:
        print("ECSSD is not here: give --images FOLDER or set MASKMILL_DATA")
        return
    # Masks at random teach nothing: `balance` keeps the student from answering background everywhere.
    common = {"batch_size": options.batch_size, "balance": 1.0}
    students: dict[str, dict[str, Any]] = {
        "token_head": {"steps": 10 * options.steps},
        "deeplabv3plus": {"steps": options.steps, "crop": options.crop, "learning_rate": 3e-3},
    }
    print(f"{options.count} images, batches of {options.batch_size}, crops of {options.crop} px, {CLUSTERS} clusters")
    print("| student | device | threads | steps | images/s | waiting for data |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        setup(Path(name), options)
        for student, own in students.items():
            for threads in map(int, options.threads.split(",")):
                found = measure(Path(name), common | own | {"student": student}, threads, options.device)
                print(
                    f"| {student} | {found['device']} | {threads} | {own['steps']} | {found['images_per_second']:.1f} "
                    f"| {100 * found['waiting_share']:.1f} % |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
