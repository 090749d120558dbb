"""rounds: train a student on the masks of the round before, predict the masks of this round. Files of the stage."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.device import pick
from maskmill.errors import NumericsError, StoreError
from maskmill.images.instances import InstanceStore, InstanceWriter
from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.images.photos import ManifestPhotos, read_photo
from maskmill.numerics.blocks import ordered
from maskmill.numerics.sampling import rng
from maskmill.progress import track
from maskmill.recipe.registry import load
from maskmill.recipe.sections import Rounds, validate
from maskmill.rounds._job import Sources
from maskmill.rounds._logic import IMAGES, MATCH, START, History, kept_ids, overlap, rename
from maskmill.rounds.infer import FORMAT, Student
from maskmill.store.artefact import Provenance, json_hash, read_tensors, write_json, write_tensors
from maskmill.store.manifest import Row
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.checkpoint import Keeper
from maskmill.training.team import Team, join, leave

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._job import Job
    from maskmill.rounds._masks import Masks

LOOK = 16  # images that a new student is looked at on
MATCHED = 512  # images on which class ids are matched
Views = Mapping[str, str | Path] | Sequence[Row]


def train(
    sources: Sources,
    masks: Sequence[str | Path],
    params: Mapping[str, Any],
    round: int,
    seed: int,
    clusters: int,
    out: str | Path,
    threads: int = 1,
    device: str = "auto",
    *,
    history: History | None = None,
    timing: str | Path | None = None,
    checkpoint_steps: int = 0,
) -> None:
    """Train the student of round `round` >= 1 on the masks of round - 1.

    Args:
        sources: what the student looks at.
        masks: mask stores of all shards, round - 1.
        params: the flat `rounds` section.
        clusters: k; the student has k + 1 classes, 0 is background.
        out: safetensors: all that prediction needs, loss of every step; metadata that suffices to use it elsewhere.
        history: what the options of round logic read of the rounds before.
        timing: JSON of seconds, images a second and the share of time waiting for data. It is a file of its own,
            so that the student is the same bytes on every machine.
        checkpoint_steps: steps between two checkpoints; 0 writes one only when SIGTERM or SIGUSR1 comes.

    Raises:
        NumericsError: nothing but ignore or background in the masks or in what the student predicts, constant
            features, or a loss that is not finite.
        StoreError: an image of the masks is missing in a feature set.
        StoppedError: a signal came; the checkpoint is written, and the same call goes on from it.
    """
    import torch

    from maskmill.rounds._job import Job
    from maskmill.rounds._masks import Masks, changed_share

    torch.set_num_threads(1)  # parallel work is split by hand, so that no sum depends on the number of threads
    history = history or History()
    method, settings, logic = _settings(params)
    sources = replace(sources, features={name: sources.features[name] for name in sorted(sources.features)})
    spec = {
        "format": FORMAT,
        "rounds": dict(params),
        "round": round,
        "seed": seed,
        "clusters": clusters,
        "features": {name: _made_by(paths) for name, paths in sources.features.items()},
    }
    hashes = _hashes(sources, masks, history)
    team, device = join(device)
    if logic.stop > 0 and history.earlier and history.student is not None:
        changed = changed_share(history.earlier, masks)
        if changed < logic.stop:
            if team.leads:
                _hand_on(history.student, changed, round, hashes, out, timing)
            return
    place = pick(device)
    keeper = Keeper.beside(out, _training_key(spec, hashes, place, team), checkpoint_steps)
    chosen = IMAGES[logic.images](logic, round, history)
    taught = Masks(
        masks, clusters + 1, round=round, chosen=chosen, sure=history.confidence, confidence=logic.confidence
    )
    before = START[logic.start](history)
    job = Job(clusters + 1, _round_seed(seed, round), place, threads, keeper, before, team)
    data = method.data(sources, taught, settings, job)
    tensors, diagnostics = method.fit(data, settings, job)
    tensors["loss"] = np.array(diagnostics.pop("loss"), np.float32)
    tensors["cells"] = taught.counts
    taken = diagnostics.pop("timing")
    spec["diagnostics"] = diagnostics
    tensors = _agree(method, data, taught, tensors, spec, job, MATCH[logic.match])
    leave(team)
    if team.leads:
        made = Provenance.of("rounds", spec, hashes)
        if timing is not None:
            how = {"device": place.type, "threads": threads, "processes": team.size}
            write_json(timing, taken | how, made)
        write_tensors(out, tensors, made)
        keeper.clear()


def _settings(params: Mapping[str, Any]) -> tuple[Any, Any, Rounds]:
    """The method's module, its settings, and the options of round logic."""
    method = load("rounds", params["student"])
    own = {key: value for key, value in params.items() if key in method.Params.model_fields}
    common = {key: value for key, value in params.items() if key in Rounds.model_fields}
    return method, validate(method.Params, own, "--params", "rounds"), validate(Rounds, common, "--params", "rounds")


