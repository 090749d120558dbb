"""Normalised cuts over many images: quality and cost. Prints the tables of docs/benchmarks.md.

    python bench/ncut.py solve [--nodes 1369 3600 100000] [--vectors tokens.npz]
    python bench/ncut.py camvid [--data DATA] [--cache FOLDER] [--limit 308] [--clusters 11] [--only NAME ...]

`solve`: the first tokens of a set (or, without --vectors, a mixture of Gaussians), eleven clusters, one thread, CPU
seconds, and the value of the partition: the sum over clusters of the share of its links that leave it, by the affinity
of all pairs of tokens with the median bandwidth, float32 kernels and float64 sums, in the same way for all (beyond 5000
nodes: the links of 5000 evenly spread ones with all). Methods: this package; a dense solver
(scipy.linalg.eigh of the leading ones), Lanczos (scipy's eigsh) and scikit-learn's spectral_clustering of the same
affinity, these three up to 5000 nodes, as all pairs of 100 000 nodes are 40 GB; ncut-pytorch, where it is installed,
with its defaults and its rotation.

`camvid`: tokens of efficientnet_lite0 (448 x 448, stride 16), K clusters by each method and seed, mIoU and accuracy by
hungarian_counts on maps of two cells a token. ncut-pytorch draws with torch's generator: the seed is set before it.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from maskmill.cluster import kmeans, leiden, ncut
from maskmill.store.codebook import assign

K = 11
DENSE = 5000  # nodes up to which all pairs are held
BLOCK = 2048
Labels = np.ndarray


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32."""
    x = x.astype(np.float32)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12))


def median(x: np.ndarray) -> float:
    """The median distance of a thousand evenly spread rows."""
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(x[np.linspace(0, len(x) - 1, min(1000, len(x))).astype(int)].astype(np.float64))))


def kernel(x: np.ndarray, sigma: float, rows: np.ndarray | None = None) -> Iterator[torch.Tensor]:
    """Blocks [b, n] float32 of the Gaussian affinity of unit rows, of all of them or of some with all."""
    points = torch.from_numpy(x)
    some = points if rows is None else points[torch.from_numpy(rows)]
    for block in some.split(BLOCK):
        yield (block @ points.T).sub_(1).div_(sigma**2).exp_()


def value(x: np.ndarray, labels: Labels, sigma: float) -> float:
    """The Ncut value of a partition, by the affinity of all pairs; beyond DENSE nodes of DENSE rows with all."""
    rows = np.unique(np.linspace(0, len(x) - 1, DENSE).round().astype(int))
    member = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), int(labels.max()) + 1).float()
    links = torch.zeros(member.shape[1], member.shape[1], dtype=torch.float64)
    for block, own in zip(kernel(x, sigma, rows), member[torch.from_numpy(rows)].split(BLOCK), strict=True):
        links += own.double().T @ (block @ member).double()
    volume = links.sum(1)
    return float((1 - links.diagonal() / volume.clamp_min(1e-300))[volume > 0].sum())


