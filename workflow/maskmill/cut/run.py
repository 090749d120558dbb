"""cut: tokens of each image of a shard -> segments and a confidence."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from maskmill import registry
from maskmill.artefact import Provenance
from maskmill.config import Cut, Model, validate
from maskmill.cut._needs import Extras
from maskmill.cut._together import cut_together
from maskmill.device import pick
from maskmill.errors import ConfigError
from maskmill.progress import track
from maskmill.store import Ragged, RaggedWriter

T = TypeVar("T")
AHEAD = 2  # images cut ahead of the writer, per thread


def run(
    features: str | Path,
    params: dict[str, Any],
    out: str | Path,
    seed: int,
    threads: int,
    device: str = "auto",
    *,
    colour: str | Path | None = None,
) -> None:
    """Cut every image of a feature store into a store of segments; diagnostics are stored once an image.

    Segments are uint8 [h, w] on the token grid, 0 = no segment. Images are independent and each is cut on one thread
    with one BLAS thread, so that the result does not depend on `threads`. Store attributes: `method`, and `outcomes`
    (name -> code of the per-image field `outcome`) where the method has them.

    Args:
        params: the flat section of the recipe: `method`, `features`, `colour`, and the method's own parameters.
        device: auto, cpu, cuda or cuda:0. On CUDA, methods with `cut_batch` cut images of one grid together.
        colour: the feature store that `cut.colour` names, where the section has it; matched by image id.

    Raises:
        ConfigError: unknown method or key, or a value out of range. StoreError: no readable feature store, or it
            lacks what the method needs (see maskmill.cut._needs).
        DeviceError: no such device, or too little memory on it.
        NumericsError: an image with NaN or infinite tokens; nothing is written then.
    """
    import torch

    name, own = _method_params(params)
    method = registry.load("cut", name)
    store = Ragged(features, "features")
    colours = None if colour is None else Ragged(colour, "features")
    extras = Extras(method.needs(own) if hasattr(method, "needs") else (), store, colours)
    inputs = [store.hash] if colours is None else [store.hash, colours.hash]
    made = Provenance.of("cut", params | {"seed": seed}, inputs)
    place = pick(device)
    attrs = {"method": name, "outcomes": getattr(method, "OUTCOMES", {})}

    def one(i: int) -> tuple[np.ndarray, dict[str, Any]]:
        return method.cut(store[i].astype(np.float32), own, seed, store.ids[i], **extras.of(i))

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with RaggedWriter(out, "segments", dtype="uint8", attrs=attrs, provenance=made) as writer:
            if place.type == "cuda" and hasattr(method, "cut_batch"):
                results = iter(cut_together(method, own, store, seed, str(place)))
            else:
                results = track(_in_order(one, len(store), threads), len(store), "cut")
            for image_id, (segments, diagnostics) in zip(store.ids, results, strict=True):
                writer.append(image_id, segments, **{key: np.float32(value) for key, value in diagnostics.items()})
    finally:
        torch.set_num_threads(before)


def _method_params(params: dict[str, Any]) -> tuple[str, Model]:
    """The method's name and its validated parameters."""
    name = params.get("method")
    if not isinstance(name, str):
        raise ConfigError(f"cut.method: {name!r} is not a method; known: {', '.join(registry.available('cut'))}")
    model = registry.load("cut", name).Params
    own = {key: value for key, value in params.items() if key != "method" and key not in Cut.model_fields}
    return name, validate(model, own, "--params", "cut")


def _in_order(one: Callable[[int], T], count: int, threads: int) -> Iterator[T]:
    """one(0), one(1), ... in order, computed on `threads` threads at most a few ahead of the reader."""
    if threads <= 1:
        yield from map(one, range(count))
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for i in range(count):
                waiting.append(pool.submit(one, i))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
