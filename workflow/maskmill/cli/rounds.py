"""`maskmill rounds ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import (
    Device,
    Gpus,
    ManifestFile,
    Named,
    Out,
    Params,
    Seed,
    Threads,
    launch,
    pairs,
    section,
    shard_files,
)

app = typer.Typer(help="rounds: masks -> student -> masks.", no_args_is_help=True)


@app.command("train")
def rounds_train(
    manifest: ManifestFile,
    codebook: Annotated[Path, typer.Option()],
    masks: Annotated[Path, typer.Option(help="folder of the masks of the round before")],
    params: Params,
    out: Out,
    features: Named = [],  # noqa: B006 (typer's way of saying: none by default)
    weights: Annotated[Path | None, typer.Option(help="students on photos: weights of their encoder")] = None,
    before: Annotated[Path | None, typer.Option(help="start continue, stop: student of the round before")] = None,
    confidence: Annotated[Path | None, typer.Option(help="confidence: folder of the round before")] = None,
    earlier: Annotated[Path | None, typer.Option(help="stop: folder of the masks of two rounds before")] = None,
    assignments: Annotated[Path | None, typer.Option(help="images surest: folder of assignments")] = None,
    instances: Annotated[Path | None, typer.Option(help="student instance: folder of what it learns from")] = None,
    held: Annotated[Path | None, typer.Option(help="keep_labels: store of the labels")] = None,
    round: Annotated[int, typer.Option(min=1)] = 1,
    seed: Seed = 0,
    gpus: Gpus = 0,
    timing: Annotated[Path | None, typer.Option(help="JSON to write: how fast the training was")] = None,
    checkpoint_steps: Annotated[int, typer.Option(min=0, help="0: a checkpoint only on SIGTERM or SIGUSR1")] = 0,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Train a student on the masks of the round before."""
    launch(gpus)
    from maskmill.rounds.run import History, Round, Sources, StudentFiles, train
    from maskmill.store.classes import read_labels
    from maskmill.store.ragged import Ragged
    from maskmill.training.resources import Resources

    def files(folder: Path | None, suffix: str = "zarr") -> list[Path]:
        return shard_files(folder, manifest, suffix) if folder else []

    stores = {name: files(folder) for name, folder in pairs(features).items()}
    painted, clusters = files(masks), len(read_labels(codebook))
    if painted and Ragged(painted[0]).attrs.get("things") == clusters:  # classes of stuff lie behind them
        clusters = int(Ragged(painted[0]).attrs["clusters"])
    history = History(before, files(confidence), files(earlier), files(assignments, "parquet"), held)
    train(
        Sources(stores, manifest if weights else None, weights, files(instances)),
        painted,
        section(params),
        StudentFiles(out, timing),
        round=Round(round, seed, clusters),
        history=history,
        resources=Resources(threads, device, checkpoint_steps),
    )


@app.command("teach")
def rounds_teach(
    taught: Annotated[Path, typer.Option(help="instances of one shard that the round before learnt from")],
    predicted: Annotated[Path, typer.Option(help="instances of the shard that it predicted")],
    params: Params,
    out: Out,
    round: Annotated[int, typer.Option(min=2)] = 2,
) -> None:
    """Students of instances: what the next round learns from, of one shard."""
    from maskmill.recipe.model import Stage
    from maskmill.rounds.instance.teaching import teach

    teach(taught, predicted, Stage.of("rounds", {"student": "instance", **section(params)}).params, round, out)


@app.command("detect")
def rounds_detect(
    shard: Annotated[str, typer.Option()],
    student: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    out: Out,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Predict the instances of one shard with a trained student of instances."""
    from maskmill.rounds.run import detect
    from maskmill.store.manifest import read_shard
    from maskmill.training.resources import Resources

    detect(student, read_shard(manifest, shard), out, Resources(threads, device))


@app.command("predict")
def rounds_predict(
    shard: Annotated[str, typer.Option()],
    student: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    features: Named = [],  # noqa: B006
    confidence: Annotated[Path | None, typer.Option(help="also write how sure each mask cell is")] = None,
    instances: Annotated[Path | None, typer.Option(help="student instance: paint these of the shard")] = None,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Predict the masks of one shard with a trained student."""
    from maskmill.rounds.run import Detected, MaskFiles, predict
    from maskmill.store.manifest import read_shard
    from maskmill.training.resources import Resources

    stores = {name: folder / f"{shard}.zarr" for name, folder in pairs(features).items()}
    view = Detected(instances) if instances else stores or read_shard(manifest, shard)
    predict(
        student, view, MaskFiles(out, confidence), section(params), manifest=manifest,
        resources=Resources(threads, device),
    )  # fmt: skip


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="rounds")
