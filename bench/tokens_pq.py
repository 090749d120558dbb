"""What do product-quantised tokens cost and save? Prints the tables of docs/benchmarks.md and docs/scaling.md.

    python bench/tokens_pq.py quality --cache FOLDER [--data DATA] [--sets camvid ...] [--limit 120] [--seeds 5]
    python bench/tokens_pq.py speed   --cache FOLDER
    python bench/tokens_pq.py faiss   --cache FOLDER [--points 16384] [--bytes 32]      (needs the extra `bench`)

Photos squeezed to 448 x 448. `quality` compares what recipes make of tokens that a store gives back, for float16, int8
and codes of 16, 32 and 64 bytes: k-means of tokens (keys of the embedded ViT-S/14, and EfficientNet-Lite0 as in the
recipe kmeans), and the objects of the cuts ncut and lost on keys. Codecs are fitted on every second image, and all
figures are those of the other images, which no codec has seen. Of k-means there are two figures, means over the seeds:
of clusters fitted on what the store gives back, and of those of the float16 tokens, which leaves out that another fit
ends elsewhere. The setting was chosen on camvid; the other sets were looked at afterwards.

`speed` times coding and decoding against reading float16 from a store, and a step of k-means on codes against decoding
and a step on vectors. `faiss` fits faiss' OPQ (its OPQMatrix and ProductQuantizer, as they are set) and our codec on
the same tokens, keys of ViT-S/14; about two minutes of a core.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _photos import data_folder
from PIL import Image

from maskmill.evaluate.matching import hungarian_iou, metrics
from maskmill.images.interpolate import best_scores
from maskmill.images.masks import to_size
from maskmill.numerics import kmeans
from maskmill.numerics.product import Encoder, fit
from maskmill.plan.disk import feature_bytes
from maskmill.store.codebook import Codebook, scores
from maskmill.store.floats import as_stored
from maskmill.store.product import Codec
from maskmill.store.ragged import Ragged, RaggedWriter

SIDE, CELLS = 448, 2
CLASSES: Mapping[str, tuple[int, ...]] = {"camvid": tuple(range(11)), "voc_animals": (0, 8, 10, 12, 13, 15, 17),
                                          "ecssd": (0, 1)}  # fmt: skip
OBJECTS: Mapping[str, tuple[int, ...]] = {"voc_animals": (8, 10, 12, 13, 15, 17), "ecssd": (1,)}
BACKBONES = {"vit_small_focus": {"facet": "key"}, "efficientnet_lite0": {}}
BYTES = (16, 32, 64)
POINTS = 65_536


@dataclass(frozen=True)
class Photos:
    """A set: tokens [n, h, w, d] float32, and the labels as they are (255 void), one [H, W] an image."""

    tokens: np.ndarray
    labels: list[np.ndarray]


def photos_of(name: str, backbone: str, limit: int, cache: Path) -> Photos:
    """Some images of a set, evenly spread; their tokens are kept in the folder `cache`."""
    folder = data_folder(name)
    if folder is None:
        raise SystemExit(f"{name}: no labelled set; set MASKMILL_DATA to the folder of the sets")
    paths = sorted((folder / "images").iterdir())
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, limit).round().astype(int)]
    stored = cache / f"{name}-{backbone}-{limit}.npz"
    if not stored.is_file():
        np.savez(stored, tokens=_extracted(paths, backbone, cache), ids=[path.stem for path in paths])
    with np.load(stored, allow_pickle=False) as found:
        tokens = found["tokens"]
    labels = []
    for path in paths:
        with Image.open(folder / "masks" / f"{path.stem}.png") as image:
            label = np.asarray(image if name != "ecssd" else image.convert("L"))
        labels.append(label if name != "ecssd" else (label > label.max() / 2).astype(np.uint8))
    return Photos(tokens, labels)


def _extracted(paths: list[Path], backbone: str, cache: Path) -> np.ndarray:
    from maskmill.backbones.network import load
    from maskmill.backbones.weights import prepare
    from maskmill.images.decode import decode, resize
    from maskmill.recipe.feature_set import FeatureSet, Size

    cache.mkdir(parents=True, exist_ok=True)
    chosen = FeatureSet(backbone=backbone, size=Size(square=SIDE), **BACKBONES[backbone])  # type: ignore[arg-type]
    weights = cache / f"{backbone}.safetensors"
    if not weights.is_file():
        prepare(chosen, weights)
    network = load(weights, chosen, torch.device("cpu"))
    seen = (torch.from_numpy(resize(decode(path), (SIDE, SIDE)))[None] for path in paths)
    return np.stack([network.forward(image)[0][0].numpy() for image in seen])


def sample(tokens: np.ndarray, seed: int = 0, points: int = POINTS) -> np.ndarray:
    """At most `points` tokens [m, d] of some images [n, h, w, d], as many of each."""
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    quota = min(flat.shape[1], points // len(flat))
    rng = np.random.default_rng(seed)
    return np.concatenate([image[np.sort(rng.choice(len(image), quota, replace=False))] for image in flat])


def coded(codec: Codec, tokens: np.ndarray) -> np.ndarray:
    """Tokens as a store of their codes gives them back."""
    flat = torch.from_numpy(tokens.reshape(-1, tokens.shape[-1]))
    return codec.decode(Encoder(codec).codes(flat).numpy()).reshape(tokens.shape)


def given_back(tokens: np.ndarray, seen: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """(dtype, tokens as a store of it gives them back); codecs are fitted on those of the images `seen`."""
    flat = tokens.reshape(len(tokens), -1, tokens.shape[-1])
    for dtype in ("float16", "int8"):
        yield dtype, as_stored(flat, dtype).reshape(tokens.shape).astype(np.float32)
    for size in BYTES:
        if tokens.shape[-1] % size == 0:
            yield f"pq {size}", coded(fit(sample(seen), size, True, 0)[0], tokens)


def miou(tokens: np.ndarray, photos: Photos, book: Codebook, classes: tuple[int, ...]) -> float:
    """MIoU of the masks of a codebook by hungarian_iou, at the size of the labels."""
    counts = np.zeros((len(book), len(classes)), np.int64)
    column = np.full(256, -1, np.int64)
    column[list(classes)] = np.arange(len(classes))
    h, w, d = tokens.shape[1:]
    for image, label in zip(tokens, photos.labels, strict=True):
        maps = np.moveaxis(scores(image.reshape(h * w, d), book).reshape(h, w, -1), 2, 0)
        mask = to_size(best_scores(maps, (h * CELLS, w * CELLS)).astype(np.uint8), label.shape)
        truth = column[label]
        counts += np.bincount(
            mask[truth >= 0].astype(np.int64) * len(classes) + truth[truth >= 0], minlength=counts.size
        ).reshape(counts.shape)
    return 100 * metrics(counts, hungarian_iou(counts)).miou


def proposals(tokens: np.ndarray, photos: Photos, method: str, wanted: tuple[int, ...]) -> tuple[float, float]:
    """Mean IoU of an image's one segment with the objects, and the share of images where it is at least 0.5."""
    from maskmill.cut import lost, ncut

    module = {"ncut": ncut, "lost": lost}[method]
    found = []
    for i, (image, label) in enumerate(zip(tokens, photos.labels, strict=True)):
        segments, _ = module.cut(image, module.Params(), 0, str(i))
        mask, truth = to_size(segments, label.shape) > 0, np.isin(label, wanted)
        mask = mask & (label != 255)
        found.append((mask & truth).sum() / max(1, (mask | truth).sum()))
    return 100 * float(np.mean(found)), 100 * float(np.mean(np.array(found) >= 0.5))


