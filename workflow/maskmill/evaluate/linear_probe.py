"""The linear probe: how much a linear classifier reads out of frozen features. An upper mark for clusterings of them.

The codes of a head are probed as the feature set that it was learnt on, so that the difference is what the head did.

Multinomial logistic regression is fitted on the tokens of one half of the labelled images (see `readout`) and scored
on the pixels of the other. A token's target is the share of each class among the pixels it covers, weighted by its
share of scored pixels: the cross-entropy of its pixels, without the pixels. The problem is convex, full-batch L-BFGS
solves it, nothing is random but which tokens are drawn when there are too many.
"""

from __future__ import annotations

import numpy as np

from maskmill.evaluate.readout import Half, Reading, no_pixel
from maskmill.numerics import multinomial
from maskmill.numerics.multinomial import Linear as Linear
from maskmill.numerics.sampling import rng
from maskmill.progress import track
from maskmill.recipe.scoring import Evaluate

MAX_TOKENS = 200_000  # training tokens in memory
PENALTY = 1e-4  # on the squared weights, per standardised feature, against the mean cross-entropy


def learn(half: Half, settings: Evaluate, seed: int, threads: int) -> Reading:
    """Fit the probe; see `readout.Readout`."""
    x, y = sampled(half, MAX_TOKENS, seed)
    model, diagnostics = fit(np.concatenate(x), np.concatenate(y), threads)
    return Reading(model, {"max_tokens": MAX_TOKENS, "l2": PENALTY}, diagnostics)


def sampled(half: Half, limit: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens [m, d] and target mass [m, classes], float32, of every image: `limit` tokens in all, evenly over images.

    A token without a scored pixel has no target and is left out, so that an image may have none.
    """
    quota = max(1, limit // len(half.ids))
    x, y = [], []
    for image_id, tokens, mass in track(half.images(), len(half.ids), "tokens"):
        usable = np.flatnonzero(mass.any(axis=1))
        if len(usable) > quota:
            usable = np.sort(rng(seed, image_id).choice(usable, quota, replace=False))
        x.append(tokens[usable].astype(np.float32))
        y.append(mass[usable])
    if not sum(map(len, x)):
        raise no_pixel()
    return x, y


def fit(x: np.ndarray, y: np.ndarray, threads: int = 1, device: str = "auto") -> tuple[Linear, dict[str, float]]:
    """Penalised multinomial logistic regression by full-batch L-BFGS.

    Args:
        x: [m, d] float32. y: [m, classes] float32, the weight of each class in each row.

    Returns:
        The classifier on raw features, and loss, largest gradient and iterations.

    Raises:
        NumericsError: the loss is not finite.
    """
    return multinomial.fit(x, y, PENALTY, threads, device)
