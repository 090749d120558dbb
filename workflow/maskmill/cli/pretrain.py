"""`maskmill pretrain ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maskmill.cli.options import Device, Gpus, ManifestFile, Out, Params, Threads, launch, section, shard_files

app = typer.Typer(help="pretrain: photos -> the weights of a backbone.", no_args_is_help=True)
Start = Annotated[Path | None, typer.Option(help="weights that the training starts from; none: random ones")]


def _feature_set(params: str) -> Any:
    """The feature set of a rule's `params`, without the hash of the photos, which is a reason to run again."""
    from maskmill.recipe.base import validate
    from maskmill.recipe.feature_set import FeatureSet

    body = section(params)
    body.pop("photos", None)
    return validate(FeatureSet, body, "--params", "features.<name>")


@app.command("fit")
def pretrain_fit(
    manifest: ManifestFile,
    params: Params,
    out: Out,
    weights: Start = None,
    segments: Annotated[Path | None, typer.Option(help="folder of a cut, for methods that read segments")] = None,
    monitor: Annotated[Path | None, typer.Option(help="JSON of losses and monitors to write")] = None,
    timing: Annotated[Path | None, typer.Option(help="JSON of the throughput to write")] = None,
    checkpoint_steps: Annotated[int, typer.Option(min=0, help="0: a checkpoint only on SIGTERM or SIGUSR1")] = 200,
    cache_mib: Annotated[int, typer.Option(min=0, help="memory for photos that are decoded once")] = 2048,
    gpus: Gpus = 0,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Train a backbone on the photos of all shards."""
    launch(gpus)
    from maskmill.pretrain.run import PretrainFiles, PretrainSource, fit
    from maskmill.training.resources import Resources

    stores = shard_files(segments, manifest) if segments is not None else []
    source = PretrainSource(manifest, _feature_set(params), weights, stores)
    fit(source, PretrainFiles(out, monitor, timing), Resources(threads, device, checkpoint_steps, cache_mib))


@app.command("accept")
def pretrain_accept(
    manifest: ManifestFile,
    params: Params,
    trained: Annotated[Path, typer.Option(help="weights that `maskmill pretrain fit` wrote")],
    out: Out,
    report: Annotated[Path, typer.Option(help="JSON of what was compared, to write")],
    weights: Start = None,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Compare the features of trained weights with those of the start, without labels, and hand one of both on."""
    from maskmill.pretrain.accept import accept
    from maskmill.pretrain.run import PretrainSource
    from maskmill.training.resources import Resources

    accept(PretrainSource(manifest, _feature_set(params), weights), trained, out, report, Resources(threads, device))


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="pretrain")
