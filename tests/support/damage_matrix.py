"""What happens to damaged artefacts: every kind of artefact against every kind of damage, in seeded random trials.

    python tests/support/damage_matrix.py [--trials 20] [--seed 0]

prints the table of docs/security.md. All artefacts are made by the project's own writers on small drawn data, in two
runs that differ in what was asked of their jobs. A trial damages one artefact of the first run and reads it as the next
job would. There are three right outcomes: a UserError that names the artefact ("refused"), a reader that gives exactly
what it gave before ("no effect"), and one that starts anew and says so ("made again"). Anything else is a fault, and
the exit status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).parent))

import token_scenes
import token_students
from input_files import label, picture
from square_photos import ENCODER, write_weights

from maskmill.adapt import _neighbours
from maskmill.adapt import run as adapt
from maskmill.adapt.infer import Head
from maskmill.backbones import weights_file
from maskmill.backbones.network import load as load_backbone
from maskmill.errors import UserError
from maskmill.evaluate.labelled import read_label
from maskmill.export._parts import Part, PartWriter
from maskmill.export.formats import Entry
from maskmill.export.segmenter import SegmenterParts
from maskmill.images.instances import Instances, InstanceStore, InstanceWriter
from maskmill.images.photos import read_photo
from maskmill.inputs import run as inputs
from maskmill.numerics import product
from maskmill.paint.run import read_limits
from maskmill.predict.segmenter import load as load_segmenter
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.reduce import run as reduce
from maskmill.report.run import _rejected
from maskmill.rounds.infer import Student
from maskmill.store import class_names, classes, expected
from maskmill.store import codebook as books
from maskmill.store import product as codecs
from maskmill.store import ragged as layout
from maskmill.store.artefact import read_json, read_table, read_tensors, write_json, write_table, write_tensors
from maskmill.store.manifest import REJECTED_CRC32C, read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.checkpoint import Checkpoint, Keeper
from maskmill.training.resources import Resources

DAMAGE = ("truncated", "data flipped", "metadata flipped", "deleted", "foreign")
RIGHT = ("refused", "no effect", "made again")
SET = FeatureSet(backbone=ENCODER, size=Size(square=64))
PART = ("coco", "png")  # names of formats
Place = tuple[Path, int, int]  # a file, and the bytes start..stop of it


@dataclass(frozen=True)
class Kind:
    """One kind of artefact.

    Attributes:
        name: row of the table. path: file or folder in a run. read: what the next job gets from it, in a run.
        only: of a folder, the files below this one count as the artefact. data, metadata: which bytes are which.
        again: its reader makes it again instead of refusing it; then it must say so by returning None.
        expected: whether the workflow tells its reader what it asks for; what a manifest or a segmenter's features.json
            binds is known without, and what the planner reads is not a job's. theirs: its path in the other run.
    """

    name: str
    path: str
    read: Callable[[Path], Any]
    only: str = ""
    parts: Callable[[Path], tuple[list[Place], list[Place]]] = field(default=lambda file: whole(file))
    again: bool = False
    expected: bool = True
    theirs: str = ""

    def files(self, run: Path) -> list[Path]:
        """The files of the artefact in a run."""
        path = run / self.path / self.only
        return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


# --- which bytes are data, and which say what the data are -----------------------------------------------------------


def whole(file: Path) -> tuple[list[Place], list[Place]]:
    """All bytes are data; but of a Zarr folder `zarr.json` is metadata."""
    place = [(file, 0, file.stat().st_size)]
    return ([], place) if file.name == "zarr.json" else (place, [])


def _of_tensors(file: Path) -> tuple[list[Place], list[Place]]:
    start = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    return [(file, start, file.stat().st_size)], [(file, 0, start)]


def _of_table(file: Path) -> tuple[list[Place], list[Place]]:
    metadata = pq.read_metadata(file)
    group = metadata.row_group(metadata.num_row_groups - 1)
    last = group.column(group.num_columns - 1)
    starts = [last.data_page_offset] + ([last.dictionary_page_offset] if last.has_dictionary_page else [])
    end = min(starts) + last.total_compressed_size
    return [(file, 4, end)], [(file, 0, 4), (file, end, file.stat().st_size)]


def _of_json(file: Path) -> tuple[list[Place], list[Place]]:
    cut = file.read_bytes().index(b'"provenance"')
    return [(file, 0, cut)], [(file, cut, file.stat().st_size)]


def _of_png(file: Path) -> tuple[list[Place], list[Place]]:
    return [(file, 33, file.stat().st_size)], [(file, 0, 33)]  # signature and header


# --- the artefacts ---------------------------------------------------------------------------------------------------


def make_run(run: Path, seed: int) -> None:
    """Every artefact, with contents of the seed, in this folder."""
    run.mkdir()
    before = layout.CHUNK_BYTES, layout.SHARD_BYTES
    layout.CHUNK_BYTES, layout.SHARD_BYTES = 1024, 4096  # several files of several chunks
    try:
        with commissioned(f"run {seed}"):
            _stores(run, seed)
            _codes(run, seed)
            _inputs(run, seed)
            _tables(run, seed)
            _models(run, seed)
            _texts(run, seed)
            _taxonomy(run, seed)
            _part(run, seed)
            _segmenter(run)
    finally:
        layout.CHUNK_BYTES, layout.SHARD_BYTES = before


@contextmanager
def commissioned(asked: str, reads: Mapping[str, str] | None = None) -> Iterator[None]:
    """In the block this process is a job of which this was asked, and which expects this of what it reads."""
    with expected.commissioned(expected.render(expected.Expected(asked, dict(reads or {}), ()))):
        yield


def _stores(run: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = token_scenes.scenes(8, seed=seed)
    token_scenes.write(run / "features", images)
    made = Provenance.of("cut", {"seed": seed})
    with (
        RaggedWriter(run / "int8.zarr", "features", depth=16, dtype="int8", provenance=made) as small,
        RaggedWriter(run / "cut.zarr", "segments", dtype="uint8", provenance=made) as cut,
        RaggedWriter(run / "masks.zarr", "masks", dtype="uint8", provenance=made, attrs={"clusters": 3}) as masks,
        RaggedWriter(run / "vectors.zarr", "vectors", depth=16, dtype="float32", provenance=made) as vectors,
        InstanceWriter(run / "instances.zarr", {"clusters": 3}, made) as instances,
    ):
        for image_id, tokens in images.items():
            h, w = tokens.shape[:2]
            small.append(image_id, tokens, cls=rng.standard_normal(16).astype(np.float32))
            cut.append(image_id, rng.integers(0, 4, (h, w)), confidence=np.float32(rng.random()))
            masks.append(image_id, rng.integers(0, 4, (h, w)))
            vectors.append(image_id, tokens[:3, :1])
            found = rng.random((2, h, w)) < 0.5
            instances.append(image_id, Instances(found, rng.integers(1, 3, 2), rng.random(2).astype(np.float32)))


def _codes(run: Path, seed: int) -> None:
    """A store of codes, and the codec that they were made with."""
    images = token_scenes.scenes(8, seed=seed)
    codec, facts = product.fit(np.concatenate([x.reshape(-1, 16) for x in images.values()]), 4, True, seed)
    made = Provenance.of("features", {"seed": seed})
    codecs.write(run / "pq.safetensors", codec, {name: np.array(value) for name, value in facts.items()}, made)
    encoder, rng = product.Encoder(codec), np.random.default_rng(seed)
    with RaggedWriter(run / "pq.zarr", "features", depth=16, dtype=codec, provenance=made) as out:
        for image_id, tokens in images.items():
            codes = encoder.codes(torch.from_numpy(tokens.astype(np.float32))).numpy()
            out.append(image_id, codes, cls=rng.standard_normal(16).astype(np.float32))


def _inputs(run: Path, seed: int) -> None:
    for i in range(3):
        picture(run / f"images/{i}.png", 10 * seed + i, (24, 24))
        label(run / f"labels/{i}.png", (24, 24))
    (run / "labels/0.png").write_bytes((run / "labels/0.png").read_bytes() + bytes([seed]))  # decodes to the same
    (run / "images/broken.png").write_text("no image" * (1 + seed))
    out = inputs.Outputs(*(run / name for name in ("manifest.parquet", "rejected.csv", "classes.json")))
    inputs.run(str(run / "images"), str(run / "labels"), {"max_rejected": 0.5}, out, 1, run / "frames")


def _tables(run: Path, seed: int) -> None:
    rng, made = np.random.default_rng(seed), Provenance.of("regions", {"seed": seed})
    ids = [f"im{i:02d}" for i in range(8)]
    body = {"image": ids, "region": np.arange(8, dtype=np.int32), "score": rng.random(8), "area": rng.integers(1, 9, 8)}
    write_table(run / "regions.parquet", pa.table(body), made)
    body = {"image": ids, "region": np.arange(8, dtype=np.int32), "cluster": rng.integers(0, 3, 8)}
    write_table(run / "assignments.parquet", pa.table(body | {"distance": rng.random(8)}), made)
    _neighbours.run([run / "features/s0.zarr"], "none", 3, run / "neighbours.parquet", 1, seed)


def _models(run: Path, seed: int) -> None:
    rng, features = np.random.default_rng(seed), [run / "features/s0.zarr"]
    made = Provenance.of("cluster", {"seed": seed})
    counts = rng.integers(1, 99, 5)
    book = books.Codebook(rng.standard_normal((5, 16)).astype(np.float32), np.sort(counts)[::-1], 2.5, True)
    books.write(run / "codebook.safetensors", book, made)
    write_tensors(run / "limits.safetensors", {"limits": rng.random(5)}, Provenance.of("paint", {"seed": seed}))
    reduce.fit(features, {"method": "pca", "dimensions": 4, "max_fit_points": None}, seed, run / "pca.safetensors", 1)
    section = {"method": "picie", **token_scenes.FAST["picie"], "steps": 4, "epoch_steps": 2}
    files = adapt.HeadFiles(run / "head.safetensors", run / "monitor.json")
    adapt.fit(features, section, files, seed=seed, clusters=3, resources=Resources(1, "cpu"))
    world = token_students.write_world(run / "students", [token_students.IDS[:4]])
    token_students.fit(world, run / "student.safetensors", seed=seed, steps=4)
    Keeper(run / f"checkpoint/key{seed}.safetensors").save(
        Checkpoint(7, {"x": rng.standard_normal(64)}, {"seed": seed})
    )
    (run / "weights").mkdir()
    write_weights(run / f"weights/{SET.weights_slug}.safetensors")
    if seed:  # other numbers
        state, facts = weights_file.read(run / f"weights/{SET.weights_slug}.safetensors")
        state = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
        weights_file.write(run / f"weights/{SET.weights_slug}.safetensors", state, facts)


def _texts(run: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = [{"name": name, "miou": float(rng.random()), "nan": float("nan")} for name in ("hungarian", "linear")]
    write_json(run / "scores.json", {"recipe": "kmeans", "scores": scores}, Provenance.of("evaluate", {"seed": seed}))
    body = {"candidates": rng.random(5).tolist(), "chosen": seed}
    write_json(run / "selection.json", body, Provenance.of("cluster", {"seed": seed}))


def _taxonomy(run: Path, seed: int) -> None:
    rng, made = np.random.default_rng(seed), Provenance.of("taxonomy", {"seed": seed})
    rules = {"weights": rng.standard_normal((3, 16)).astype(np.float32), "bias": rng.random(3).astype(np.float32)}
    found = classes.Classes(3, np.arange(1, 4, dtype=np.int32), "linear", rules, label_ids=(4, 7, 9))
    classes.write(run / "classes.safetensors", found, made)
    named = [{"id": i, "name": f"thing {seed}{i}", "colour": "#804080", "clusters": [str(i)]} for i in range(1, 4)]
    write_json(run / "named.json", {"classes": named, "examples": ["im00"]}, made)


def _part(run: Path, seed: int) -> None:
    """What a job of one shard leaves for the job that joins the export."""
    rng, (row, *_) = np.random.default_rng(seed), read_manifest(run / "manifest.parquet").rows
    arrays = {"pixels": rng.integers(0, 99, 8)}
    table: Any = SimpleNamespace(parts=lambda: ({"total": int(arrays["pixels"].sum())}, arrays))
    (run / "part").mkdir()
    with PartWriter(run / "part", PART, "none") as part:
        for i in range(6):
            body = rng.bytes(200)
            part.add(row, {name: Entry(f"{name} {seed}{i}\n", body) for name in PART})
        part.finish(table, {"hashes": [str(seed)]}, Provenance.of("export", {"seed": seed}))


def _segmenter(run: Path) -> None:
    """Clusters of tokens with the backbone that sees new images."""
    weights = run / f"weights/{SET.weights_slug}.safetensors"
    depth = load_backbone(weights, SET, torch.device("cpu")).depth
    centroids = np.random.default_rng(int(run.name[-1])).standard_normal((3, depth)).astype(np.float32)
    book = books.Codebook(centroids, np.array([3, 2, 1]), 0.5, True)
    books.write(run / "tokens.safetensors", book, Provenance.of("cluster", {}))
    parts = SegmenterParts({"codebook": run / "tokens.safetensors"}, {"semantic": SET.model_dump()}, weights.parent)
    about = {"recipe": "kmeans", "clusters": 3, "seed": 0}
    parts.write(run / "segmenter", about, Provenance.of("export", about))


# --- how they are read -----------------------------------------------------------------------------------------------


def _store(name: str, kind: str) -> Callable[[Path], Any]:
    def read(run: Path) -> Any:
        codecs._known.clear()  # what this process has read: a job starts with none
        if kind == "instances":
            packed = InstanceStore(run / name)
            return [packed.attrs, packed.hash, dict(packed.images())]
        store = Ragged(run / name, kind)
        fields = {name: store.per_image(name) for name in store.per_image_names}
        return [store.ids, store.attrs, store.provenance, store.grid, store.offsets, fields, dict(store.images())]

    return read


def _table(name: str, *columns: str) -> Callable[[Path], Any]:
    return lambda run: read_table(run / name, columns or None).to_pydict()


def _checkpoint(run: Path) -> Any:
    return Keeper(run / "checkpoint/key0.safetensors").load()


def _model(name: str, reader: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """Whatever its reader makes of a file, and the numbers in it."""

    def read(run: Path) -> Any:
        reader(run / name)
        return read_tensors(run / name)

    return read


def _weights(run: Path) -> Any:
    file = run / f"weights/{SET.weights_slug}.safetensors"
    load_backbone(file, SET, torch.device("cpu"))
    return weights_file.read(file)


def _predicted(run: Path) -> Any:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    return load_segmenter(run / "segmenter", "cpu").mask(image)


def _joined(run: Path) -> Any:
    part = Part(run / "part", PART, "none")
    entries = [(each.text, Path(each.body).read_bytes()) for found in part for each in found.values()]
    return [part.body, part.arrays, entries]


def _photo(run: Path) -> Any:
    return read_photo(read_manifest(run / "manifest.parquet").row("1"))


def _label(run: Path) -> Any:
    return read_label(read_manifest(run / "manifest.parquet").row("0"))


def _list_of_rejected(run: Path) -> Any:
    metadata = read_table(run / "manifest.parquet", ["id"]).schema.metadata
    return _rejected(run / "rejected.csv", int(metadata[REJECTED_CRC32C]))


def _arrays(title: str, name: str, kind: str, arrays: Sequence[str]) -> list[Kind]:
    read = _store(name, kind)
    rows = [Kind(f"{title}: `{array}`", name, read, array) for array in arrays]
    return [*rows, Kind(f"{title}: attributes", name, read, "zarr.json")]


def _tensors(title: str, name: str, reader: Callable[[Path], Any]) -> Kind:
    return Kind(title, name, _model(name, reader), parts=_of_tensors)


def _json(title: str, name: str, expected: bool = True) -> Kind:
    return Kind(title, name, lambda run: read_json(run / name), parts=_of_json, expected=expected)


WEIGHTS = f"weights/{SET.weights_slug}.safetensors"
KINDS = [
    *_arrays("features, float16", "features/s0.zarr", "features", ("values", "offsets", "grid")),
    *_arrays("features, int8", "int8.zarr", "features", ("values", "scale", "offsets", "grid", "cls")),
    *_arrays("segments", "cut.zarr", "segments", ("values", "confidence", "offsets", "grid")),
    *_arrays("masks", "masks.zarr", "masks", ("values", "offsets", "grid")),
    *_arrays("region vectors", "vectors.zarr", "vectors", ("values", "offsets", "grid")),
    *_arrays("instances", "instances.zarr", "instances", ("values", "size", "offsets", "grid")),
    Kind("manifest", "manifest.parquet", lambda run: read_manifest(run / "manifest.parquet").rows, parts=_of_table),
    Kind("region table", "regions.parquet", _table("regions.parquet"), parts=_of_table),
    Kind(
        "assignments",
        "assignments.parquet",
        _table("assignments.parquet", "image", "cluster", "distance"),
        parts=_of_table,
    ),
    Kind("neighbours", "neighbours.parquet", _table("neighbours.parquet"), parts=_of_table),
    _tensors("codebook", "codebook.safetensors", books.read),
    _tensors("limits of clusters", "limits.safetensors", lambda file: read_limits(file, 5)),
    _tensors("reduction", "pca.safetensors", reduce.Reduction),
    _tensors("head", "head.safetensors", lambda file: Head.load(file, "cpu")),
    _tensors("student", "student.safetensors", Student.load),
    Kind(
        "checkpoint of a training",
        "checkpoint/key0.safetensors",
        _checkpoint,
        parts=_of_tensors,
        again=True,
        expected=False,
        theirs="checkpoint/key1.safetensors",
    ),
    Kind("weights", WEIGHTS, _weights, parts=_of_tensors),
    _json("scores", "scores.json"),
    _json("choice of clusters", "selection.json"),
    _json("monitor of a head", "monitor.json"),
    _json("label counts", "classes.json", expected=False),
    Kind("list of rejected files", "rejected.csv", _list_of_rejected, expected=False),
    Kind("photo", "images/1.png", _photo, parts=_of_png, expected=False),
    Kind("label", "labels/0.png", _label, parts=_of_png, expected=False),
    Kind("segmenter: codebook", "segmenter/codebook.safetensors", _predicted, parts=_of_tensors, expected=False),
    Kind("segmenter: weights", f"segmenter/{WEIGHTS}", _predicted, parts=_of_tensors, expected=False),
    Kind("segmenter: features.json", "segmenter/features.json", _predicted, parts=_of_json, expected=False),
    *_arrays("features, pq", "pq.zarr", "features", ("values", "rotation", "centroids", "offsets", "grid", "cls")),
    _tensors("codec of features, pq", "pq.safetensors", codecs.read),
    _tensors("classes", "classes.safetensors", classes.read),
    Kind("names of classes", "named.json", lambda run: class_names.read(run / "named.json"), parts=_of_json),
    Kind("shard of an export: masks", "part", _joined, "files"),
    Kind("shard of an export: entries", "part", _joined, "entries"),
    Kind("shard of an export: counts", "part", _joined, "counts.safetensors", parts=_of_tensors),
    Kind("shard of an export: `part.json`", "part", _joined, "part.json", parts=_of_json),
]


# --- trials ----------------------------------------------------------------------------------------------------------


def damage(kind: Kind, how: str, run: Path, other: Path, rng: np.random.Generator) -> bool:
    """Damage an artefact; False where it has no such bytes, or none that differ."""
    files = kind.files(run)
    if how == "foreign":
        return _foreign(kind, run, other, rng)
    if how == "deleted":
        targets = [*files, run / kind.path / kind.only]
        target = targets[rng.integers(len(targets))]
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        return True
    if how == "truncated":
        file = files[rng.integers(len(files))]
        body = file.read_bytes()
        file.write_bytes(body[: rng.integers(len(body))])
        return True
    places = [place for file in files for place in kind.parts(file)[how == "metadata flipped"]]
    sizes = np.array([stop - start for _, start, stop in places])
    if not sizes.sum():
        return False
    i = int(rng.choice(len(places), p=sizes / sizes.sum()))
    file, start, stop = places[i]
    body = bytearray(file.read_bytes())
    body[rng.integers(start, stop)] ^= 1 << rng.integers(8)
    file.write_bytes(body)
    return True


def _foreign(kind: Kind, run: Path, other: Path, rng: np.random.Generator) -> bool:
    """Put what another run has in this place: one file of it or all."""
    root = run / kind.path
    if kind.theirs:
        shutil.copyfile(other / kind.theirs, root)
        return True
    if kind.name == "label counts":  # only the planner reads it, and only whether there are labels
        return False
    files = [f for f in kind.files(run) if (other / f.relative_to(run)).is_file()]
    files = [f for f in files if f.read_bytes() != (other / f.relative_to(run)).read_bytes()]
    if root.is_dir() and (rng.integers(2) or not files):
        shutil.rmtree(root)
        shutil.copytree(other / kind.path, root)
        return True
    if not files:
        return False
    file = files[rng.integers(len(files))]
    shutil.copyfile(other / file.relative_to(run), file)
    return True


def trial(kind: Kind, how: str, runs: tuple[Path, Path], sound: str, rng: np.random.Generator) -> str | None:
    """The outcome of one trial; None where there is nothing to damage in this way."""
    run, other = runs
    root, kept = run / kind.path, run.with_name("kept")
    (shutil.copytree if root.is_dir() else shutil.copyfile)(root, kept)
    try:
        if not damage(kind, how, run, other, rng):
            return None
        return outcome(kind, run, sound)
    finally:
        for path in (root,):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.move(kept, root)


def outcome(kind: Kind, run: Path, sound: str) -> str:
    """What a job gets that reads the artefact now."""
    try:
        found = reading(kind, run)
    except UserError as error:
        named = str(run / kind.path) in str(error) or Path(kind.path).name in str(error)
        if "\n" in str(error):
            return f"FAULT: several lines: {error!r}"
        return "refused" if named else f"FAULT: not named: {error}"
    except Exception as error:
        return f"FAULT: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if found is None and kind.again:
        return "made again"
    return "no effect" if canonical(found) == sound else "FAULT: another value, and no word"


def reading(kind: Kind, run: Path) -> Any:
    """What the next job gets, which expects that the artefact is of this run."""
    with commissioned("reader", {str(run / kind.path): f"run {run.name[-1]}"} if kind.expected else {}):
        return kind.read(run)


def canonical(value: Any) -> str:
    """Text that is equal where values are, to the last bit."""
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{zlib.crc32(np.ascontiguousarray(value).tobytes())}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key!r}:{canonical(value[key])}" for key in sorted(value, key=repr)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, value)) + "]"
    return repr(value)


Outcomes = dict[tuple[str, str], Counter[str]]


def matrix(folder: Path, trials: int, seed: int) -> Outcomes:
    """{(kind, damage): outcomes and how often} of so many trials a cell."""
    runs = folder / "run0", folder / "run1"
    for number, run in enumerate(runs):
        make_run(run, number)
    found: Outcomes = {}
    for row, kind in enumerate(KINDS):
        sound = canonical(reading(kind, runs[0]))
        for column, how in enumerate(DAMAGE):
            rng = np.random.default_rng([seed, row, column])
            results = [trial(kind, how, runs, sound, rng) for _ in range(trials)]
            found[kind.name, how] = Counter(result for result in results if result is not None)
        assert canonical(reading(kind, runs[0])) == sound, f"{kind.name} was not put back"
    return found


def faults(found: Outcomes) -> list[str]:
    """What went wrong, a line a kind of fault."""
    return [
        f"{kind}, {how}: {count} x {result}"
        for (kind, how), counts in found.items()
        for result, count in counts.items()
        if result not in RIGHT
    ]


def markdown(found: Outcomes) -> str:
    """The table: how many were refused, had no effect (n), or are made again (a)."""
    lines = ["| artefact | " + " | ".join(DAMAGE) + " |", "|---" * (1 + len(DAMAGE)) + "|"]
    for kind in dict.fromkeys(name for name, _ in found):
        cells = [_cell(found[kind, how]) for how in DAMAGE]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(counts: Counter[str]) -> str:
    if not counts:
        return "-"
    bad = sum(count for result, count in counts.items() if result not in RIGHT)
    parts = [str(counts["refused"])] if counts["refused"] else []
    parts += [f"{counts['no effect']} n"] if counts["no effect"] else []
    parts += [f"{counts['made again']} a"] if counts["made again"] else []
    return ", ".join([*parts, *([f"**{bad} faults**"] if bad else [])])


def main() -> int:
    """Print the table and the faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = matrix(Path(folder), asked.trials, asked.seed)
    total: Counter[str] = sum(found.values(), Counter())
    print(markdown(found))
    print(f"\n{sum(total.values())} trials, seed {asked.seed}, {time.perf_counter() - start:.0f} s:", end=" ")
    print(", ".join(f"{total[name]} {name}" for name in RIGHT), end=", ")
    wrong = faults(found)
    print(f"{sum(count for name, count in total.items() if name not in RIGHT)} faults")
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
