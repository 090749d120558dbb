"""`maskmill paint-limits`, `maskmill paint-stuff`, `maskmill paint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Device, Foreground, ManifestFile, Out, Params, Seed, Threads, section, shard_files
from maskmill.errors import ConfigError


def paint_limits(
    assignments: Annotated[Path, typer.Option(help="folder of assignments")],
    codebook: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    params: Params,
    out: Out,
) -> None:
    """paint: how far from its centre a kept region of each cluster may be."""
    from maskmill.paint.run import run_limits

    run_limits(shard_files(assignments, manifest, "parquet"), codebook, section(params), out)


def paint_stuff(
    tokens: Annotated[Path, typer.Option(help="folder of feature stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """paint: classes of what lies between the segments, a clustering of tokens."""
    from maskmill.paint.stuff import run_stuff

    run_stuff(shard_files(tokens, manifest), section(params), seed, out, threads, device)


def paint(
    codebook: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    vectors: Annotated[Path | None, typer.Option(help="token recipes: vector store of the shard")] = None,
    segments: Annotated[Path | None, typer.Option(help="region recipes: segments of the shard")] = None,
    assignments: Annotated[Path | None, typer.Option(help="region recipes: assignments of the shard")] = None,
    limits: Annotated[Path | None, typer.Option(help="region recipes: what paint-limits wrote")] = None,
    instances: Annotated[bool, typer.Option("--instances", help="write the kept regions one by one")] = False,
    foreground: Foreground = None,
    stuff: Annotated[Path | None, typer.Option(help="with paint.stuff: what paint-stuff wrote")] = None,
    tokens: Annotated[Path | None, typer.Option(help="with paint.stuff: feature store of the shard")] = None,
) -> None:
    """paint: clusters -> pseudo-masks of round 0, or its instances."""
    from maskmill.paint.instances import run_instances
    from maskmill.paint.run import Beside, run_segments, run_tokens

    if vectors is not None and not instances:
        run_tokens(vectors, codebook, section(params), out, manifest, foreground)
    elif segments is None or assignments is None or limits is None:
        given = "maskmill paint --instances: give" if instances else "maskmill paint: give --vectors, or"
        raise ConfigError(f"{given} --segments, --assignments and --limits")
    elif instances:
        run_instances(segments, assignments, limits, codebook, section(params), out)
    else:
        beside = Beside(manifest, stuff, tokens)
        run_segments(segments, assignments, limits, codebook, section(params), out, beside)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command("paint-limits")(paint_limits)
    app.command("paint-stuff")(paint_stuff)
    app.command()(paint)