def rounded(vectors: np.ndarray) -> Labels:
    """The partition of eigenvectors [n, k] of the published rotation's kind, ours."""
    from maskmill.cluster._rotation import rotate

    rows = unit(vectors)
    some = np.ascontiguousarray(rows[:: -(-len(rows) // ncut.ROWS)])
    return np.asarray((rows @ rotate(some, 10, 0).astype(np.float32)).argmax(axis=1))


def ours(x: np.ndarray, k: int, seed: int, **params: object) -> Labels:
    """This package: the clusters that the codebook gives."""
    book, _ = ncut.fit(x, ncut.Params(clusters=k, **params), seed, "cpu")
    return assign(x, book)[0]


def dense(x: np.ndarray, k: int, sigma: float) -> Labels:
    """scipy.linalg.eigh, the k leading vectors."""
    from scipy.linalg import eigh

    affinity = np.concatenate([block.numpy() for block in kernel(x, sigma)])
    scale = 1 / np.sqrt(affinity.sum(axis=1, dtype=np.float64))
    vectors = eigh(affinity * scale[:, None] * scale, subset_by_index=[len(x) - k, len(x) - 1])[1]
    return rounded(vectors[:, ::-1])


def lanczos(x: np.ndarray, k: int, sigma: float) -> Labels:
    """scipy.sparse.linalg.eigsh of the stored affinity."""
    from scipy.sparse.linalg import eigsh

    affinity = np.concatenate([block.numpy() for block in kernel(x, sigma)])
    scale = (1 / np.sqrt(affinity.sum(axis=1, dtype=np.float64))).astype(np.float32)
    start = np.random.default_rng(0).standard_normal(len(x)).astype(np.float32)
    values, vectors = eigsh(affinity * scale[:, None] * scale, k, which="LA", v0=start)
    return rounded(vectors[:, np.argsort(-values)])


def scikit_learn(x: np.ndarray, k: int, sigma: float) -> Labels:
    """sklearn.cluster.spectral_clustering of the same affinity, its cluster_qr."""
    from sklearn.cluster import spectral_clustering

    affinity = np.concatenate([block.numpy() for block in kernel(x, sigma)])
    return spectral_clustering(affinity, n_clusters=k, random_state=0, assign_labels="cluster_qr")


def published(x: np.ndarray, k: int, seed: int) -> Labels:
    """ncut-pytorch: ncut_fn with its defaults, then kway_ncut."""
    from ncut_pytorch import kway_ncut, ncut_fn

    torch.manual_seed(seed)
    vectors, _ = ncut_fn(torch.from_numpy(x), n_eig=k, device="cpu")
    return kway_ncut(vectors, device="cpu").argmax(1).numpy()


def timed(work: Callable[[], Labels]) -> tuple[Labels, float]:
    """What comes out, and CPU seconds."""
    start = time.process_time()
    labels = work()
    return labels, time.process_time() - start


def solve(asked: argparse.Namespace) -> None:
    """One group of rows for each number of nodes."""
    if asked.vectors:
        source = np.load(asked.vectors)["x"]
        source = source.reshape(-1, source.shape[-1])
    else:
        draws = np.random.default_rng(0)
        centres = draws.standard_normal((3 * K, 64))
        source = centres[draws.integers(3 * K, size=max(asked.nodes))]
        source = source + 0.7 * draws.standard_normal(source.shape)
    print("| nodes | method | CPU s | Ncut |\n|---|---|---:|---:|")
    for n in asked.nodes:
        x = unit(source[:n])
        sigma = median(x)
        work: dict[str, Callable[[], Labels]] = {"maskmill": lambda x=x: ours(x, K, 0)}
        if n <= DENSE:
            work["scipy eigh"] = lambda x=x, sigma=sigma: dense(x, K, sigma)
            work["scipy eigsh"] = lambda x=x, sigma=sigma: lanczos(x, K, sigma)
            work["scikit-learn"] = lambda x=x, sigma=sigma: scikit_learn(x, K, sigma)
        if importlib.util.find_spec("ncut_pytorch"):
            work["ncut-pytorch"] = lambda x=x: published(x, K, 0)
        for name, one in work.items():
            if asked.only and name not in asked.only:
                continue
            labels, seconds = timed(one)
            print(f"| {n} | {name} | {seconds:.2f} | {value(x, labels, sigma):.4f} |", flush=True)


def camvid(asked: argparse.Namespace) -> None:
    """One row a method, mean and standard deviation over three seeds."""
    from _photos import data_folder
    from number import tokens

    from maskmill.evaluate.matching import hungarian_counts, metrics

    cache = Path(asked.cache)
    cache.mkdir(parents=True, exist_ok=True)
    store = cache / f"camvid{asked.limit}.npz"
    if not store.is_file():
        folder = Path(asked.data) / "camvid" if asked.data else data_folder("camvid")
        assert folder is not None, "no set camvid: give --data"
        values, marks = tokens(folder, asked.limit, cache / "weights.safetensors")
        np.savez(store, x=values, y=marks)
    values, marks = np.load(store)["x"], np.load(store)["y"]
    x, k = values.reshape(-1, values.shape[-1]).astype(np.float32), asked.clusters
    truth = (
        marks.reshape(len(values), values.shape[1], 2, values.shape[2], 2).transpose(0, 1, 3, 2, 4).reshape(len(x), 4)
    )
    work: dict[str, Callable[[int], Labels]] = {
        "ncut": lambda seed: ours(x, k, seed),
        "ncut, sample": lambda seed: ours(x, k, seed, fine_by="sample"),
        "ncut, kmeans": lambda seed: ours(x, k, seed, discretise="kmeans"),
        "ncut, degree 0.25": lambda seed: ours(x, k, seed, degree=0.25),
        "kmeans": lambda seed: assign(x, kmeans.fit(x, kmeans.Params(clusters=k), seed, "cpu")[0])[0],
        "leiden": lambda seed: assign(x, leiden.fit(x, leiden.Params(clusters=k), seed, "cpu")[0])[0],
    }
    if importlib.util.find_spec("ncut_pytorch"):
        work["ncut-pytorch"] = lambda seed: published(x, k, seed)
        work["ncut-pytorch, unit rows"] = lambda seed: published(unit(x), k, seed)
    print(f"{len(x)} tokens, K = {k}\n\n| method | mIoU | accuracy | CPU s |\n|---|---:|---:|---:|")
    for name, one in work.items():
        if asked.only and name not in asked.only:
            continue
        rows = []
        for seed in asked.seeds:
            labels, seconds = timed(lambda one=one, seed=seed: one(seed))
            counts = np.zeros((int(labels.max()) + 1, 256), np.int64)
            np.add.at(counts, (labels[:, None], truth), 1)
            counts = counts[:, :255][:, counts[:, :255].any(axis=0)]
            found = metrics(counts, hungarian_counts(counts))
            rows.append((100 * found.miou, 100 * found.accuracy, seconds))
        (miou, accuracy, seconds), spread = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(
            f"| {name} | {miou:.1f} ± {spread[0]:.1f} | {accuracy:.1f} ± {spread[1]:.1f} | {seconds:.1f} |", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("solve", "camvid"))
    parser.add_argument("--nodes", type=int, nargs="+", default=[1369, 3600, 100_000])
    parser.add_argument("--vectors", help="an .npz whose x is [.., d]: the tokens to cut, in place of a mixture")
    parser.add_argument("--data", help="folder of the sets")
    parser.add_argument("--cache", default="bench_ncut", help="where tokens are kept")
    parser.add_argument("--limit", type=int, default=308, help="images, evenly spread")
    parser.add_argument("--clusters", type=int, default=K)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], help="methods")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    (solve if asked.part == "solve" else camvid)(asked)


if __name__ == "__main__":
    main()
