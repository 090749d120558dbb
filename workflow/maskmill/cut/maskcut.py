"""MaskCut: several objects by cutting, painting over what was found, and cutting again.

Wang, Girdhar, Yu, Misra, "Cut and learn for unsupervised object detection and instance segmentation", CVPR 2023,
section 3.2. Each cut is TokenCut's; tokens of the masks found so far are taken out of the graph (their affinity is
eps). Which side is the object: where one side holds three or four of the image's corners, the other; else the side of
the largest |y|. (The published code looks at one side only, so that it depends on the sign that LAPACK returned.)

The default rules differ from the published code where that misbehaves: the first rejected mask ends the image (there, a
rejected second mask comes back as the third), a mask is compared with all before it (there, with the last one only),
any grid is allowed (there, square ones), and a cut that is hardly better than separating the painted tokens from the
rest is no object. `compat: cutler` reproduces the published rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from maskmill.cut import Need, Traits
from maskmill.cut._painting import OUTCOMES, Painter
from maskmill.errors import ConfigError
from maskmill.recipe.base import Model

TRAITS = Traits(batched=True, outcomes=OUTCOMES)


class Params(Model):
    """Symbols of the paper."""

    tau: float = Field(0.15, ge=0, lt=1, description="cosine above which two tokens are joined")
    eps: float = Field(1e-5, ge=1e-8, le=0.1, description="weight of every other pair")
    masks: int = Field(3, ge=1, le=64, description="N: objects an image, at most")
    overlap: float = Field(0.5, gt=0, le=1, description="IoU with all masks before, above which a mask is rejected")
    min_area: float = Field(0.01, ge=0, lt=1, description="share of the tokens that a mask after the first must add")
    max_lambda: float = Field(
        0.9, gt=0, le=1, description="no object where lambda_2 exceeds this times the unpainted share"
    )
    split: bool = Field(False, description="each connected part of the object's side is an object, not the seed's only")
    compat: Literal["cutler"] | None = Field(None, description="cutler: the published code's rules (square grids)")

    @model_validator(mode="after")
    def _published(self) -> Params:
        fixed = {"overlap": 0.5, "min_area": 0.01, "max_lambda": 0.9, "split": False}
        changed = [key for key, value in fixed.items() if self.compat and getattr(self, key) != value]
        if changed:
            raise ValueError(f"compat: cutler has its own rules; drop {', '.join(changed)} or compat")
        return self


def needs(params: Params) -> tuple[Need, ...]:
    """Nothing but the tokens."""
    return ()


def regions_per_image(params: Params, code_length: int) -> int:
    """A segment a mask."""
    return params.masks


def cut(tokens: np.ndarray, params: Params, seed: int, image_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Objects 1..k of tokens [h, w, d], disjoint (uint8 [h, w], a mask less the masks before it), and diagnostics.

    Diagnostics, all float but the last:
        confidence, lambda_2, lambda_3, gap, density, rivals, steps, residual, outcome: of the first cut, as in
            `maskmill.cut.ncut.cut`; one more outcome, "weak cut": lambda_2 above max_lambda.
        masks: k. ending: why there are no more, see `maskmill.cut._painting.ENDINGS`.
        scores: float32 [N], scores[i - 1] of object i: the confidence of the cut that made it; 0 beyond k.

    Raises:
        NumericsError: a token is NaN or infinite. ConfigError: compat with a grid that is not square.
    """
    import torch

    from maskmill.cut._affinity import BinaryAffinity
    from maskmill.cut._engine import solve
    from maskmill.cut._tokens import flat_tokens
    from maskmill.numerics.sampling import rng

    h, w = tokens.shape[:2]
    _check_grid(h, w, params, image_id)
    painter, generator = Painter(h, w, params), rng(seed, image_id, "lanczos")
    affinity = BinaryAffinity.of(torch.from_numpy(flat_tokens(tokens, image_id)), params.tau, params.eps)
    while painter.goes_on(affinity.density):
        painter.take(solve(affinity, 1, generator), affinity.density)
        if painter.ending is None:
            affinity = affinity.painted(torch.from_numpy(painter.keep.ravel()))
    return painter.result()


def cut_batch(
    tokens: np.ndarray, params: Params, seed: int, ids: Sequence[str], device: str
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """`cut` for images of one grid, tokens [b, h, w, d], together on a device."""
    import torch

    from maskmill.cut._affinity import BinaryBatch
    from maskmill.cut._batch import solve_batch
    from maskmill.cut._tokens import flat_tokens
    from maskmill.numerics.sampling import rng

    h, w = tokens.shape[1:3]
    _check_grid(h, w, params, ids[0])
    flat = np.stack([flat_tokens(image, image_id) for image, image_id in zip(tokens, ids, strict=True)])
    batch = BinaryBatch.of(torch.from_numpy(flat).to(device), params.tau, params.eps)
    painters = [Painter(h, w, params) for _ in ids]
    running = list(zip(painters, [rng(seed, image_id, "lanczos") for image_id in ids], strict=True))
    while True:
        going = [i for i, (painter, _) in enumerate(running) if painter.goes_on(batch.density[i])]
        if not going:
            return [painter.result() for painter in painters]
        batch, running = batch.select(going), [running[i] for i in going]
        spectra = solve_batch(batch, 1, [generator for _, generator in running])
        for (painter, _), spectrum, density in zip(running, spectra, batch.density, strict=True):
            painter.take(spectrum, density)
        batch = batch.painted(torch.from_numpy(np.stack([painter.keep.ravel() for painter, _ in running])))


def _check_grid(h: int, w: int, params: Params, image_id: str) -> None:
    if params.compat and h != w:
        raise ConfigError(
            f"{image_id}: cut.compat: the published MaskCut needs a square grid, this image has {h}x{w} tokens; "
            "set features.<name>.size: {square: 480} or drop compat"
        )
