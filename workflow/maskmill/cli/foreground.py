"""`maskmill foreground ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Device, ManifestFile, Out, Params, Seed, Threads, section, shard_files

app = typer.Typer(help="foreground: tokens -> codebook of background and foreground.", no_args_is_help=True)


@app.command("fit")
def foreground_fit(
    vectors: Annotated[Path, typer.Option(help="folder of token stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Cluster the tokens of all shards finely."""
    from maskmill.foreground.run import fit

    fit(shard_files(vectors, manifest), section(params), seed, out, threads, device)


@app.command("count")
def foreground_count(
    vectors: Annotated[Path, typer.Option(help="token store of one shard")],
    features: Annotated[Path, typer.Option(help="feature store of the same shard: keys of a ViT")],
    codebook: Annotated[Path, typer.Option(help="the fine clusters")],
    params: Params,
    out: Out,
) -> None:
    """Count how precisely the fine clusters of one shard lie in the foreground masks of its images."""
    from maskmill.foreground.run import count

    count(vectors, features, codebook, section(params), out)


@app.command("choose")
def foreground_choose(
    counts: Annotated[Path, typer.Option(help="folder of the counts")],
    codebook: Annotated[Path, typer.Option(help="the fine clusters")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
) -> None:
    """Add the counts of all shards up and say which fine clusters are foreground."""
    from maskmill.foreground.run import choose

    choose(shard_files(counts, manifest, "safetensors"), codebook, section(params), out)


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="foreground")
