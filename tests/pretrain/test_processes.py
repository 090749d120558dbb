"""`maskmill pretrain fit --gpus 2`: torchrun starts two processes, and the weights are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photo_rows import rows_of

from maskmill.backbones import weights_file
from maskmill.inputs import run as inputs
from maskmill.store.artefact import read_json

SECTION = {
    "method": "dino", "start": "scratch", "steps": 4, "batch_size": 8, "micro_batch": 2, "crop": 32, "local_crop": 16,
    "local_crops": 1, "prototypes": 16, "hidden": 16, "bottleneck": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rows_of(folder / "images", 12)
    files = inputs.Outputs(folder / "manifest.parquet", folder / "rejected.csv", folder / "classes.json")
    inputs.run(str(folder / "images"), None, {}, files, 1, folder / "frames")
    return files.manifest


def trained(manifest: Path, out: Path, *more: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Weights and monitors of a training that the command line starts, as the workflow does."""
    body = {"backbone": "vit_tiny_patch16_224", "pretrain": SECTION}
    written = [str(out), str(out.with_name("monitor.json"))]
    job = json.dumps({"asked": "", "reads": {}, "writes": written})
    arguments = [
        "--job", job, "pretrain", "fit", "--manifest", str(manifest), "--params", json.dumps(body),
        "--out", written[0], "--monitor", written[1], "--device", "cpu", *more,
    ]  # fmt: skip
    code = f"import sys; sys.argv = ['maskmill', *{arguments!r}]; from maskmill.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in out.parent.iterdir()) == ["monitor.json", out.name]
    return weights_file.read(out)[0], read_json(Path(written[1]))


def test_two_processes_give_the_weights_of_one(manifest: Path, tmp_path: Path) -> None:
    one, alone = trained(manifest, tmp_path / "one/weights.safetensors")
    two, team = trained(manifest, tmp_path / "two/weights.safetensors", "--gpus", "2")
    np.testing.assert_allclose(team["loss"], alone["loss"], rtol=1e-5)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)
