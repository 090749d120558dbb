"""Files of the stage rounds: train a student on the masks of the round before, predict the masks of this round."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from maskmill.device import pick
from maskmill.errors import NumericsError, StoreError
from maskmill.images.instances import Instances, InstanceStore, InstanceWriter
from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.images.nodata import ignored, valid_cells
from maskmill.images.photos import ManifestPhotos, read_filled
from maskmill.numerics.blocks import ordered
from maskmill.numerics.sampling import rng
from maskmill.progress import track
from maskmill.recipe.model import Stage
from maskmill.rounds import Examples, Method
from maskmill.rounds._logic import IMAGES, MATCH, START, History, StoredStudent, kept_ids, overlap, rename
from maskmill.rounds._training import Sources, StudentTraining
from maskmill.rounds.infer import FORMAT, Student, finest
from maskmill.store.artefact import write_json, write_tensors
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import Row
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.checkpoint import Keeper
from maskmill.training.resources import Resources
from maskmill.training.team import Team, join, leave

if TYPE_CHECKING:
    import torch

    from maskmill.rounds._masks import Masks

EXAMINED = 16  # images that a new student is examined on
MATCHED = 512  # images on which class ids are matched


@dataclass(frozen=True)
class Round:
    """Which student is trained.

    Attributes:
        number: of its round, from 1 on. seed: of the run. clusters: k; the student has k + 1 classes, 0 is background.
    """

    number: int
    seed: int
    clusters: int


@dataclass(frozen=True)
class StudentFiles:
    """What `train` writes.

    Attributes:
        student: safetensors: all that prediction needs, and the loss of every step; its metadata suffices to use it
            elsewhere.
        timing: JSON of seconds, images a second and the share of time waiting for data. It is a file of its own, so
            that the student is the same bytes on every machine.
    """

    student: str | Path
    timing: str | Path | None = None


@dataclass(frozen=True)
class MaskFiles:
    """What `predict` writes.

    Attributes:
        masks: Ragged "masks" with clusters from 1, background 0, and ignore only where there is no data.
        confidence: Ragged "confidence": for each mask cell the softmax of its class * 255, uint8.
    """

    masks: str | Path
    confidence: str | Path | None = None


@dataclass(frozen=True)
class Detected:
    """The instances of a shard that its student has predicted before (`detect`)."""

    instances: str | Path


Views = Mapping[str, str | Path] | Sequence[Row] | Detected


def train(
    sources: Sources,
    masks: Sequence[str | Path],
    section: Mapping[str, Any],
    out: StudentFiles,
    *,
    round: Round,
    history: History | None = None,
    resources: Resources | None = None,
) -> None:
    """Train the student of a round on the masks of the round before.

    Args:
        sources: what the student looks at. masks: mask stores of all shards, of the round before.
        section: the flat `rounds` section.
        history: what the options of round logic read of the rounds before.
        resources: without `checkpoint_steps` a checkpoint is written only when SIGTERM or SIGUSR1 comes.

    Raises:
        NumericsError: nothing but ignore or background in the masks or in what the student predicts, constant
            features, or a loss that is not finite.
        StoreError: an image of the masks is missing in a feature set.
        StoppedError: a signal came; the checkpoint is written, and the same call goes on from it.
    """
    import torch

    from maskmill.rounds._masks import Masks, changed_share

    torch.set_num_threads(1)  # parallel work is split by hand, so that no sum depends on the number of threads
    history, resources, stage = history or History(), resources or Resources(), Stage.of("rounds", section)
    logic = stage.settings
    sources = replace(sources, features={name: sources.features[name] for name in sorted(sources.features)})
    spec = _spec(section, round, sources)
    previous = StoredStudent.read(history.student)
    hashes = _hashes(sources, masks, history, previous)
    team, device = join(resources.device)
    if logic.stop > 0 and history.earlier and previous is not None:
        changed = changed_share(history.earlier, masks)
        if changed < logic.stop:
            if team.leads:
                _hand_on(previous, changed, round.number, hashes, out)
            return
    place = pick(device)
    keeper = Keeper.beside(out.student, _training_key(spec, hashes, place, team), resources.checkpoint_steps or 0)
    taught = Masks(
        masks, round.clusters + 1, round=round.number, chosen=IMAGES[logic.images](logic, round.number, history),
        sure=history.confidence, confidence=logic.confidence, held=history.held,
    )  # fmt: skip
    training = StudentTraining(
        round.clusters + 1, _round_seed(round.seed, round.number), place, resources.threads, keeper,
        START[logic.start](previous), team,
    )  # fmt: skip
    if taught.things is not None:
        spec["things"] = taught.things
    tensors, timing = _trained(stage, sources, taught, spec, training)
    leave(team)
    if team.leads:
        made = Provenance.of("rounds", spec, hashes)
        if out.timing is not None:
            how = {"device": place.type, "threads": resources.threads, "processes": team.size}
            write_json(out.timing, timing | how, made)
        write_tensors(out.student, tensors, made)
        keeper.clear()


def _spec(section: Mapping[str, Any], round: Round, sources: Sources) -> dict[str, Any]:
    """The metadata of a student's file, but for its diagnostics."""
    return {
        "format": FORMAT,
        "rounds": dict(section),
        "round": round.number,
        "seed": round.seed,
        "clusters": round.clusters,
        "features": {name: _made_by(paths) for name, paths in sources.features.items()},
    }


