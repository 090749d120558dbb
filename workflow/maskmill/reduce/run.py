"""Files of the reduce stage: fit on a sample of all shards, then transform shard by shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError, UserError
from maskmill.recipe.model import Stage
from maskmill.reduce import FittedMethod
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.store.valid import all_valid_only

BLOCK = 8192  # rows a block of the fit
TOKENS = "float16"  # how reduced tokens are stored


def fit(stores: Sequence[str | Path], params: Mapping[str, Any], seed: int, out: str | Path, threads: int) -> None:
    """Fit the reduction on at most `max_fit_points` vectors of all shards and write the model as safetensors.

    Args:
        stores: one Ragged of vectors [d] a shard; the result does not depend on how images are spread over them.
        params: the flat `reduce` section of the recipe.
    """
    import torch

    from maskmill.numerics.blocks import by_id
    from maskmill.numerics.sampling import sample_rows
    from maskmill.reduce._graph import check_memory

    torch.set_num_threads(threads)
    stage = Stage.of("reduce", params)
    method: FittedMethod = stage.module
    own = stage.params
    opened = all_valid_only([Ragged(path) for path in stores])
    limit = int(stage.settings.max_fit_points or method.TRAITS.max_fit_points)
    total = sum(int(store.offsets[-1]) for store in opened)
    if method.TRAITS.bounded_memory:  # before anything is read
        d = next((store.depth or 1 for store in opened), 1)
        check_memory(min(total, limit), d, method.row_bytes(d, own), method.memory_gb(own))
    if total > limit:
        sample = sample_rows(opened, limit, seed)

        def blocks() -> Iterator[np.ndarray]:
            return (sample[start : start + BLOCK] for start in range(0, len(sample), BLOCK))
    else:

        def blocks() -> Iterator[np.ndarray]:
            return by_id(opened, BLOCK)

    model, diagnostics = method.fit(blocks, own, seed)
    tensors = {f"diagnostics.{key}": np.array(value) for key, value in diagnostics.items()}
    provenance = Provenance.of("reduce", dict(params) | {"seed": seed}, [store.hash for store in opened])
    write_tensors(out, model | tensors, provenance)


class Reduction:
    """A fitted reduction, applied to the vectors of one image after the other.

    Args:
        model: safetensors of `fit`. params: the flat `reduce` section; None: the one that the model was fitted with.

    Attributes:
        depth: length of a reduced vector. hash: of what made the model.

    Raises:
        StoreError: the file is no such model.
    """

    def __init__(self, model: str | Path, params: Mapping[str, Any] | None = None) -> None:
        fitted, made_by = read_tensors(model)
        if made_by.get("stage") != "reduce":
            raise StoreError(f"{model}: not a model of the reduce stage; check the path")
        stage = Stage.of("reduce", _section_of(made_by), str(model)) if params is None else Stage.of("reduce", params)
        self._method: FittedMethod = stage.module
        self._own = stage.params
        self.depth, self.hash = int(self._method.depth(fitted)), str(made_by.get("hash", ""))
        self._ready = self._method.prepare(fitted, self._own)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Vectors [h, w, d] -> [h, w, depth] float32."""
        h, w, d = values.shape
        reduced = self._method.transform(values.reshape(h * w, d), self._ready, self._own)
        return reduced.reshape(h, w, self.depth)


def _section_of(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """The flat `reduce` section that a model was fitted with: what its file tells of it, less the seed."""
    return {key: value for key, value in made_by["params"].items() if key != "seed"}


def transform(store: str | Path, model: str | Path, params: Mapping[str, Any], out: str | Path, threads: int) -> None:
    """Transform one shard, an image at a time: a Ragged of the same kind, ids, grids and per-image fields but `cls`.

    Values are float16 for tokens (kind features), float32 for region vectors.
    """
    import torch

    from maskmill.progress import track

    torch.set_num_threads(threads)
    reduction, source = Reduction(model, params), Ragged(store)
    names = [name for name in source.per_image_names if name != "cls"]
    fields = {name: source.per_image(name) for name in names}
    made, depth = Provenance.of("reduce", params, [source.hash, reduction.hash]), reduction.depth
    dtype = TOKENS if source.kind == "features" else "float32"
    with RaggedWriter(out, source.kind, depth=depth, dtype=dtype, attrs=source.attrs, provenance=made) as writer:
        for i, (image_id, values) in track(enumerate(source.images()), len(source), "reduce"):
            try:
                reduced = reduction(values)
            except UserError as error:
                raise type(error)(f"{source.path}: {image_id}: {error}") from None
            kept = {name: fields[name][i] for name in names}
            writer.append(image_id, reduced, valid=source.valid(i), parent=source.parent(i), **kept)
