"""What MDC and PiCIE share: features of two views, their clustering at the start of an epoch, labels from centroids.

Cho, Mall, Bala and Hariharan, PiCIE (CVPR 2021). Its code writes the labels of an epoch to disk. Here the centroids and
a copy of the network as it was when they were made are buffers of the training, and a step computes the labels of its
own images from them: the same labels, in the checkpoint, without a file.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from maskmill.adapt import _views, _warp
from maskmill.adapt._data import Images, on_device, stack
from maskmill.adapt._modules import CodeHead, Projector, unit
from maskmill.adapt._streaming import StreamingKMeans
from maskmill.adapt._training import HeadTraining
from maskmill.adapt._views import SelfLabelParams, ViewParams
from maskmill.device import float32, memory_advice
from maskmill.numerics import kmeans
from maskmill.numerics.sampling import rng

if TYPE_CHECKING:
    from maskmill.adapt._encoder import Encoder

# The published training on COCO-Stuff: 49 629 images in batches of 128, Adam at 1e-4 (that on Cityscapes: 24 steps at
# 1e-3, 0.6 of the same product).
PUBLISHED_STEPS, PUBLISHED_RATE = 388, 1e-4
FINAL_POINTS = 500_000  # codes that the prototypes are made of, at most


def small_head(depth: int, params: ViewParams, encoder: Encoder | None) -> nn.Module:
    """The small head in place of a feature pyramid: a 1x1 convolution, plus a two-layer branch where `hidden` > 0.

    With an encoder the head stands on the backbone, which learns as well.
    """
    head: nn.Module = nn.Conv2d(depth, params.dimensions, 1)
    if params.hidden:
        head = Projector(depth, params.dimensions, 0.0, hidden=params.hidden)
    if encoder is None:
        return head
    from maskmill.adapt._encoder import BackboneWithHead

    return BackboneWithHead(encoder, head)


def epoch(images: int, params: SelfLabelParams) -> int:
    """Steps of an epoch, after which everything is clustered and labelled anew.

    By default one pass over the images, but no fewer steps than are needed to learn the labels: Adam moves a weight by
    at most about its learning rate in a step, so steps times rate is how far an epoch can move it. That product is at
    least the published one, or a new classifier is forgotten before it has learnt anything. A training that is
    shorter is one epoch.
    """
    if params.epoch_steps:
        return params.epoch_steps
    least = math.ceil(PUBLISHED_STEPS * PUBLISHED_RATE / params.learning_rate * (1 - 1e-9))
    return max(_views.span(images, params), min(least, params.steps))


def rates(trunk: nn.Module, others: Iterable[nn.Parameter], params: ViewParams) -> list[tuple[Any, float]]:
    """Parameter groups of a `small_head` and of what else learns: a backbone has a learning rate of its own."""
    below = [p for name, p in trunk.named_parameters() if name.startswith("model.")]  # of a BackboneWithHead
    own = {id(p) for p in below}
    head = [*(p for p in trunk.parameters() if id(p) not in own), *others]
    groups: list[tuple[Any, float]] = [(head, params.learning_rate)]
    return [*groups, (below, params.backbone_rate)] if below else groups


class UnitHead(CodeHead):
    """A head whose codes have unit length; its prototypes are centroids of codes, computed after the training."""

    def __init__(self, projector: nn.Module, clusters: int, dimensions: int) -> None:
        super().__init__(projector, clusters, dimensions)
        self.prototypes.requires_grad_(False)

    def codes(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens [n, d, h, w] -> codes [n, c, h, w] of unit length."""
        return unit(self.projector(x).float())


