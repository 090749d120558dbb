"""`maskmill export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskmill.cli.options import Foreground, ManifestFile, Out, Params, Seed, pairs, section, shard_files

if TYPE_CHECKING:
    from maskmill.export.naming import Naming


def export_shard(
    masks: Annotated[Path, typer.Option(help="masks of the last round, of the shard")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
    cut: Annotated[Path | None, typer.Option(help="segments of the shard")] = None,
    regions: Annotated[Path | None, typer.Option(help="region table of the shard")] = None,
    assignments: Annotated[Path | None, typer.Option(help="assignments of the shard")] = None,
    instances: Annotated[Path | None, typer.Option(help="the last round's instances of the shard")] = None,
    classes: Annotated[Path | None, typer.Option(help="classes.json: names and colours of the classes")] = None,
    tracks: Annotated[Path | None, typer.Option(help="tracks of the shard")] = None,
    seed: Seed = 0,
    round: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """export: what `maskmill export --parts` puts together, of one shard."""
    from maskmill.export.run import ExportFiles, run_shard
    from maskmill.images.masks import MaskSet

    given = [[] if file is None else [file] for file in (cut, assignments, regions, instances, tracks)]
    sources = ExportFiles(manifest, [masks], given[0], given[1], given[2], given[3], classes, given[4])
    run_shard(sources, section(params), out, MaskSet(recipe, seed, round), _naming(classes))


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
    trained: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a feature set whose backbone is trained here: its weights")
    ] = None,
    codecs: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of a feature set of dtype pq: its codec, copied too")
    ] = None,
    scores: Annotated[Path | None, typer.Option(help="scores.json of this round: names of the clusters")] = None,
    instances: Annotated[Path | None, typer.Option(help="folder of the last round's instances")] = None,
    classes: Annotated[Path | None, typer.Option(help="classes.json: names and colours of the classes")] = None,
    tracks: Annotated[Path | None, typer.Option(help="folder of tracks over the masks")] = None,
    parts: Annotated[Path | None, typer.Option(help="folder of what export-shard wrote of every shard")] = None,
    seed: Seed = 0,
    round: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """export: masks -> PNG, COCO JSON, clusters.csv, and the segmenter for `maskmill predict`."""
    from maskmill.export.run import ExportFiles, More, run, run_index
    from maskmill.export.segmenter import SegmenterParts
    from maskmill.images.masks import MaskSet

    def files(folder: Path | None, suffix: str) -> list[Path]:
        return shard_files(folder, manifest, suffix) if folder else []

    given = {
        "student": student, "codebook": codebook, "head": head, "reduction": reduction, "foreground": foreground,
    }  # fmt: skip
    about = json.loads(segmenter)
    about_parts = SegmenterParts(
        {name: file for name, file in given.items() if file is not None},
        about["feature_sets"], weights, about["refine"], about["upsample"],
        {name: folder / "pq.safetensors" for name, folder in pairs(codecs or []).items()},
        {name: folder / "weights.safetensors" for name, folder in pairs(trained or []).items()},
    )  # fmt: skip
    about_masks = MaskSet(recipe, seed, round)
    if parts is not None:
        more = More(scores, about_parts, _naming(classes))
        read = ExportFiles(manifest, files(masks, "zarr"))
        run_index(read, parts, section(params), out, about_masks, more)
        return
    sources = ExportFiles(
        manifest, files(masks, "zarr"), files(cut, "zarr"), files(assignments, "parquet"), files(regions, "parquet"),
        files(instances, "zarr"), classes, files(tracks, "zarr"),
    )  # fmt: skip
    run(sources, section(params), out, about_masks, scores=scores, segmenter=about_parts, naming=_naming(classes))


def _naming(classes: Path | None) -> Naming | None:
    """Names and colours of the masks' values, where they are classes."""
    from maskmill.export.naming import Naming
    from maskmill.store.class_names import read as read_names

    return None if classes is None else Naming.of(read_names(classes).body["classes"])


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command("export-shard")(export_shard)
    app.command()(export)
