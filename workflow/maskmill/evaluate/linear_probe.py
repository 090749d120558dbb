"""The linear probe: how much a linear classifier reads out of frozen features. An upper mark for clusterings of them.

The codes of a head are probed as the feature set that it was learnt on, so that the difference is what the head did.

The labelled images are split into two halves by a hash of their ids. Multinomial logistic regression is fitted on the
tokens of the one half and scored on the pixels of the other. A token's target is the share of each class among the
pixels it covers, weighted by its share of scored pixels: the cross-entropy of its pixels, without the pixels. The
problem is convex, full-batch L-BFGS solves it, nothing is random but which tokens are drawn when there are too many.

Frames of one video, or photos of one place, fall into both halves: such a probe is optimistic.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.device import pick
from maskmill.errors import InputError, NumericsError, StoreError
from maskmill.evaluate.confusion import Confusion, at_frame, frame
from maskmill.evaluate.labelled import digest, labelled_rows, read_label
from maskmill.evaluate.protocol import protocol
from maskmill.evaluate.score import drop_absent, score
from maskmill.images.interpolate import resize_maps
from maskmill.numerics.blocks import ordered
from maskmill.numerics.sampling import rng
from maskmill.progress import track
from maskmill.recipe.checks import check_labels
from maskmill.recipe.sections import Evaluate, validate
from maskmill.store.artefact import Provenance, write_json
from maskmill.store.manifest import Row, read_manifest
from maskmill.store.ragged import Ragged

MAX_TOKENS = 200_000  # training tokens in memory
PENALTY = 1e-4  # on the squared weights, per standardised feature, against the mean cross-entropy
ITERATIONS = 200
KEPT_BYTES = 1 << 30  # of compressed labels in memory
ROWS = 8192  # whose gradient is computed at once
STRIP = 1 << 24  # interpolated scores held at once


@dataclass(frozen=True)
class Linear:
    """A linear classifier on raw features: weight [d, classes], bias [classes], float32."""

    weight: np.ndarray
    bias: np.ndarray

    def scores(self, tokens: np.ndarray) -> np.ndarray:
        """Scores [classes, h, w] of tokens [h, w, d]."""
        h, w, d = tokens.shape
        flat = self.weight.T @ tokens.reshape(h * w, d).astype(np.float32).T + self.bias[:, None]
        return flat.reshape(-1, h, w)


def probe(
    feature_stores: Sequence[str | Path],
    manifest: str | Path,
    params: Mapping[str, Any],
    seed: int,
    out: str | Path,
    threads: int = 1,
    recipe: str | None = None,
) -> None:
    """Fit and score the probe of one feature set, whose folder names it, or of a recipe's codes of one seed.

    Args:
        feature_stores: Ragged "features" of all shards.
        params: the `evaluate` section.
        seed: of the draw of tokens; for codes, the seed of their head.
        out: JSON to write: features, dimensions, seed, `scores` with one entry, as `evaluate.run.run` writes them; for
            codes also recipe, and features is "codes".
        recipe: the recipe whose codes the stores are.

    Raises:
        InputError: one half has no labelled image, or nothing of the scored classes.
        StoreError: a labelled image has no features.
    """
    settings = validate(Evaluate, params, "--params", "evaluate")
    rows = labelled_rows(read_manifest(manifest))
    halves = split(list(rows))
    stores = [Ragged(path, "features") for path in feature_stores]
    where = {image_id: store for store in stores for image_id in store.ids if image_id in rows}
    missing = sorted(set(rows) - set(where))
    if missing:
        raise StoreError(f"{Path(feature_stores[0]).parent}: no features of {missing[0]!r}; run snakemake again")
    labels = _Labels(rows)
    classes, digests = _classes(labels, settings)
    x, y = _training(halves[0], labels, where, classes, seed)
    model, diagnostics = fit(x, y, threads)
    confusion = Confusion(len(classes), classes, settings.ignore)
    for image_id in track(halves[1], len(halves[1]), "probe"):
        row = rows[image_id]
        shape, window = frame(row.height, row.width, settings.size)
        predicted = argmax_at(model.scores(where[image_id][image_id]), shape)
        confusion.add(predicted[window], at_frame(labels.read(image_id), shape, window))
    counts, present = drop_absent(confusion.counts, classes)
    details = {"train_images": len(halves[0]), "max_tokens": MAX_TOKENS, "l2": PENALTY, "split": "blake2b(id) parity"}
    scored = {image_id: digests[image_id] for image_id in halves[1]}
    details["train_labels"] = protocol("linear_probe", settings.size, (), (), _without(digests, scored)).labels
    rule = protocol("linear_probe", settings.size, settings.ignore, classes, scored, **details)
    match = np.array([present.index(c) if c in present else -1 for c in classes])
    entry = score(counts, match, rule, present, settings.class_names) | {"diagnostics": diagnostics}
    del entry["matching"]
    subject = {"features": Path(feature_stores[0]).parent.name}
    if recipe is not None:
        subject = {"recipe": recipe, "features": "codes"}
    made = Provenance.of("evaluate", dict(params) | {"seed": seed}, [*(s.hash for s in stores), rule.labels])
    write_json(out, subject | {"dimensions": x.shape[1], "seed": seed, "scores": [entry]}, made)


def _without(digests: Mapping[str, str], left_out: Mapping[str, str]) -> dict[str, str]:
    return {image_id: value for image_id, value in digests.items() if image_id not in left_out}


def split(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Training and test ids, sorted, by the parity of each id's hash: an image never changes sides.

    Raises:
        InputError: a half is empty.
    """
    odd = {i for i in ids if hashlib.blake2b(i.encode(), digest_size=1).digest()[0] % 2}
    halves = sorted(set(ids) - odd), sorted(odd)
    if not all(halves):
        raise InputError(
            f"evaluate.linear_probe: {len(ids)} labelled images, all in one half of the split by id; "
            "label more images, or set linear_probe: false"
        )
    return halves