def _trained(
    stage: Stage[Any], sources: Sources, taught: Masks, spec: dict[str, Any], training: StudentTraining
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All tensors of a new student's file, and its timing; puts the diagnostics into `spec`."""
    method: Method = stage.module
    examples = method.data(sources, taught, stage.params, training)
    tensors, diagnostics = method.fit(examples, stage.params, training)
    tensors["loss"] = np.array(diagnostics.pop("loss"), np.float32)
    tensors["cells"] = taught.counts
    timing = diagnostics.pop("timing")
    spec["diagnostics"] = diagnostics
    student = Student(tensors, spec, training.device)
    _check_predictions(student, examples, taught)
    match = MATCH[stage.settings.match]
    if match is not kept_ids:
        tensors = rename(tensors, method.CLASSIFIER, match(_overlap(student, examples, taught, training.seed)))
    return tensors, timing


def _check_predictions(student: Student, examples: Examples, taught: Masks) -> None:
    """Raises NumericsError where a new student finds nothing but background on the images that hold most objects."""
    best = sorted(taught.ids, key=lambda image_id: (-taught.objects[image_id], image_id))[:EXAMINED]
    if not any(student.mask(examples.view(image_id)).any() for image_id in best):
        round = int(student.spec["round"])
        raise NumericsError(
            f"rounds: the student of round {round} predicts nothing but background, even where its masks hold most "
            f"objects; round {round - 1} is kept: set rounds.count={round - 1} to end there, or change the training"
        )


def _overlap(student: Student, examples: Examples, taught: Masks, seed: int) -> np.ndarray:
    """Cells [k + 1, k + 1] of (predicted, taught) classes on some images, drawn by the seed."""
    order = rng(seed, "match").permutation(len(taught.ids))[:MATCHED]
    ids = [taught.ids[i] for i in sorted(order)]
    pairs = ((student.mask(examples.view(image_id)), taught[image_id]) for image_id in ids)
    return overlap(pairs, taught.classes)


def _hashes(
    sources: Sources, masks: Sequence[str | Path], history: History, previous: StoredStudent | None
) -> list[str]:
    """Hashes of all that a training reads. Photos are known by the manifest, weights by their file."""
    held = [history.held] if history.held is not None else []
    stores = [*sources.features.values(), masks, history.confidence, history.earlier, sources.instances, held]
    hashes = [Ragged(path).hash for paths in stores for path in paths]
    if previous is not None:
        hashes.append(previous.provenance["hash"])
    files = [path for path in (*history.assignments, sources.manifest, sources.weights) if path is not None]
    return hashes + [_digest(path) for path in files]


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:16]


def _hand_on(previous: StoredStudent, changed: float, round: int, hashes: list[str], out: StudentFiles) -> None:
    """Write the student of the round before as that of this round."""
    spec = dict(previous.provenance["params"])
    first = spec.get("handed_on", spec["round"])
    said = (
        f"{100 * changed:.2f} % of the cells changed in round {round - 1}; round {round} keeps the student of {first}"
    )
    print(f"rounds: {said}", file=sys.stderr, flush=True)
    made = Provenance.of("rounds", spec | {"round": round, "handed_on": first}, hashes)
    if out.timing is not None:
        write_json(out.timing, {"seconds": 0.0, "handed_on": first, "changed": changed}, made)
    write_tensors(out.student, previous.tensors, made)


def _training_key(spec: Mapping[str, Any], hashes: Sequence[str], place: torch.device, team: Team) -> str:
    """What a training's numbers depend on: parameters, inputs, code, and what computes them."""
    import torch

    return json_hash([Provenance.of("rounds", spec, hashes).hash, place.type, team.size, torch.__version__])


