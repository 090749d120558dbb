"""`maskmill reduce ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import ManifestFile, Out, Params, Seed, Threads, section, shard_files

app = typer.Typer(help="reduce: vectors -> fewer dimensions.", no_args_is_help=True)


@app.command("fit")
def reduce_fit(
    vectors: Annotated[Path, typer.Option(help="folder of vector stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Fit the reduction on the vectors of all shards."""
    from maskmill.reduce.run import fit

    fit(shard_files(vectors, manifest), section(params), seed, out, threads)


@app.command("map")
def reduce_map(
    vectors: Annotated[Path, typer.Option(help="vector store of one shard")],
    model: Annotated[Path, typer.Option()],
    params: Params,
    out: Out,
    threads: Threads = 1,
) -> None:
    """Apply a fitted reduction to one shard."""
    from maskmill.reduce.run import transform

    transform(vectors, model, section(params), out, threads)


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="reduce")
