"""`maskmill doctor` names what nobody will read any more, and removes it when asked."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from maskmill.cli.app import app
from maskmill.store.artefact import write_table
from maskmill.store.writer import Writer

SHARDS = ("s0000000001", "s0000000002")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Results of two shards, with a store of a shard that is gone, and a half-written one of a killed job."""
    monkeypatch.chdir(tmp_path)
    columns = {name: pa.array(["x", "y"]) for name in ("id", "path", "label", "digest")}
    write_table("results/inputs/manifest.parquet", pa.table(columns | {"shard": pa.array(SHARDS)}))
    dead = Writer(Writer.current().host, 2**22 + 1, 1)
    for name in ("s0000000001", "s0000000003", f".s0000000002.zarr.tmp-{dead.tag}"):
        path = tmp_path / "results/features/colour" / (name if name.startswith(".") else f"{name}.zarr")
        path.mkdir(parents=True)
        (path / "zarr.json").write_text("{}")
    return tmp_path / "results/features/colour"


def doctor(*options: str) -> str:
    return CliRunner().invoke(app, ["doctor", *options]).output


def test_doctor_names_and_removes_what_nobody_reads(folder: Path) -> None:
    said = doctor()
    assert "colour/s0000000003.zarr" in said
    assert "colour/.s0000000002.zarr.tmp-" in said
    assert "`maskmill doctor --clean` removes them" in said
    assert len(list(folder.iterdir())) == 3
    assert "removed" in doctor("--clean")
    assert [path.name for path in folder.iterdir()] == ["s0000000001.zarr"]
    assert "nothing half-written and no store of an old shard" in doctor()


def test_without_a_manifest_no_shard_is_old(folder: Path) -> None:
    (folder.parents[1] / "inputs/manifest.parquet").unlink()
    doctor("--clean")
    assert (folder / "s0000000003.zarr").exists()