class SelfLabeller(nn.Module):
    """The head, and what the labels of an epoch are computed from.

    Attributes:
        frozen: the projector at the start of the epoch. levels: numbers of clusters.
        scale, multiple: see `_views.size`.
        centroids<l> [views, k, c], weights<l> [views, k]: of level l; a weight is the share of a cluster's tokens.
    """

    def __init__(self, head: UnitHead, levels: Sequence[int], views: int, scale: float, multiple: int = 1) -> None:
        super().__init__()
        self.head, self.levels, self.views, self.scale, self.multiple = head, tuple(levels), views, scale, multiple
        self.frozen = copy.deepcopy(head.projector).requires_grad_(False)
        c = head.prototypes.weight.shape[1]
        for level, k in enumerate(levels):
            self.register_buffer(f"centroids{level}", torch.zeros(views, k, c, device=head.prototypes.weight.device))
            self.register_buffer(f"weights{level}", torch.ones(views, k, device=head.prototypes.weight.device))

    def centroids(self, level: int, view: int) -> torch.Tensor:
        """Centroids [k, c]."""
        return torch.as_tensor(getattr(self, f"centroids{level}")[view])

    def weights(self, level: int, view: int) -> torch.Tensor:
        """Class weights [k]; ones without `balance`."""
        return torch.as_tensor(getattr(self, f"weights{level}")[view])

    def inputs(self, batch: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Boxes [n, 4], and maps [n, d, h, w] that the projector sees of view 1, a crop, and of view 2, the whole."""
        x, boxes, changes = batch
        size = _views.size(x, self.scale, self.multiple)
        with float32(x.device):
            found = [_warp.change(_warp.crop(x, boxes, size), changes[:, 0])]
            if self.views > 1:
                found.append(_warp.change(_warp.resize(x, size), changes[:, 1]))
        return boxes, *found

    def features(self, inputs: Sequence[torch.Tensor], projector: nn.Module | None = None) -> list[torch.Tensor]:
        """Unit features [n, c, h, w] of every view, float32, by the projector that learns; view 2 is cropped here."""
        boxes, *seen = inputs
        maps = [(projector or self.head.projector)(x).float() for x in seen]
        with float32(boxes.device):
            if self.views > 1:
                maps[1] = _warp.crop(maps[1], boxes, (maps[1].shape[2], maps[1].shape[3]))
            return [unit(each) for each in maps]

    @torch.no_grad()
    def frozen_features(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The same by the projector at the start of the epoch, never in half precision."""
        with float32(inputs[0].device):
            return self.features(inputs, self.frozen)

    def labels(self, frozen: torch.Tensor, level: int, view: int) -> torch.Tensor:
        """The Euclidean nearest centroid [n, h, w] of frozen features [n, c, h, w] of a view."""
        return nearest(frozen, self.centroids(level, view))

    def start_epoch(
        self, batches: Iterator[tuple[np.ndarray, ...]], length: int, params: SelfLabelParams, seed: int
    ) -> None:
        """Start an epoch: freeze a copy of the projector, cluster what it makes of the epoch's `length` batches.

        Raises:
            NumericsError: features that are not finite, or fewer distinct ones than clusters.
        """
        self.frozen.load_state_dict(self.head.projector.state_dict())
        device = self.head.prototypes.weight.device
        start = min(params.init_batches, length)

        def stream(k: int, view: int) -> StreamingKMeans:
            own = kmeans.Settings(clusters=k, spherical=False, restarts=1, iterations=params.iterations, tolerance=0.0)
            return StreamingKMeans(own, start, params.init_points, seed + view, device)

        streams = [[stream(k, view) for view in range(self.views)] for k in self.levels]
        for arrays in batches:
            tensors = [on_device(array, device) for array in arrays]
            for view, maps in enumerate(self.frozen_features(self.inputs(tensors))):
                for level in streams:
                    level[view].add(_rows(maps))
        for i, level in enumerate(streams):
            for view, one in enumerate(level):
                centroids, counts = one.result()
                self.centroids(i, view).copy_(torch.from_numpy(centroids))
                if params.balance:
                    self.weights(i, view).copy_(torch.from_numpy(counts / counts.sum()))


def nearest(maps: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The Euclidean nearest of centroids [k, c] at every place of maps [n, c, h, w]: [n, h, w]."""
    with float32(maps.device):
        return (logits(maps, centroids) - 0.5 * centroids.square().sum(1)[:, None, None]).argmax(1)


def logits(maps: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The frozen classifier: maps [n, c, h, w] times the rows of centroids [k, c], [n, k, h, w]."""
    return torch.einsum("nchw,kc->nkhw", maps, centroids)


def cross_entropy(scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of -log softmax of scores [n, k, h, w] at labels [n, h, w], by the labels' weights [k].

    The same as torch's own loss, whose order of summation on CUDA changes between runs.
    """
    with float32(scores.device):
        found = scores.float().log_softmax(1).gather(1, labels[:, None])[:, 0]
        share = weights[labels]
        return -(share * found).sum() / share.sum().clamp_min(1e-12)


def epoch_clustering(
    model: SelfLabeller, images: Images, params: SelfLabelParams, training: HeadTraining, length: int
) -> Callable[[int], Sequence[nn.Parameter]]:
    """A function for `HeadTask.before`: before the first step of an epoch the views of all its steps are clustered."""

    def before(step: int) -> Sequence[nn.Parameter]:
        if step % length == 0:
            seed = int(rng(training.seed, "adapt", "clustering", str(step)).integers(2**31))
            drawn = (_views.batch(images, params, training, s) for s in range(step, step + length))
            model.start_epoch(drawn, length, params, seed)
        return ()

    return before


@torch.no_grad()
def final_tensors(
    model: SelfLabeller, images: Images, params: SelfLabelParams, training: HeadTraining
) -> dict[str, np.ndarray]:
    """Tensors of the head, its prototypes being the spherical k-means centroids of codes of the whole images.

    It is the k-means of `cluster: kmeans` with that method's own settings, on all codes, or on FINAL_POINTS of them,
    even over the images.
    """
    head, size = model.head, params.batch_size
    clusters, steps = len(head.prototypes.weight), -(-len(images) // size)
    seed = int(rng(training.seed, "adapt", "clustering", "last").integers(2**31))
    stream = StreamingKMeans(kmeans.Settings(clusters=clusters), steps, FINAL_POINTS, seed, training.device)
    for first in range(0, len(images), size):
        x = stack(images.several(range(first, min(first + size, len(images)))))
        with memory_advice("adapt.batch_size", size):
            stream.add(_rows(head.codes(on_device(x, training.device))))
    head.prototypes.weight.copy_(torch.from_numpy(stream.result()[0]))
    return {f"head.{name}": value.detach().cpu().numpy() for name, value in head.state_dict().items()}


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """Maps [n, c, h, w] as points [m, c]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def monitors(parts: dict[str, Any], scores: torch.Tensor) -> dict[str, Any]:
    """Losses by part, and how the classes of scores [n, k, h, w] are used."""
    from maskmill.adapt._modules import usage

    return parts | usage(scores.detach())