def quality(asked: argparse.Namespace) -> None:
    """Print a row for each set, backbone and dtype."""
    print("| set | tokens | dtype | error | 1 - cosine | mIoU, own clusters | mIoU, clusters of float16 | same cluster "
          "| IoU, found: ncut | lost |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in asked.sets:
        for backbone in BACKBONES:
            both = photos_of(name, backbone, asked.limit, asked.cache)
            photos = Photos(both.tokens[1::2], both.labels[1::2])
            books: list[Codebook] = []
            for dtype, tokens in given_back(photos.tokens, both.tokens[::2]):
                _row(name, backbone, dtype, tokens, photos, books, asked.seeds)


def _row(
    name: str, backbone: str, dtype: str, tokens: np.ndarray, photos: Photos, books: list[Codebook], seeds: int
) -> None:
    truth, got = (x.reshape(-1, x.shape[-1]) for x in (photos.tokens, tokens))
    error = float(np.square(got - truth, dtype=np.float64).sum() / np.square(truth - truth.mean(0)).sum())
    length = np.linalg.norm(got, axis=1) * np.linalg.norm(truth, axis=1)
    away = float(1 - ((got * truth).sum(1) / np.maximum(length, 1e-9)).mean())
    classes = CLASSES[name]
    settings = kmeans.Settings(clusters=len(classes), spherical=True)
    own = [kmeans.fit(got, settings, seed, "cpu")[0] for seed in range(seeds)]
    first = not books
    if first:
        books += own
        _row_reference[:] = [scores(got, book).argmax(1) for book in books]
    values = [miou(tokens, photos, book, classes) for book in own]
    same = values if first else [miou(tokens, photos, book, classes) for book in books]
    alike = np.mean([(scores(got, b).argmax(1) == r).mean() for b, r in zip(books, _row_reference, strict=True)])
    cuts = ["", ""]
    if name in OBJECTS and backbone == "vit_small_focus":
        both = (proposals(tokens, photos, method, OBJECTS[name]) for method in ("ncut", "lost"))
        cuts = [f"{iou:.1f}, {share:.0f} %" for iou, share in both]
    print(f"| {name} | {backbone} | {dtype} | {error:.2g} | {away:.2g} | {np.mean(values):.2f} ± {np.std(values):.2f} "
          f"| {np.mean(same):.2f} | {100 * alike:.1f} % | {cuts[0]} | {cuts[1]} |", flush=True)  # fmt: skip


_row_reference: list[np.ndarray] = []  # cluster of each float16 token by each of the reference codebooks


def speed(asked: argparse.Namespace) -> None:
    """Print bytes an image, and microseconds a token of coding, decoding and reading."""
    photos = photos_of("camvid", "vit_small_focus", asked.limit, asked.cache)
    tokens = photos.tokens
    count, depth = tokens.shape[0] * tokens.shape[1] * tokens.shape[2], tokens.shape[-1]
    cells = tokens.shape[1] * tokens.shape[2]
    print(f"{count} tokens of {depth}; bytes an image in a shard of 5000 images; CPU microseconds a token")
    print("| dtype | bytes an image | of 1369 tokens | times smaller | fit s | code | read | of which decode |")
    print("|---|---|---|---|---|---|---|---|")
    whole = feature_bytes(5000 * cells, 5000, depth, "float16", 2) / 5000
    for dtype in ("float16", "int8", *BYTES):
        plain, size = (dtype, 0) if isinstance(dtype, str) else ("pq", dtype)
        each = [feature_bytes(5000 * n, 5000, depth, plain, 2, size) / 5000 for n in (cells, 1369)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.zarr"
            took, codec = _written(path, tokens, plain, size)
            read = _seconds(lambda path=path: [None for _ in Ragged(path).chunks()])
            decode = 0.0
            if codec is not None:
                codes = Ragged(path).stored(0, count)
                some = codes[: 1 << 16]
                decode = _seconds(lambda codec=codec, some=some: codec.decode(some)) / len(some)
        times = f"{took[0]:.1f} | {1e6 * took[1] / count:.1f} | {1e6 * read / count:.2f} | {1e6 * decode:.2f}"
        sizes = f"{each[0]:.0f} | {each[1]:.0f} | {whole / each[0]:.1f}"
        print(f"| {plain} {size or ''} | {sizes} | {times} |", flush=True)
    steps(tokens, 32)


def steps(tokens: np.ndarray, size: int) -> None:
    """Print CPU microseconds a token of one step of k-means that streams a store: on codes, and on decoded vectors."""
    from maskmill.numerics.kmeans_stream import Stream
    from maskmill.numerics.lloyd_codes import CodedStream
    from maskmill.numerics.lloyd_cpu import CpuEngine
    from maskmill.numerics.points import CodedPoints, prepare

    print("\n| clusters | step on codes | decoding and step | share of points that go elsewhere |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        _, codec = _written(Path(folder) / "a.zarr", tokens, "pq", size)
        assert codec is not None
        source = CodedPoints([Ragged(Path(folder) / "a.zarr")], Ragged(Path(folder) / "a.zarr").codec or codec)
        points = prepare(source, True, 1)
        for clusters in (11, 27, 100, 500):
            start = points.take(np.sort(np.random.default_rng(0).choice(points.count, clusters, replace=False)))
            engines = (
                CodedStream(source, points, clusters, None, 1),
                Stream(points, clusters, lambda x, clusters=clusters: CpuEngine(x, clusters, 1)),
            )
            times = [_seconds(lambda engine=engine, start=start: engine.step(start), 3) for engine in engines]
            counts = [engine.step(start)[1] for engine in engines]
            moved = np.abs(counts[0] - counts[1]).sum() / 2 / points.count
            one, other = (f"{1e6 * each / points.count:.2f}" for each in times)
            print(f"| {clusters} | {one} | {other} | {moved:.1e} |", flush=True)


def _written(path: Path, tokens: np.ndarray, dtype: str, size: int) -> tuple[tuple[float, float], Codec | None]:
    """Seconds of the fit and of coding; the codec."""
    codec, fitted, coding = None, 0.0, 0.0
    if size:
        begin = time.process_time()
        codec = fit(sample(tokens), size, True, 0)[0]
        fitted = time.process_time() - begin
    encoder = None if codec is None else Encoder(codec)
    with RaggedWriter(path, "features", depth=tokens.shape[-1], dtype=codec or dtype) as out:
        for i, image in enumerate(tokens):
            begin = time.process_time()
            values = image if encoder is None else encoder.codes(torch.from_numpy(image)).numpy()
            coding += time.process_time() - begin
            out.append(str(i), values)
    return (fitted, coding), codec


def _seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """CPU seconds of the fastest of some rounds."""
    times = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def with_faiss(asked: argparse.Namespace) -> None:
    """Print errors and CPU seconds of our codec and of faiss' on the same tokens, one thread each.

    Errors are those of as many tokens of images that neither saw; "code" is the time of coding these.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    tokens = photos_of("camvid", "vit_small_focus", asked.limit, asked.cache).tokens
    seen, unseen = sample(tokens[::2], points=asked.points), sample(tokens[1::2], points=asked.points)
    print(f"{len(seen)} tokens of {seen.shape[1]} to fit on, {len(unseen)} unseen ones; {asked.bytes} bytes")
    print("| | error, seen | error, unseen | fit, CPU s | code, CPU s |")
    print("|---|---|---|---|---|")
    rotation = fit(seen, asked.bytes, True, 0)[0].rotation
    makers: dict[str, Callable[[np.ndarray], Coding]] = {
        "maskmill": lambda x: _ours(x, asked.bytes),
        "faiss OPQ": lambda x: _theirs(x, asked.bytes),
        "faiss PQ, given the rotation of maskmill": lambda x: _parts(x, rotation, asked.bytes),
    }
    rows = {}
    for name, make in makers.items():
        row = rows[name] = _tried(seen, unseen, make)
        print(f"| {name} | {row[0]:.4f} | {row[1]:.4f} | {row[2]:.2f} | {row[3]:.2f} |", flush=True)
    ratios = (f"{ours / theirs:.2f}" for ours, theirs in zip(rows["maskmill"], rows["faiss OPQ"], strict=True))
    print(f"| maskmill / faiss OPQ | {' | '.join(ratios)} |")


Coding = tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]  # vectors -> codes -> vectors


def _ours(x: np.ndarray, size: int) -> Coding:
    codec = fit(x, size, True, 0)[0]
    encoder = Encoder(codec)
    return lambda rows: encoder.codes(torch.from_numpy(rows)).numpy(), codec.decode


def _theirs(x: np.ndarray, size: int) -> Coding:
    import faiss

    turn, quantiser = faiss.OPQMatrix(x.shape[1], size), faiss.ProductQuantizer(x.shape[1], size, 8)
    turn.train(x)
    quantiser.train(turn.apply_py(x))
    return (
        lambda rows: quantiser.compute_codes(turn.apply_py(rows)),
        lambda codes: turn.reverse_transform(quantiser.decode(codes)),
    )


def _parts(x: np.ndarray, rotation: np.ndarray, size: int) -> Coding:
    """Without the search for a rotation, and its time."""
    import faiss

    quantiser = faiss.ProductQuantizer(x.shape[1], size, 8)
    quantiser.train(np.ascontiguousarray(x @ rotation.T))
    return (
        lambda rows: quantiser.compute_codes(np.ascontiguousarray(rows @ rotation.T)),
        lambda codes: quantiser.decode(codes) @ rotation,
    )


def _tried(
    seen: np.ndarray, unseen: np.ndarray, make: Callable[[np.ndarray], Coding]
) -> tuple[float, float, float, float]:
    """Errors of seen and of unseen tokens, CPU seconds of the fit and of coding the unseen ones."""
    begin = time.process_time()
    encode, decode = make(seen)
    took = time.process_time() - begin
    errors = [
        float(np.square(decode(encode(x)) - x, dtype=np.float64).sum() / np.square(x - x.mean(0)).sum())
        for x in (seen, unseen)
    ]
    return errors[0], errors[1], took, _seconds(lambda: encode(unseen), 3)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["quality", "speed", "faiss"])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=list(CLASSES), default=list(CLASSES))
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--points", type=int, default=16_384, help="faiss: tokens to fit on")
    parser.add_argument("--bytes", type=int, default=32, help="faiss: of a code")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    {"quality": quality, "speed": speed, "faiss": with_faiss}[asked.table](asked)


if __name__ == "__main__":
    main()
