"""`maskmill export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Foreground, ManifestFile, Out, Params, Seed, pairs, section, shard_files


def export(
    masks: Annotated[Path, typer.Option(help="folder of the masks of the last round")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
    segmenter: Annotated[
        str, typer.Option(help="JSON: feature_sets, the refine section of the last masks, and paint's upsample")
    ],
    cut: Annotated[Path | None, typer.Option(help="folder of segments")] = None,
    regions: Annotated[Path | None, typer.Option(help="folder of region tables")] = None,
    assignments: Annotated[Path | None, typer.Option(help="folder of assignments")] = None,
    student: Annotated[Path | None, typer.Option(help="the last student")] = None,
    codebook: Annotated[Path | None, typer.Option(help="token recipes without rounds: the clusters")] = None,
    head: Annotated[Path | None, typer.Option(help="with --codebook: the head whose codes are clustered")] = None,
    reduction: Annotated[Path | None, typer.Option(help="with --codebook: the model of the stage reduce")] = None,
    foreground: Foreground = None,
    weights: Annotated[Path | None, typer.Option(help="folder of backbone weights, copied too")] = None,
    codecs: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a feature set of dtype pq: its codec, copied too")
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="scores.json of this round: names of the clusters")] = None,
    instances: Annotated[Path | None, typer.Option(help="folder of the last round's instances")] = None,
    classes: Annotated[Path | None, typer.Option(help="classes.json: names and colours of the classes")] = None,
    seed: Seed = 0,
    round: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """export: masks -> PNG, COCO JSON, clusters.csv, and the segmenter for `maskmill predict`."""
    from maskmill.export.naming import Naming
    from maskmill.export.run import ExportFiles, run
    from maskmill.export.segmenter import SegmenterParts
    from maskmill.images.masks import MaskSet
    from maskmill.store.class_names import read as read_names

    def files(folder: Path | None, suffix: str) -> list[Path]:
        return shard_files(folder, manifest, suffix) if folder else []

    given = {
        "student": student, "codebook": codebook, "head": head, "reduction": reduction, "foreground": foreground,
    }  # fmt: skip
    about = json.loads(segmenter)
    parts = SegmenterParts(
        {name: file for name, file in given.items() if file is not None},
        about["feature_sets"], weights, about["refine"], about["upsample"],
        {name: folder / "pq.safetensors" for name, folder in pairs(codecs or []).items()},
    )  # fmt: skip
    sources = ExportFiles(
        manifest, files(masks, "zarr"), files(cut, "zarr"), files(assignments, "parquet"), files(regions, "parquet"),
        files(instances, "zarr"), classes,
    )  # fmt: skip
    naming = Naming.of(read_names(classes).body["classes"]) if classes is not None else None
    about_masks = MaskSet(recipe, seed, round)
    run(sources, section(params), out, about_masks, scores=scores, segmenter=parts, naming=naming)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(export)
