"""`maskmill demo`, `maskmill inputs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Out, Params, Threads, section


def demo(out: Out) -> None:
    """Fetch the embedded footage (a street video of 250 frames) with a pinned sha256."""
    from maskmill.backbones.embedded import fetch_demo

    fetch_demo(out)


def inputs(
    images: Annotated[list[str], typer.Option(help="folder, glob, CSV/Parquet manifest, or video; may be repeated")],
    params: Params,
    manifest: Annotated[Path, typer.Option(help="manifest to write")],
    rejected: Annotated[Path, typer.Option(help="CSV of unreadable files to write")],
    classes: Annotated[Path, typer.Option(help="JSON to write: how many pixels of all labels have which id")],
    frames: Annotated[Path, typer.Option(help="folder for the frames of a video")],
    labels: Annotated[str, typer.Option(help="folder of label images with the same stems, or a table")] = "",
    threads: Threads = 1,
) -> None:
    """inputs: images -> manifest, shards, rejected list."""
    from maskmill.inputs.run import Outputs, run

    run(images, labels or None, section(params), Outputs(manifest, rejected, classes), threads, frames)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(demo)
    app.command()(inputs)
