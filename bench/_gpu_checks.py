"""What bench/gpu_check.sh checks: results on a GPU against the same on the CPU, and speed against what bounds it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Sizes:
    """How much each check works on."""

    images: int = 512
    side: int = 448
    batch: int = 64
    cut_images: int = 256
    grid: int = 28
    points: int = 1_000_000
    depth: int = 384
    clusters: int = 256
    steps: int = 300
    bank: int = 200_000
    queries: int = 20_000
    backbone: str = "vit_small_patch16_224"


TINY = Sizes(8, 64, 4, 3, 10, 4000, 16, 5, 4, 500, 64, "vit_tiny_patch16_224")


@dataclass
class Row:
    """A line of the table: what was compared, how far apart, how fast."""

    name: str
    size: str
    difference: str
    agrees: bool
    speeds: dict[str, float] = field(default_factory=dict)  # ours first; units a second
    unit: str = "images"

    def cells(self) -> list[str]:
        """The line's cells."""
        (ours, own), *others = self.speeds.items() or [("-", 0.0)]
        against = "; ".join(f"{name} {speed:,.0f} (ours {own / speed:.2f}x)" for name, speed in others) or "-"
        mark = "yes" if self.agrees else "**no**"
        return [self.name, self.size, self.difference, mark, f"{ours}: {own:,.0f} {self.unit}/s", against]


