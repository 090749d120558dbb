"""`maskmill plan`: options only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import ConfigFile, RecipeFolder
from maskmill.recipe.resolve import SHIPPED


def plan(
    images: Annotated[str | None, typer.Option(help="number of images, such as 1e8")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="instead: results/inputs/manifest.parquet, for its shards")
    ] = None,
    config: ConfigFile = None,
    recipes: RecipeFolder = SHIPPED,
    recipe: Annotated[list[str], typer.Option(help="instead of the config's recipes; may be repeated")] = [],  # noqa: B006
    size: Annotated[int | None, typer.Option(min=16, help="side of every feature set, by its own size rule")] = None,
    photo: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the images in pixels [default: 500x375]")] = None,
    shard_size: Annotated[int | None, typer.Option(min=1, max=100_000, help="instead of inputs.shard_size")] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="folder of an earlier, smaller run to measure on")
    ] = None,
    throughput: Annotated[
        Path | None, typer.Option(help="JSON: rule, or rule/recipe -> images a second of a job")
    ] = None,
    images_per_second: Annotated[list[str], typer.Option(help="RULE=NUMBER; may be repeated")] = [],  # noqa: B006
    cores: Annotated[int, typer.Option(min=1, help="CPU cores at once")] = max(1, os.cpu_count() or 1),
    gpus: Annotated[int, typer.Option(min=0, help="GPUs at once; rules with networks run on them")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what a run would take before it starts: shards, jobs, disk, memory, hours (docs/scaling.md)."""
    from maskmill.plan import run as planner
    from maskmill.plan import text
    from maskmill.plan.build import Machines
    from maskmill.plan.images import photo_size, whole
    from maskmill.plan.rates import read_given

    resolved = planner.configured(config, recipes, recipe, size, shard_size)
    made = planner.plan(
        resolved,
        None if images is None else whole(images, "--images"),
        Machines(cores, gpus),
        read_given(throughput, images_per_second),
        photo=None if photo is None else photo_size(photo),
        manifest=manifest,
        from_folder=from_,
    )
    if as_json:
        typer.echo(json.dumps(text.as_json(made), indent=1))
        return
    for line in text.lines(made):
        typer.echo(line)