def _hashes(sources: Sources, masks: Sequence[str | Path], history: History) -> list[str]:
    """Hashes of all that a training reads. Photos are known by the manifest, weights by their file."""
    stores = [*sources.features.values(), masks, history.confidence, history.earlier, sources.instances]
    hashes = [Ragged(path).hash for paths in stores for path in paths]
    if history.student is not None:
        hashes.append(read_tensors(history.student)[1]["hash"])
    files = [path for path in (*history.assignments, sources.manifest, sources.weights) if path is not None]
    return hashes + [_digest(path) for path in files]


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def _hand_on(
    student: str | Path, changed: float, round: int, hashes: list[str], out: str | Path, timing: str | Path | None
) -> None:
    """Write the student of the round before as that of this round."""
    tensors, provenance = read_tensors(student)
    spec = dict(provenance["params"])
    first = spec.get("handed_on", spec["round"])
    said = (
        f"{100 * changed:.2f} % of the cells changed in round {round - 1}; round {round} keeps the student of {first}"
    )
    print(f"rounds: {said}", file=sys.stderr, flush=True)
    made = Provenance.of("rounds", spec | {"round": round, "handed_on": first}, hashes)
    if timing is not None:
        write_json(timing, {"seconds": 0.0, "handed_on": first, "changed": changed}, made)
    write_tensors(out, tensors, made)


def _agree(
    method: Any,
    data: Any,
    taught: Masks,
    tensors: dict[str, np.ndarray],
    spec: Mapping[str, Any],
    job: Job,
    match: Callable[[np.ndarray], np.ndarray],
) -> dict[str, np.ndarray]:
    """The student's tensors with the class ids that `match` gives, after a look at what it predicts.

    Raises:
        NumericsError: nothing but background on the images that hold most of anything else.
    """
    student = Student(tensors, spec, job.device)
    best = sorted(taught.ids, key=lambda image_id: (-taught.objects[image_id], image_id))[:LOOK]
    if not any(student.mask(data.view(image_id)).any() for image_id in best):
        round = int(spec["round"])
        raise NumericsError(
            f"rounds: the student of round {round} predicts nothing but background, even where its masks hold most "
            f"objects; round {round - 1} is kept: set rounds.count={round - 1} to end there, or change the training"
        )
    if match is kept_ids:
        return tensors
    order = rng(job.seed, "match").permutation(len(taught.ids))[:MATCHED]
    ids = [taught.ids[i] for i in sorted(order)]
    pairs = ((student.mask(data.view(image_id)), taught[image_id]) for image_id in ids)
    return rename(tensors, method.CLASSIFIER, match(overlap(pairs, taught.classes)))


def _training_key(spec: Mapping[str, Any], hashes: Sequence[str], place: torch.device, team: Team) -> str:
    """What a training's numbers depend on: parameters, inputs, code, and what computes them."""
    import torch

    return json_hash([Provenance.of("rounds", spec, hashes).hash, place.type, team.size, torch.__version__])


