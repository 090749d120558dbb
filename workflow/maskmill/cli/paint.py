"""`maskmill paint-limits`, `maskmill paint`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Foreground, ManifestFile, Out, Params, section, shard_files
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
) -> None:
    """paint: clusters -> pseudo-masks of round 0, or its instances."""
    from maskmill.paint.instances import run_instances
    from maskmill.paint.run import run_regions, run_tokens

    if vectors is not None and not instances:
        run_tokens(vectors, codebook, section(params), out, manifest, foreground)
    elif segments is None or assignments is None or limits is None:
        given = "maskmill paint --instances: give" if instances else "maskmill paint: give --vectors, or"
        raise ConfigError(f"{given} --segments, --assignments and --limits")
    elif instances:
        run_instances(segments, assignments, limits, codebook, section(params), out)
    else:
        run_regions(segments, assignments, limits, codebook, section(params), out, manifest)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command("paint-limits")(paint_limits)
    app.command()(paint)
