"""cut: tokens of each image of a shard -> segments and a confidence."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from maskmill import registry
from maskmill.artefact import Provenance
from maskmill.progress import track
from maskmill.store import Ragged, RaggedWriter


def run(features: Path, params: dict[str, Any], out: Path, seed: int, threads: int) -> None:
    """Cut every image of a feature store; diagnostics are stored once an image.

    Images are independent: with several threads each is cut on one of them, so the result does not depend on
    their number.
    """
    import torch

    torch.set_num_threads(1)
    method = registry.load("cut", params["method"])
    own = method.Params.model_validate({k: v for k, v in params.items() if k in method.Params.model_fields})
    store = Ragged(features, "features")
    made = Provenance.of("cut", params | {"seed": seed}, [store.hash])

    def one(i: int) -> tuple[np.ndarray, dict[str, float]]:
        return method.cut(store[i].astype(np.float32), own, seed, store.ids[i])

    with RaggedWriter(out, "segments", dtype="uint8", attrs={"method": params["method"]}, provenance=made) as writer:
        for i, (segments, diagnostics) in enumerate(track(_each(one, len(store), threads), len(store), "cut")):
            scalars = {name: np.float32(value) for name, value in diagnostics.items()}
            writer.append(store.ids[i], segments, **scalars)


def _each(one: Callable[[int], Any], count: int, threads: int) -> Any:
    """Results of one(0), one(1), ... in order; at most `4 * threads` ahead of the reader."""
    if threads <= 1:
        yield from map(one, range(count))
        return
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, count, 4 * threads):
            yield from pool.map(one, range(first, min(first + 4 * threads, count)))
