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


Sources = Annotated[list[str], typer.Option(help="folder, glob, CSV/Parquet manifest, or video; may be repeated")]
Frames = Annotated[Path, typer.Option(help="folder for the frames of a video")]
Labels = Annotated[str, typer.Option(help="folder of label images with the same stems, or a table")]


def inputs_list(images: Sources, params: Params, out: Out, frames: Frames, labels: Labels = "") -> None:
    """inputs: images -> a list of their files in parts, where they are many."""
    from maskmill.inputs.run import list_files

    list_files(images, labels or None, section(params), out, frames)


def inputs_check(
    listing: Annotated[Path, typer.Option(help="what inputs-list wrote")],
    part: Annotated[str, typer.Option(help="of the list, such as p0000")],
    params: Params,
    out: Out,
    threads: Threads = 1,
) -> None:
    """inputs: a part of the list -> its pictures, checked, and its rejected files."""
    from maskmill.inputs.run import check_part

    check_part(listing, part, section(params), out, threads)


def inputs(
    images: Sources,
    params: Params,
    manifest: Annotated[Path, typer.Option(help="manifest to write")],
    rejected: Annotated[Path, typer.Option(help="CSV of unreadable files to write")],
    classes: Annotated[Path, typer.Option(help="JSON to write: how many pixels of all labels have which id")],
    frames: Frames,
    labels: Labels = "",
    listing: Annotated[Path | None, typer.Option(help="what inputs-list wrote, with --checked")] = None,
    checked: Annotated[Path | None, typer.Option(help="folder of what inputs-check wrote of every part")] = None,
    threads: Threads = 1,
) -> None:
    """inputs: images -> manifest, shards, rejected list."""
    from maskmill.inputs.run import Outputs, gather, run

    out = Outputs(manifest, rejected, classes)
    if listing is not None and checked is not None:
        gather(listing, checked, labels or None, section(params), out, threads)
    else:
        run(images, labels or None, section(params), out, threads, frames)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(demo)
    app.command("inputs-list")(inputs_list)
    app.command("inputs-check")(inputs_check)
    app.command()(inputs)
