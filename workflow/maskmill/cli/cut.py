"""`maskmill cut`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Device, Out, Params, Seed, Threads, section


def cut(
    features: Annotated[Path, typer.Option(help="feature store of one shard")],
    params: Params,
    out: Out,
    manifest: Annotated[Path | None, typer.Option(help="with refine: results/inputs/manifest.parquet")] = None,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    colour: Annotated[Path | None, typer.Option(help="store of the colour feature set that cut.colour names")] = None,
) -> None:
    """cut: tokens of each image -> segments and a confidence."""
    from maskmill.cut.run import OptionalFiles, run

    run(features, section(params), out, seed, threads, device, optional=OptionalFiles(colour, manifest))


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(cut)
