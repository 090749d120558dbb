"""The gate's files: trained weights and those that the training started from -> the weights that features use.

What is measured and what counts is in `maskmill.pretrain._compare`. The report is written whichever weights are taken.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.backbones import mean_colour, weights_file
from maskmill.backbones.dense import load
from maskmill.device import pick
from maskmill.errors import NumericsError
from maskmill.images.photos import channels_of, reader_count
from maskmill.numerics.kmeans import Settings
from maskmill.pretrain import _compare, _gate
from maskmill.pretrain.run import PretrainSource, built, stage_of, started
from maskmill.recipe import backbones
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.store.artefact import write_json
from maskmill.store.manifest import read_manifest
from maskmill.store.provenance import Provenance
from maskmill.training.resources import Resources

TITLES = {
    "same_photo": "a photo is found again in another crop and light",
    "photo_neighbours": "photos keep their neighbours in another crop and light",
    "token_neighbours": "places keep their neighbours in another crop and light",
    "same_place": "a place is nearer to itself in another view than to other photos",
    "within_photo": "a place is found again within its photo",
    "halves_8": "k-means of two halves of the photos, K = 8",
    "halves_32": "k-means of two halves of the photos, K = 32",
    "seeds_8": "k-means of two seeds, K = 8",
    "seeds_32": "k-means of two seeds, K = 32",
    "predicted": "predicted quality: agreement with the other network and with plain colours and edges",
    "rank": "effective rank of tokens",
    "spread": "spread of tokens",
    "photo_rank": "effective rank of photos",
    "photo_spread": "spread of photos",
}  # of every measure, in the order of the table
SHORT = {
    "same_photo": "finding a photo again", "photo_neighbours": "neighbours of photos",
    "token_neighbours": "neighbours of places", "same_place": "telling places from other photos",
    "rank": "effective rank", "spread": "spread",
}  # fmt: skip


def accept(
    source: PretrainSource, trained: str | Path, out: str | Path, report: str | Path, resources: Resources
) -> None:
    """Compare a trained network with its start on a sample of the photos, and write the weights that are taken.

    With `accept: always` these are the trained ones in any case, with `better` only where their features are better.

    Args:
        source: as for the training; its feature set says what is read of the network, and at which size. Without
            weights the training started from random ones, which are made again.
        trained: file of the trained weights. out: file of the weights that are taken. report: JSON of the comparison.

    Raises:
        NumericsError: features that are not finite, or no photo that shows data. WeightsError, StoreError: a damaged or
            foreign file. InputError: a photo has changed.
    """
    import torch

    torch.set_num_threads(resources.threads)
    device, stage = pick(resources.device), stage_of(source.feature_set)
    seed, rule = stage.settings.seed, stage.settings.accept
    rows = read_manifest(source.manifest).rows
    channels = channels_of(rows) if source.feature_set.channels == "all" else 3
    network = load(trained, source.feature_set, device, channels)
    side = _gate.side_of(source.feature_set, network.multiple)
    photos = _gate.chosen(rows, side, seed)
    seen = _gate.pairs(photos, mean_colour(network), side, seed, reader_count(len(photos), resources.threads, device))
    _check(seen, len(photos))
    with tempfile.TemporaryDirectory() as folder:
        start = source.weights or _scratch(Path(folder) / "start.safetensors", source, seen)
        files = {"start": weights_file.read(start), "trained": weights_file.read(trained)}
        origin = load(start, source.feature_set, device, channels)
    before, after = (_compare.measure(_gate.look(backbone, seen), seed) for backbone in (origin, network))
    verdict = _compare.better(before, after)
    taken = "trained" if verdict.better or rule == "always" else "start"
    said = sentence(verdict, rule)
    body = {
        "better": verdict.better, "accept": rule, "accepted": taken, "sentence": said,
        "start": "scratch" if source.weights is None else "weights",
        "photos": len(seen), "places": _gate.PLACES, "side": side,
        **table(before, after, verdict, _witnesses(seen, side, channels, seed)),
    }  # fmt: skip
    hashes = [files[name][1]["sha256"] for name in ("trained", "start")]
    made = Provenance.of("pretrain", {"gate": source.feature_set.model_dump(mode="json")}, hashes)
    write_json(report, body, made)
    state, facts = files[taken]
    weights_file.write(Path(out), state, {**facts, "pretrain": files["trained"][1].get("pretrain"), "accepted": taken})
    print(f"pretrain: {said} ({len(seen)} photos)", file=sys.stderr)


def sentence(verdict: _compare.Verdict, rule: str) -> str:
    """What the run is told: whether the features are better, in which measures, and which weights are taken."""
    worse = (*verdict.falls, *verdict.lost)
    rises, falls = (", ".join(SHORT[name] for name in names) for names in (verdict.rises, worse))
    if verdict.better:
        return f"features are better in {rises}{f', worse in {falls}' if falls else ''}; the trained weights are taken"
    taken = (
        "the trained weights are taken all the same (accept: always)"
        if rule == "always"
        else "the weights that it started from are kept"
    )
    if not verdict.rises and not verdict.falls:
        return f"features are no better: {verdict.reasons[0]}; {taken}"
    if not verdict.lost and len(verdict.rises) >= len(verdict.falls):
        return f"features are no better: better in {rises}, but worse in {falls}; {taken}"
    return f"features are worse in {falls}{f', better in {rises}' if rises else ''}; {taken}"


def table(
    before: _compare.Measured, after: _compare.Measured, verdict: _compare.Verdict, witnesses: Sequence[np.ndarray]
) -> dict[str, Any]:
    """The measures of both networks as the report shows them, and how far both agree, ready for JSON."""
    found = _compare.compare(before, after, witnesses)
    values = (dict(before.values) | {"predicted": found["predicted"]["before"]},
              dict(after.values) | {"predicted": found["predicted"]["after"]})  # fmt: skip
    rows = []
    for name, title in TITLES.items():
        row: dict[str, Any] = {"name": name, "title": title, "before": values[0][name], "after": values[1][name]}
        if name in _compare.COUNTED:
            row["change"], row["error"] = _compare.changed(before, after, name)
        row["counts"] = name in _compare.COUNTED
        row["says"] = "better" if name in verdict.rises else "worse" if name in (*verdict.falls, *verdict.lost) else ""
        rows.append(row)
    return {"reasons": list(verdict.reasons), "measures": rows, "agreement": found["agreement"]}


def _witnesses(seen: Sequence[_gate.Pair], side: int, channels: int, seed: int) -> list[np.ndarray]:
    """Clusters of the same places by the backbones that need no network."""
    import torch

    found = []
    for spec in backbones.KNOWN.values():
        if spec.network:
            continue
        plain = FeatureSet(backbone=spec.name, size=Size(square=side))
        backbone = spec.build(plain, torch.device("cpu"), "", channels)
        fitting = [_fitting(each, backbone.multiple) for each in seen]
        rows = _gate.look(backbone, fitting).tokens[0]
        settings = Settings(clusters=max(_compare.CLUSTERS), spherical=False, restarts=1)
        labels = _compare.labelled(rows.reshape(-1, rows.shape[-1]), settings, seed)
        found += [] if labels is None else [labels]
    return found


def _fitting(pair: _gate.Pair, multiple: int) -> _gate.Pair:
    """Views with sides of whole multiples."""
    from maskmill.images.decode import resize

    side = max(1, round(pair.pictures.shape[1] / multiple)) * multiple
    return _gate.Pair(np.stack([resize(picture, (side, side)) for picture in pair.pictures]), pair.places)


def _check(seen: Sequence[_gate.Pair], asked: int) -> None:
    if not seen:
        raise NumericsError(
            f"pretrain: none of {asked} photos shows data, so that features can not be compared; check inputs.nodata"
        )


def _scratch(out: Path, source: PretrainSource, seen: Sequence[_gate.Pair]) -> Path:
    """Write a file of the random weights that a training from scratch began with.

    Batch norms, which had no statistics at that time, get those of the photos that are compared.
    """
    import torch

    from maskmill.backbones.learning import estimate_statistics
    from maskmill.pretrain._views import Normalisation

    stage = stage_of(source.feature_set)
    start = started(source, stage, seen[0].pictures.shape[3])
    network, ready = built(start, stage), Normalisation(tuple(start.facts["mean"]), tuple(start.facts["std"]))
    parts = (seen[first : first + _gate.BATCH] for first in range(0, len(seen), _gate.BATCH))
    batches = (ready(torch.from_numpy(np.stack([each.pictures[0] for each in part]))) for part in parts)
    estimate_statistics(network, batches)
    weights_file.write(
        out, network.state(), start.facts | {"about": f"random weights of {source.feature_set.backbone}"}
    )
    return out