def predict(
    student: str | Path,
    view: Views,
    out: str | Path,
    confidence: str | Path | None = None,
    threads: int = 1,
    device: str = "auto",
    *,
    params: Mapping[str, Any] | None = None,
    manifest: str | Path | None = None,
    instances: str | Path | None = None,
) -> None:
    """Masks of one shard by a trained student; Ragged "masks" with clusters from 1, background 0, no ignore.

    Args:
        view: the shard's feature stores {name: path}, or the rows of the manifest for a student that sees photos.
        confidence: Ragged "confidence" to write beside: for each mask cell the softmax of its class * 255, uint8.
        params: keys of the `rounds` section that prediction depends on: `refine`.
        manifest: where the photos are; only needed to refine.
        instances: what a student of instances predicted for this shard (`detect`); its masks are painted from them.
    """
    import torch

    torch.set_num_threads(1)  # each image on one thread, several images at once
    model = Student.load(student, device)
    _, provenance = read_tensors(student)
    ids, see, hashes = _predicted(model, instances, student) if instances else _views(model, view, student)
    dtype = mask_dtype(model.clusters)
    attrs = {"clusters": model.clusters, "ignore": ignore_value(dtype), "round": int(model.spec["round"])}
    section = {key: value for key, value in (params or {}).items() if key in Rounds.model_fields}
    settings = validate(Rounds, section, "--params", "rounds").refine
    photos = ManifestPhotos.needed(settings, manifest, "rounds", Path(out).stem)
    how = {"predict": model.spec["round"], "refine": settings.model_dump()}
    made = Provenance.of("rounds", how, [provenance["hash"], *hashes])

    def one(image_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        if photos:
            return model.refined_mask(see(image_id), photos.photo(image_id), settings)
        return model.sure_mask(see(image_id)) if confidence is not None else (model.mask(see(image_id)), None)

    with contextlib.ExitStack() as stack:
        masks = stack.enter_context(RaggedWriter(out, "masks", dtype=dtype.name, attrs=attrs, provenance=made))
        if confidence is not None:
            sure = stack.enter_context(RaggedWriter(confidence, "confidence", dtype="uint8", provenance=made))
        found = ordered(one, ids, 1 if model.device.type == "cuda" else threads)
        for image_id, (mask, best) in track(zip(ids, found, strict=True), len(ids), "predict"):
            masks.append(image_id, mask)
            if confidence is not None and best is not None:
                sure.append(image_id, best)


def detect(student: str | Path, rows: Sequence[Row], out: str | Path, threads: int = 1, device: str = "auto") -> None:
    """Instances of one shard by a trained student of instances; see `maskmill.images.instances` for the store.

    Args:
        rows: of the manifest.

    Raises:
        StoreError: the student predicts masks only.
    """
    import torch

    torch.set_num_threads(1)
    model = Student.load(student, device)
    if not model.objects:
        raise StoreError(f"{student}: predicts masks, no instances; use maskmill rounds predict")
    _, provenance = read_tensors(student)
    ids, see, hashes = _views(model, rows, student)
    made = Provenance.of("rounds", {"detect": model.spec["round"]}, [provenance["hash"], *hashes])
    attrs = {"clusters": model.clusters, "round": int(model.spec["round"])}
    with InstanceWriter(out, attrs, made) as writer:
        found = ordered(lambda i: model.instances(see(i)), ids, 1 if model.device.type == "cuda" else threads)
        for image_id, instances in track(zip(ids, found, strict=True), len(ids), "detect"):
            writer.append(image_id, instances)


def _predicted(
    model: Student, instances: str | Path, student: str | Path
) -> tuple[Sequence[str], Callable[[str], Any], Sequence[str]]:
    """As `_views`, of a student of instances that has seen the photos before."""
    if not model.objects:
        raise StoreError(f"{student}: predicts masks, no instances; leave out --instances")
    store = InstanceStore(instances)
    return store.ids, store.__getitem__, [store.hash]


def _views(
    model: Student, view: Views, student: str | Path
) -> tuple[Sequence[str], Callable[[str], Any], Sequence[str]]:
    """Ids of the shard, what the student sees of each, and the hashes of what that is read from."""
    if model.photos:
        if isinstance(view, Mapping):
            raise StoreError(f"{student}: sees photos; leave out --features")
        rows = {row.id: row for row in view}
        return list(rows), lambda image_id: read_photo(rows[image_id]), []
    if not isinstance(view, Mapping):
        raise StoreError(f"{student}: needs {', '.join(model.features)}; give --features")
    missing = [name for name in model.features if name not in view]
    if missing:
        raise StoreError(f"{student}: needs {', '.join(model.features)}; missing: {', '.join(missing)}")
    stores = {name: Ragged(path) for name, path in view.items()}

    def see(image_id: str) -> dict[str, np.ndarray]:
        return {name: stores[name][image_id] for name in model.features}

    return stores[model.features[0]].ids, see, [store.hash for store in stores.values()]


def _made_by(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Parameters of the feature set, from its first store."""
    return dict(Ragged(paths[0]).provenance.get("params", {})) if paths else {}


def _round_seed(seed: int, round: int) -> int:
    """One number for (seed, round): each round draws its own weights and order."""
    return int(rng(seed, "round", str(round)).integers(2**62))