class _Labels:
    """The labels of a run, each of them decoded once: what was read is kept in memory, compressed.

    Labels beyond KEPT_BYTES are read again instead.
    """

    def __init__(self, rows: Mapping[str, Row]) -> None:
        self.rows = rows
        self._kept: dict[str, tuple[bytes, np.dtype]] = {}
        self._room = KEPT_BYTES

    def read(self, image_id: str) -> np.ndarray:
        """Label int32 [height, width] of an image; raises as `read_label`."""
        row = self.rows[image_id]
        if image_id in self._kept:
            packed, dtype = self._kept[image_id]
            flat = np.frombuffer(zlib.decompress(packed), dtype)
            return flat.reshape(row.height, row.width).astype(np.int32)
        label = read_label(row)
        small = label.astype(np.uint8 if label.max() < 256 else np.uint16)  # ids are in 0..65535
        packed = zlib.compress(small.tobytes(), 1)
        if len(packed) <= self._room:
            self._room -= len(packed)
            self._kept[image_id] = packed, small.dtype
        return label


def _classes(labels: _Labels, settings: Evaluate) -> tuple[list[int], dict[str, str]]:
    """Scored label ids, and the digest of every label."""
    confusion = Confusion(1, settings.classes, settings.ignore)
    digests = {}
    for image_id in track(labels.rows, len(labels.rows), "labels"):
        label = labels.read(image_id)
        digests[image_id] = digest(label)
        confusion.add(np.zeros(label.shape, np.uint8), label)
    check_labels(settings, confusion.seen)
    _, present = drop_absent(confusion.counts, confusion.classes)
    return present, digests