def predict(
    student: str | Path,
    view: Views,
    out: MaskFiles,
    section: Mapping[str, Any] | None = None,
    *,
    manifest: str | Path | None = None,
    resources: Resources | None = None,
) -> None:
    """Masks of one shard by a trained student.

    Args:
        view: the shard's feature stores {name: path}; the rows of the manifest for a student that sees photos; or, for
            a student of instances, those that it has detected, from which its masks are painted.
        section: keys of the `rounds` section that prediction depends on: `refine`.
        manifest: where the photos are; only needed to refine.
    """
    import torch

    torch.set_num_threads(1)  # each image on one thread, several images at once
    resources, settings = resources or Resources(), Stage.of("rounds", section or {}).settings.refine
    model = Student.load(student, resources.device)
    ids, see, hashes = _views(model, view, student)
    dtype = mask_dtype(model.clusters)
    attrs = {"clusters": model.clusters, "ignore": ignore_value(dtype), "round": int(model.spec["round"])}
    attrs |= {} if model.things is None else {"things": model.things}
    photos = ManifestPhotos.needed(settings, manifest, "rounds", Path(out.masks).stem)
    how = {"predict": model.spec["round"], "refine": settings.model_dump()}
    made = Provenance.of("rounds", how, [model.hash, *hashes])

    def one(image_id: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        seen, sure = see(image_id), None
        if photos:
            mask, sure = model.refined_mask(seen.view, photos.photo(image_id), settings, seen.valid)
        elif out.confidence is not None:
            mask, sure = model.sure_mask(seen.view)
        else:
            mask = model.mask(seen.view)
        valid = valid_cells(seen.valid, (mask.shape[0], mask.shape[1]))
        return ignored(mask, valid), sure, valid

    with contextlib.ExitStack() as stack:
        masks = stack.enter_context(RaggedWriter(out.masks, "masks", dtype=dtype.name, attrs=attrs, provenance=made))
        if out.confidence is not None:
            sure = stack.enter_context(RaggedWriter(out.confidence, "confidence", dtype="uint8", provenance=made))
        found = ordered(one, ids, _workers(model, resources))
        for image_id, (mask, best, valid) in track(zip(ids, found, strict=True), len(ids), "predict"):
            masks.append(image_id, mask, valid=valid)
            if out.confidence is not None and best is not None:
                sure.append(image_id, best)


def detect(student: str | Path, rows: Sequence[Row], out: str | Path, resources: Resources | None = None) -> None:
    """Instances of one shard by a trained student of instances; see `maskmill.images.instances` for the store.

    Args:
        rows: of the manifest.

    Raises:
        StoreError: the student predicts masks only.
    """
    import torch

    torch.set_num_threads(1)
    resources = resources or Resources()
    model = Student.load(student, resources.device)
    if not model.objects:
        raise StoreError(f"{student}: predicts masks, no instances; use maskmill rounds predict")
    ids, see, hashes = _views(model, rows, student)
    made = Provenance.of("rounds", {"detect": model.spec["round"]}, [model.hash, *hashes])
    attrs = {"clusters": model.clusters, "round": int(model.spec["round"])}
    with InstanceWriter(out, attrs, made) as writer:
        found = ordered(lambda image_id: _detected(model, see(image_id)), ids, _workers(model, resources))
        for image_id, instances in track(zip(ids, found, strict=True), len(ids), "detect"):
            writer.append(image_id, instances)


def _detected(model: Student, seen: Seen) -> Instances:
    """What a student finds where a photo shows data; the rest of it is void."""
    found = model.instances(seen.view)
    valid = valid_cells(seen.valid, found.size)
    return found if valid is None else found.within(valid)


def _workers(model: Student, resources: Resources) -> int:
    """Images that are computed at once."""
    return 1 if model.device.type == "cuda" else resources.threads


class Seen(NamedTuple):
    """What a student sees of an image, and bool [h, w], on any grid: where it shows data; None where it all does."""

    view: Any
    valid: np.ndarray | None = None

    @classmethod
    def of(cls, row: Row) -> Seen:
        """A photo of the manifest."""
        shown = read_filled(row)
        return cls(shown.pixels, shown.valid)


def _views(
    model: Student, view: Views, student: str | Path
) -> tuple[Sequence[str], Callable[[str], Seen], Sequence[str]]:
    """Ids of the shard, what the student sees of each, and the hashes of what that is read from."""
    if isinstance(view, Detected):
        if not model.objects:
            raise StoreError(f"{student}: predicts masks, no instances; leave out --instances")
        store = InstanceStore(view.instances)
        return store.ids, lambda image_id: Seen(*store[image_id].apart()), [store.hash]
    if model.photos:
        if isinstance(view, Mapping):
            raise StoreError(f"{student}: sees photos; leave out --features")
        rows = {row.id: row for row in view}
        return list(rows), lambda image_id: Seen.of(rows[image_id]), []
    if not isinstance(view, Mapping):
        raise StoreError(f"{student}: needs {', '.join(model.features)}; give --features")
    missing = [name for name in model.features if name not in view]
    if missing:
        raise StoreError(f"{student}: needs {', '.join(model.features)}; missing: {', '.join(missing)}")
    stores = {name: Ragged(path) for name, path in view.items()}

    def see(image_id: str) -> Seen:
        tokens = {name: stores[name][image_id] for name in model.features}
        parts = {name: stores[name].valid(image_id) for name in model.features}
        some = [valid_cells(part, finest(tokens)) for part in parts.values() if part is not None]
        known = [part for part in some if part is not None]
        return Seen(tokens, np.logical_and.reduce(known) if known else None)

    return stores[model.features[0]].ids, see, [store.hash for store in stores.values()]


def _made_by(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Parameters of the feature set, from its first store."""
    return dict(Ragged(paths[0]).provenance.get("params", {})) if paths else {}


def _round_seed(seed: int, round: int) -> int:
    """One number for (seed, round): each round draws its own weights and order."""
    return int(rng(seed, "round", str(round)).integers(2**62))
