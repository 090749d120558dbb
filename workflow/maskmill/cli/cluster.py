"""`maskmill cluster ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Device, Foreground, ManifestFile, Out, Params, Seed, Threads, section, shard_files

app = typer.Typer(help="cluster: vectors -> codebook, assignments.", no_args_is_help=True)


@app.command("fit")
def cluster_fit(
    vectors: Annotated[Path, typer.Option(help="folder of vector stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    selection: Annotated[Path | None, typer.Option(help="JSON of scores without labels to write")] = None,
    foreground: Foreground = None,
    head: Annotated[Path | None, typer.Option(help="method prototypes: the head of the stage adapt")] = None,
    candidates: Annotated[Path | None, typer.Option(help="method prototypes: folder of what to choose from")] = None,
    candidate: Annotated[bool, typer.Option("--candidate", help="one of several, which need not exist")] = False,
) -> None:
    """Fit a codebook on the vectors of all shards, or choose among several."""
    from maskmill.cluster.run import OptionalFiles, fit

    optional = OptionalFiles(selection, foreground, head, candidates, candidate)
    fit(shard_files(vectors, manifest), section(params), seed, out, threads, device, optional)


@app.command("map")
def cluster_map(
    vectors: Annotated[Path, typer.Option(help="vector store of one shard")],
    table: Annotated[Path, typer.Option(help="region table of the same shard")],
    codebook: Annotated[Path, typer.Option()],
    params: Params,
    out: Out,
) -> None:
    """Assign the regions of one shard to clusters."""
    from maskmill.cluster.run import assign

    assign(vectors, table, codebook, out, section(params))


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="cluster")