class Check:
    """The device, the sizes and a folder, for the checks below; each of them gives rows."""

    def __init__(self, device: str, sizes: Sizes, folder: Path) -> None:
        self.device, self.sizes, self.folder = device, sizes, folder
        self.threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def seconds(self, call: Callable[[], Any], repeats: int = 1) -> float:
        """Seconds of the fastest of some calls, the device's work included."""
        best = float("inf")
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            call()
            self.wait()
            best = min(best, time.perf_counter() - start)
        return best

    def wait(self) -> None:
        """Until the device is idle."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    # --- features -----------------------------------------------------------------------------------------------------

    def features(self) -> list[Row]:
        """The stage, from JPEG files to Zarr, against the forward pass on batches that lie on the device."""
        from maskmill.backbones.network import load
        from maskmill.recipe.feature_set import FeatureSet, Size
        from maskmill.store.ragged import Ragged

        s, weights = self.sizes, self.folder / "weights.safetensors"
        chosen = FeatureSet(backbone=s.backbone, facet="key", size=Size(square=s.side))
        self._weights(weights)
        some, many = self._photos("few", 8), self._photos("all", s.images)
        self._extract(some, chosen, weights, self.folder / "cpu.zarr", "cpu")
        self._extract(some, chosen, weights, self.folder / "gpu.zarr", self.device)
        one, two = (Ragged(self.folder / f"{name}.zarr") for name in ("cpu", "gpu"))
        cosine = min(float(_cosines(one[i], two[i]).min()) for i in one.ids)
        stage = self.seconds(lambda: self._extract(many, chosen, weights, self.folder / "all.zarr", self.device))
        backbone = load(weights, chosen, torch.device(self.device))
        batch = torch.randint(0, 256, (s.batch, s.side, s.side, 3), dtype=torch.uint8).to(self.device)
        backbone.outputs(batch)
        bare = self.seconds(lambda: backbone.outputs(batch), 5)
        return [Row(
            f"features, keys of {s.backbone}", f"{s.images} photos, {s.side} px",
            f"cosine >= {cosine:.4f} (0.99)", cosine > 0.99,
            {"stage": s.images / stage, "bare forward": s.batch / bare},
        )]  # fmt: skip

    def _weights(self, file: Path) -> None:
        from maskmill.backbones import weights_file
        from maskmill.backbones.network import import_timm

        torch.manual_seed(0)
        model = import_timm().create_model(self.sizes.backbone, pretrained=False, num_classes=0)
        facts = {"architecture": self.sizes.backbone, "mean": [0.5] * 3, "std": [0.5] * 3}
        weights_file.write(file, model.state_dict(), facts)

    def _photos(self, name: str, count: int) -> Path:
        """The manifest of drawn photos in one shard, s0."""
        import pyarrow as pa
        from PIL import Image

        from maskmill.store.artefact import write_table

        folder, draws, rows = self.folder / name, np.random.default_rng(0), []
        folder.mkdir()
        for i in range(count):
            coarse = draws.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            path = folder / f"{i:04d}.jpg"
            Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(path, quality=90)
            rows.append({"id": path.stem, "path": str(path), "width": 640, "height": 480, "shard": "s0", "label": None})
        table = pa.Table.from_pylist(rows, pa.schema([
            ("id", pa.string()), ("path", pa.string()), ("width", pa.int64()), ("height", pa.int64()),
            ("shard", pa.string()), ("label", pa.string()),
        ]))  # fmt: skip
        write_table(folder / "manifest.parquet", table)
        return folder / "manifest.parquet"

    def _extract(self, manifest: Path, chosen: Any, weights: Path, out: Path, device: str) -> None:
        from maskmill.device import Compute
        from maskmill.features.run import run

        compute = Compute(self.sizes.batch if device != "cpu" else 4, self.threads, device)
        run(manifest, "s0", chosen.model_dump(mode="json"), weights, out, compute)

    # --- cuts ---------------------------------------------------------------------------------------------------------

    def cuts(self) -> list[Row]:
        """TokenCut of a batch against one image after the other on the CPU, and against dense eigenvectors."""
        from maskmill.cut import ncut
        from maskmill.cut._affinity import BinaryBatch

        sys.path.insert(0, str(ROOT / "tests/reference"))
        from reference_ncut import scene

        s, params = self.sizes, ncut.Params()
        tokens = np.stack([scene(s.grid, s.grid, seed) for seed in range(s.cut_images)])
        ids = [str(i) for i in range(len(tokens))]
        few = min(32, len(ids))
        alone = [ncut.cut(tokens[i], params, 0, ids[i]) for i in range(few)]
        start = time.perf_counter()
        alone = [ncut.cut(tokens[i], params, 0, ids[i]) for i in range(few)]
        cpu = few / (time.perf_counter() - start)
        together = ncut.cut_batch(tokens[:few], params, 0, ids[:few], self.device)
        same = np.mean([(a == b).mean() for (a, _), (b, _) in zip(alone, together, strict=True)])
        error = max(abs(a["lambda_2"] - b["lambda_2"]) for (_, a), (_, b) in zip(alone, together, strict=True))
        ours = self.seconds(lambda: ncut.cut_batch(tokens, params, 0, ids, self.device), 2)
        flat = torch.from_numpy(tokens[:few].reshape(few, s.grid**2, -1)).to(self.device)

        def dense() -> None:
            batch = BinaryBatch.of(flat, params.tau, params.eps)
            eye = torch.eye(s.grid**2, device=flat.device)
            graph = batch.times(eye.expand(few, -1, -1).contiguous())
            scale = batch.degree.rsqrt()
            torch.linalg.eigh(scale[:, :, None] * graph * scale[:, None])

        dense_seconds = self.seconds(dense)
        return [Row(
            "cut, ncut batch", f"{len(ids)} images, {s.grid} x {s.grid} tokens",
            f"{100 * same:.3f} % of tokens equal (99.9 %), lambda {error:.1e} (1e-3)", same > 0.999 and error < 1e-3,
            {"batch": len(ids) / ours, "dense eigh on the device": few / dense_seconds, "ours on one CPU core": cpu},
        )]  # fmt: skip

    # --- k-means ------------------------------------------------------------------------------------------------------

    def kmeans(self) -> list[Row]:
        """Spherical k-means: equal centres on clear clusters; seconds and inertia on a mixture without any."""
        from maskmill.cluster.kmeans import Params, fit

        s, draws = self.sizes, np.random.default_rng(0)
        centres = draws.standard_normal((10, 32))
        blobs = (centres[draws.integers(10, size=20_000)] + 0.3 * draws.standard_normal((20_000, 32))).astype("f4")
        one, two = (fit(blobs, Params(clusters=10), 0, device)[0].centroids for device in ("cpu", self.device))
        error = float(np.abs(one - two).max())
        x = np.empty((s.points, s.depth), np.float32)
        mixed = 0.6 * draws.standard_normal((2 * s.clusters, s.depth), dtype=np.float32)
        for part in np.array_split(np.arange(s.points), max(1, s.points // 65536)):
            noise = draws.standard_normal((len(part), s.depth), dtype=np.float32)
            x[part] = mixed[draws.integers(len(mixed), size=len(part))] + noise
            x[part] /= np.linalg.norm(x[part], axis=1, keepdims=True)
        params = Params(clusters=s.clusters, restarts=1, iterations=25)
        made: dict[str, np.ndarray] = {}
        runs: dict[str, Callable[[], Any]] = {
            "fit": lambda: made.update(fit=fit(x, params, 0, self.device)[0].centroids),
            "plain torch": lambda: made.update({"plain torch": self._lloyd(x, s.clusters, 25)}),
        }
        with contextlib.suppress(ImportError):
            import faiss  # noqa: F401

            runs["faiss"] = lambda: made.update(faiss=_faiss(x, s.clusters, 25))
        runs["plain torch"]()
        speeds = {name: s.points / self.seconds(call) for name, call in runs.items()}
        inertia = {name: self._inertia(x, centroids) for name, centroids in made.items()}
        low = min(inertia.values())
        agrees = error < 1e-4 and inertia["fit"] < 1.02 * low
        said = ", ".join(f"{name} {value / low:.4f}" for name, value in inertia.items())
        return [Row(
            "cluster, k-means", f"{s.points:,} x {s.depth}, k = {s.clusters}, 25 iterations",
            f"centres of clear clusters {error:.1e} (1e-4); inertia over lowest: {said} (1.02)", agrees,
            speeds, "points",
        )]  # fmt: skip

    def _lloyd(self, x: np.ndarray, k: int, iterations: int) -> np.ndarray:
        """Lloyd on the device, as one would write it: unit rows, centres by index_add."""
        points = torch.from_numpy(x).to(self.device)
        centres = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:k].to(points.device)]
        for _ in range(iterations):
            sums = torch.zeros_like(centres)
            for block in points.split(1 << 18):
                sums.index_add_(0, (block @ centres.T).argmax(1), block)
            centres = torch.nn.functional.normalize(torch.where(sums.any(1, keepdim=True), sums, centres))
        return centres.cpu().numpy()

    def _inertia(self, x: np.ndarray, centroids: np.ndarray) -> float:
        c = torch.nn.functional.normalize(torch.from_numpy(np.ascontiguousarray(centroids)).to(self.device))
        parts = torch.from_numpy(x).split(1 << 18)
        return sum(float((1 - (part.to(self.device) @ c.T).amax(1)).double().sum()) for part in parts)

    # --- a head -------------------------------------------------------------------------------------------------------

    def heads(self) -> list[Row]:
        """STEGO's head: codes of one head on both devices, losses of both trainings, items a second."""
        from maskmill.adapt.run import HeadFiles, apply, find_neighbours, fit
        from maskmill.store.artefact import read_json
        from maskmill.store.ragged import Ragged
        from maskmill.training.resources import Resources

        s, store = self.sizes, self.folder / "tokens.zarr"
        self._tokens(store, 64)
        section = {"method": "stego", "features": "x", "steps": s.steps, "batch_size": 16, "crops": "none"}
        table = self.folder / "near.parquet"
        find_neighbours([store], "none", 8, table, self.threads)
        losses, speeds = {}, {}
        for device, steps in ((self.device, s.steps), ("cpu", min(60, s.steps))):
            name = torch.device(device).type
            files = HeadFiles(*(self.folder / f"{name}{steps}.{part}" for part in ("safetensors", "json", "time.json")))
            fit([store], section | {"steps": steps}, files, seed=0, clusters=27, neighbours=table,
                resources=Resources(self.threads, device))  # fmt: skip
            losses[name] = np.array(read_json(files.monitor)["loss"])
            speeds[name] = float(read_json(files.timing)["images_per_second"])
            head = files.head
        for device in ("cpu", self.device):
            apply(head, store, self.folder / f"codes_{torch.device(device).type}_{device == 'cpu'}.zarr", 1, device)
        one = Ragged(self.folder / "codes_cpu_True.zarr")
        here = torch.device(self.device).type
        two = Ragged(self.folder / f"codes_{here}_{self.device == 'cpu'}.zarr")
        cosine = min(float(_cosines(one[i], two[i]).min()) for i in one.ids)
        first = min(map(len, losses.values()))
        ends = [loss[first - max(1, first // 4) : first].mean() for loss in losses.values()]
        apart = float(abs(ends[0] - ends[-1]) / np.abs(losses["cpu"]).max())
        return [Row(
            "adapt, stego", f"{s.steps} steps of 16 + 16 items, {s.grid} x {s.grid} tokens of {s.depth}",
            f"codes: cosine >= {cosine:.4f} (0.999); losses {100 * apart:.1f} % of the largest apart (20 %)",
            cosine > 0.999 and apart < 0.2,
            {"training": speeds[here], "head alone": self._bare_head(), "ours on the CPU": speeds["cpu"]},
            "items",
        )]  # fmt: skip

    def _tokens(self, out: Path, count: int) -> None:
        """A store of images of two materials each."""
        from maskmill.store.provenance import Provenance
        from maskmill.store.ragged import RaggedWriter

        s, draws = self.sizes, np.random.default_rng(0)
        materials = 3 * draws.standard_normal((6, s.depth))
        with RaggedWriter(out, "features", depth=s.depth, provenance=Provenance.of("features", {"drawn": 0})) as writer:
            for i in range(count):
                label = np.zeros((s.grid, s.grid), int)
                label[:, : s.grid // 2], label[:, s.grid // 2 :] = draws.choice(6, 2, replace=False)
                writer.append(
                    f"{i:03d}", (materials[label] + draws.standard_normal((*label.shape, s.depth))).astype("f4")
                )

    def _bare_head(self) -> float:
        """Items a second of the head's forward and backward pass and Adam, on batches that lie on the device."""
        from maskmill.adapt._modules import Projector

        s, place = self.sizes, torch.device(self.device)
        head = Projector(s.depth, 70).to(place)
        optimiser = torch.optim.Adam(head.parameters(), lr=5e-4)
        x = torch.randn(16, s.depth, s.grid, s.grid, device=place)

        def step() -> None:
            optimiser.zero_grad()
            with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
                loss = (head(x) * head(x.flip(0))).mean()
            loss.backward()
            optimiser.step()

        step()
        return 16 / (self.seconds(lambda: [step() for _ in range(10)]) / 10)

    # --- retrieval ----------------------------------------------------------------------------------------------------

    def retrieval(self) -> list[Row]:
        """Votes of the nearest labelled tokens, all pairs in blocks."""
        from maskmill.evaluate.retrieval import Memory, directions
        from maskmill.recipe.scoring import Retrieval

        s, draws = self.sizes, np.random.default_rng(0)
        keys = directions(draws.standard_normal((s.bank, s.depth), dtype=np.float32))
        labels = np.eye(21, dtype=np.float32)[draws.integers(21, size=s.bank)]
        queries = draws.standard_normal((s.queries, s.depth), dtype=np.float32)
        memory = Memory.of(keys, labels, Retrieval(), self.threads, self.device)
        few = queries[: min(256, len(queries))]
        error = float(np.abs(Memory.of(keys, labels, Retrieval(), 1, "cpu").votes(few) - memory.votes(few)).max())
        ours = self.seconds(lambda: memory.votes(queries))
        rows = torch.from_numpy(directions(queries)).to(self.device)
        plain = self.seconds(lambda: [(part @ memory.keys.T).topk(30, dim=1) for part in rows.split(2048)])
        speeds = {"votes": s.queries / ours, "one product and topk": s.queries / plain}
        with contextlib.suppress(ImportError):
            speeds["faiss"] = s.queries / _faiss_search(keys, directions(queries))
        size = f"{s.queries:,} tokens of {s.depth} against {s.bank:,}"
        return [Row("evaluate, retrieval", size, f"votes {error:.1e} (1e-3)", error < 1e-3, speeds, "tokens")]


CHECKS = ("features", "cuts", "kmeans", "heads", "retrieval")


def _cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Cosine of each vector [.., d] with its counterpart."""
    a, b = (part.reshape(-1, part.shape[-1]).astype(np.float64) for part in (one, two))
    return (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12)


def _faiss(x: np.ndarray, k: int, iterations: int) -> np.ndarray:
    import faiss

    gpu = getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    model = faiss.Kmeans(
        x.shape[1], k, niter=iterations, spherical=True, seed=1, max_points_per_centroid=len(x), gpu=gpu
    )
    model.train(x)
    return np.asarray(model.centroids)


def _faiss_search(keys: np.ndarray, queries: np.ndarray) -> float:
    """Seconds of an exact search."""
    import faiss

    index = faiss.IndexFlatIP(keys.shape[1])
    if getattr(faiss, "get_num_gpus", lambda: 0)() > 0:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(keys)
    start = time.perf_counter()
    index.search(queries, 30)
    return time.perf_counter() - start