def _training(
    ids: Sequence[str], labels: _Labels, where: Mapping[str, Ragged], classes: Sequence[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [m, d] float32 and target mass [m, classes] float32 of at most `MAX_TOKENS` tokens, evenly over images."""
    quota = max(1, MAX_TOKENS // len(ids))
    x, y = [], []
    for image_id in track(ids, len(ids), "tokens"):
        tokens = where[image_id][image_id]  # [h, w, d]
        mass = class_mass(labels.read(image_id), tokens.shape[:2], classes)
        usable = np.flatnonzero(mass.any(axis=1))
        if len(usable) > quota:
            usable = np.sort(rng(seed, image_id).choice(usable, quota, replace=False))
        x.append(tokens.reshape(-1, tokens.shape[2])[usable].astype(np.float32))
        y.append(mass[usable])
    if not sum(map(len, x)):
        raise InputError("evaluate.classes: the training half has no pixel of the scored classes; label more images")
    return np.concatenate(x), np.concatenate(y)


def class_mass(label: np.ndarray, grid: tuple[int, ...], classes: Sequence[int]) -> np.ndarray:
    """Share of each cell's pixels that have each class, [h*w, classes] float32; void pixels are missing from it."""
    (height, width), (h, w) = label.shape, grid
    rows = np.minimum(((np.arange(height) + 0.5) * h / height).astype(np.int64), h - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * w / width).astype(np.int64), w - 1)
    cell = rows[:, None] * w + columns[None]
    order = np.argsort(classes)
    found = np.searchsorted(np.asarray(classes)[order], label).clip(max=len(classes) - 1)
    column = order[found]  # [H, W]
    scored = np.asarray(classes)[column] == label
    counts = np.bincount(cell[scored] * len(classes) + column[scored], minlength=h * w * len(classes))
    pixels = np.bincount(cell.ravel(), minlength=h * w)
    return (counts.reshape(h * w, -1) / np.maximum(pixels, 1)[:, None]).astype(np.float32)


def fit(x: np.ndarray, y: np.ndarray, threads: int = 1, device: str = "auto") -> tuple[Linear, dict[str, float]]:
    """Penalised multinomial logistic regression by full-batch L-BFGS.

    Args:
        x: [m, d] float32. y: [m, classes] float32, the weight of each class in each row.

    Returns:
        The classifier on raw features, and loss, largest gradient and iterations.

    Raises:
        NumericsError: the loss is not finite.
    """
    import torch

    torch.set_num_threads(1)  # rows are split by hand, so that no sum depends on the threads
    place = pick(device)
    mean, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6 * max(scale.max(initial=0), 1e-30), scale, 1.0)  # constant features stay silent
    inputs = torch.from_numpy(((x - mean) / scale).astype(np.float32)).to(place)
    targets = torch.from_numpy(y / y.sum(dtype=np.float64)).float().to(place)  # [m, classes], sums to 1
    weight = torch.zeros(x.shape[1], y.shape[1], device=place, requires_grad=True)
    bias = torch.zeros(y.shape[1], device=place, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    blocks = list(zip(inputs.split(ROWS), targets.split(ROWS), strict=True))
    workers = 1 if place.type == "cuda" else min(threads, len(blocks))

    def part(block: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Cross-entropy of some rows, and its gradients."""
        with torch.no_grad():
            rows, wanted = block
            log = torch.log_softmax(rows @ weight + bias, dim=1)
            pull = log.exp() * wanted.sum(1, keepdim=True) - wanted
            return -(wanted * log).sum(), rows.T @ pull, pull.sum(0)

    def closure() -> torch.Tensor:
        sums = [2 * PENALTY * weight.detach(), torch.zeros_like(bias)]
        loss = PENALTY * weight.detach().square().sum()
        for entropy, *slopes in ordered(part, blocks, workers):
            loss = loss + entropy
            sums = [before + more for before, more in zip(sums, slopes, strict=True)]
        weight.grad, bias.grad = sums
        return loss

    solver.step(closure)  # type: ignore[no-untyped-call]
    loss = float(closure())
    if not np.isfinite(loss):
        raise NumericsError("linear probe: the loss is not finite; check the features for extreme values")
    gradient = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    raw = weight.detach().double().cpu().numpy() / scale[:, None]
    model = Linear(raw.astype(np.float32), (bias.detach().double().cpu().numpy() - mean @ raw).astype(np.float32))
    steps = float(solver.state[weight].get("n_iter", 0))
    return model, {"loss": loss, "gradient": gradient, "iterations": steps, "tokens": float(len(x))}


def argmax_at(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Best class [H, W] of scores [classes, h, w], bilinear; computed in strips of columns to bound the memory."""
    from maskmill.images.interpolate import matrix

    classes, h, _ = scores.shape
    wide = resize_maps(scores, (h, size[1]))  # [classes, h, W]
    down = matrix(h, size[0])
    step = max(1, STRIP // (classes * size[0]))
    strips = [(down @ wide[:, :, left : left + step]).argmax(axis=0) for left in range(0, size[1], step)]
    return np.concatenate(strips, axis=1)
