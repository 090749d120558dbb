"""CAUSE: thousands of concepts by modularity say which tokens a head pulls together and which it pushes apart.

Kim, Lee and Ro, Causal unsupervised semantic segmentation (2023). Three trainings follow each other, as its three
programs do. A codebook of concepts learns to group the tokens of an image with a large modularity. A head learns by a
contrast of its student with its teacher, the moving average: pairs of tokens whose concepts have a cosine above `near`
are positives, below `far` negatives, within the batch and with a bank of the teacher's older projections. Last, the
prototypes of the clusters learn on the teacher's codes by the same modularity as the codebook.

The head is a decoder whose queries are the tokens' concepts (`head: tr`, published as CAUSE-TR), or STEGO's projector
(`mlp`). Losses look at a random token of every `stride` x `stride` ones.

What differs, as only tokens are seen: crops are crops of stored tokens; positions are learnt on a grid of `positions` a
side and laid on that of the tokens, which has one size in the published code. With `centre`, not in the paper, the
mean token is subtracted first: tokens of a CNN, all positive, are otherwise so alike that all are of one concept. The
linear probe, which learns with labels, is not there; in the published code its gradient counts in the clipped norm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from maskmill.adapt import Traits
from maskmill.adapt.cause.params import Params as Params

if TYPE_CHECKING:
    import torch

    from maskmill.adapt._data import TokenImages
    from maskmill.adapt._training import HeadTraining

TRAITS = Traits(neighbours=False, per_image=False, crops=True, trains_backbone=False)
MONITORS = ("modularity", "contrast", "positives", "banked", "entropy", "used", "largest")
MEANS = 1024  # images that the mean token is read from


def code_length(params: Params, clusters: int) -> int:
    """Length of a code: dimensions."""
    return params.dimensions


def build(depth: int, params: Params, clusters: int) -> torch.nn.Module:
    """The head: `codes` [n, d, h, w] -> [n, c, h, w] of the teacher, `codebook` and `prototypes`."""
    from maskmill.adapt.cause.segment import CauseHead

    return CauseHead(depth, params, clusters)


def fit(images: TokenImages, params: Params, training: HeadTraining) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train; tensors `head.*`, and diagnostics: loss (of the three trainings in turn), monitors (entropy, used,
    largest: of the concepts, in the last training of the clusters; positives: share of the batch's pairs).

    Raises:
        NumericsError: a loss that is not finite.
    """
    from maskmill.adapt import _trainer
    from maskmill.adapt._data import order, stack
    from maskmill.adapt.cause.segment import CauseHead, Learner, without_training

    learner: Learner = _trainer.seeded(
        training, lambda: Learner(CauseHead(images.depth, params, training.clusters), params)
    )
    head, moved = learner.head, learner.learning()
    if params.centre:
        head.mean.copy_(mean_token(images, training.seed))
    vectors = [head.codebook, head.prototypes.weight]
    losses = Losses(learner, params)

    def batch(step: int) -> list[tuple[np.ndarray, ...]]:
        items = order(step, params.batch_size, images.items(params.crops), training.seed)
        return [(stack([images.item(j, params.crops) for j in items]),)]

    def after(step: int) -> None:
        if phase(step, params) == "head":
            learner.follow(params.momentum if step > params.codebook_steps else 0.0)
            learner.remember(*losses.pending, _trainer.generator(training, "bank", str(step)))

    resting = {"codebook": [*moved, vectors[1]], "head": vectors, "probe": [*moved, vectors[0]]}
    task = _trainer.HeadTask(
        learner, [(moved, params.learning_rate), *(([v], params.learning_rate) for v in vectors)],
        batch, losses, params.steps, params.batch_size, monitors=MONITORS, after=after,
        rate=lambda step: rate(step, params), clip=params.clip, clipped=moved, weight_decay=params.weight_decay,
        undecayed=vectors, resting=lambda step: resting[phase(step, params)],
    )  # fmt: skip
    tensors, diagnostics = _trainer.train(task, training)
    return without_training(tensors), diagnostics


def phase(step: int, params: Params) -> Literal["codebook", "head", "probe"]:
    """What learns at a step."""
    if step < params.codebook_steps:
        return "codebook"
    return "head" if step < params.steps - params.probe_steps else "probe"


def rate(step: int, params: Params) -> float:
    """Factor of the learning rate: 1, and for the prototypes halved after two and after four fifths of their steps."""
    done = step - (params.steps - params.probe_steps)
    return float(0.5 ** (5 * done // (2 * params.probe_steps))) if done >= 0 else 1.0


class Losses:
    """The loss of a step, whichever of the three trainings it belongs to.

    Attributes:
        pending: concepts [m] and unit projections [m, p] of the teacher, for the bank.
    """

    pending: tuple[torch.Tensor, torch.Tensor]

    def __init__(self, learner: Any, params: Params) -> None:
        self.learner, self.head, self.params = learner, learner.head, params

    def __call__(self, batch: tuple[torch.Tensor, ...], draws: torch.Generator, step: int) -> Any:
        x = self.head.seen(batch[0])
        places = drawn_places(x, self.params.stride, draws)
        now = phase(step, self.params)
        if now == "head":
            return self.contrast(x, places, draws)
        if now == "codebook":
            return self.modularity(x, self.head.codebook, places)
        return self.modularity(self.teacher_codes(x, draws), self.head.prototypes.weight, places)

    def modularity(self, maps: torch.Tensor, vectors: torch.Tensor, places: torch.Tensor) -> Any:
        """Minus the modularity of maps [n, ., h, w] grouped by vectors [k, .]."""
        from maskmill.adapt._modularity import codebook_modularity
        from maskmill.adapt._modules import full, usage
        from maskmill.device import float32

        rows = full(rows_at(maps, places))
        with float32(rows.device):  # a difference of nearly equal numbers
            found = codebook_modularity(rows, vectors, self.params.sharpness).mean()
        parts = {"modularity": found} | usage(self.head.scores(rows, vectors.detach()))
        return -found, len(rows), parts

    def contrast(self, x: torch.Tensor, places: torch.Tensor, draws: torch.Generator) -> Any:
        """The contrast of the student's projections with the teacher's, in the batch and in the bank."""
        import torch

        from maskmill.adapt._modules import full, unit, usage
        from maskmill.adapt.cause.contrast import Limits, contrast
        from maskmill.adapt.cause.segment import concepts_of
        from maskmill.device import float32

        learner, codebook = self.learner, self.head.codebook
        with torch.no_grad():
            other = unit(full(learner.projection_teacher(rows_at(self.teacher_codes(x, draws), places))), 2)
        codes = rows_at(learner.student(x, codebook.detach(), draws), places)
        own = unit(full(learner.projection(codes)), 2)
        rows = full(rows_at(x, places))
        concepts = concepts_of(rows, codebook)
        self.pending = concepts.flatten(), other.flatten(0, 1)
        bank = learner.kept()
        with float32(x.device):
            axes = unit(codebook.detach().float())
            limits = Limits(self.params.temperature, self.params.near, self.params.far)
            value, positives = contrast(own, other, concepts, bank, axes @ axes.T, limits)
        parts = {"contrast": value, "positives": positives, "banked": torch.tensor(float(len(bank[0])))}
        return value, len(x), parts | usage(self.head.scores(rows, codebook.detach()))

    def teacher_codes(self, x: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        """Codes [n, c, h, w] of the teacher, with entries hidden as published, without a gradient."""
        import torch

        with torch.no_grad():
            return torch.as_tensor(self.head.teacher(x, self.head.codebook, draws))


def mean_token(images: TokenImages, seed: int) -> torch.Tensor:
    """The mean [d] of the tokens of up to MEANS drawn images, each of which counts the same."""
    import torch

    from maskmill.numerics.sampling import rng

    drawn = rng(seed, "adapt", "mean").permutation(len(images))[:MEANS]
    rows = [images[int(i)].reshape(-1, images.depth).mean(0, dtype=np.float64) for i in drawn]
    return torch.from_numpy(np.mean(rows, axis=0)).float()


def drawn_places(x: torch.Tensor, stride: int, draws: torch.Generator) -> torch.Tensor:
    """Places [n, t] in the flat grids of x [n, d, h, w]: a random one of every square of `stride` tokens a side.

    Tokens beyond the last whole square are in none; in a grid smaller than a square, squares are as large as fit.
    """
    import torch

    n, _, h, w = x.shape
    side = min(stride, h, w)
    at = torch.randint(side * side, (n, h // side, w // side), generator=draws, device=x.device)
    row = torch.arange(h // side, device=x.device)[:, None] * side + at // side
    column = torch.arange(w // side, device=x.device) * side + at % side
    return (row * w + column).flatten(1)


def rows_at(maps: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Vectors [n, t, c] of maps [n, c, h, w] at places [n, t]."""
    flat = maps.flatten(2)
    return flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1)).mT
