"""What MDC and PiCIE share: features of two views, their clustering at the start of an epoch, labels from centroids.

Cho, Mall, Bala and Hariharan, PiCIE (CVPR 2021). Its code writes the labels of an epoch to disk. Here the centroids and
a copy of the network as it was when they were made are buffers of the training, and a step computes the labels of its
own images from them: the same labels, in the checkpoint, without a file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from maskmill.adapt import _views, _warp
from maskmill.adapt._data import Images, stack
from maskmill.adapt._modules import CodeHead, Projector, unit
from maskmill.adapt._streaming import StreamingKMeans
from maskmill.adapt._training import HeadTraining
from maskmill.adapt._views import SelfLabelParams, ViewParams
from maskmill.device import memory_advice
from maskmill.numerics.sampling import rng

if TYPE_CHECKING:
    from maskmill.adapt._encoder import Encoder


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
        """Class weights [k]."""
        return torch.as_tensor(getattr(self, f"weights{level}")[view])

    def inputs(self, batch: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Boxes [n, 4], and maps [n, d, h, w] that the projector sees of view 1, a crop, and of view 2, the whole."""
        x, boxes, changes = batch
        size = _views.size(x, self.scale, self.multiple)
        with torch.autocast(x.device.type, enabled=False):
            found = [_warp.change(_warp.crop(x, boxes, size), changes[:, 0])]
            if self.views > 1:
                found.append(_warp.change(_warp.resize(x, size), changes[:, 1]))
        return boxes, *found

    def features(self, inputs: Sequence[torch.Tensor], projector: nn.Module | None = None) -> list[torch.Tensor]:
        """Unit features [n, c, h, w] of every view, float32, by the projector that learns; view 2 is cropped here."""
        boxes, *seen = inputs
        maps = [(projector or self.head.projector)(x).float() for x in seen]
        with torch.autocast(boxes.device.type, enabled=False):
            if self.views > 1:
                maps[1] = _warp.crop(maps[1], boxes, (maps[1].shape[2], maps[1].shape[3]))
            return [unit(each) for each in maps]

    @torch.no_grad()
    def frozen_features(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The same by the projector at the start of the epoch, never in half precision."""
        with torch.autocast(inputs[0].device.type, enabled=False):
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
        start, points = min(params.init_batches, length), params.init_points
        streams = [
            [StreamingKMeans(k, start, points, params.iterations, seed + view, False) for view in range(self.views)]
            for k in self.levels
        ]
        device = self.head.prototypes.weight.device
        for arrays in batches:
            tensors = [torch.from_numpy(array).to(device) for array in arrays]
            for view, maps in enumerate(self.frozen_features(self.inputs(tensors))):
                for stream in streams:
                    stream[view].add(_rows(maps))
        for level, stream in enumerate(streams):
            for view, one in enumerate(stream):
                centroids, counts = one.result()
                self.centroids(level, view).copy_(torch.from_numpy(centroids))
                self.weights(level, view).copy_(torch.from_numpy(counts / counts.sum()))


def nearest(maps: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The Euclidean nearest of centroids [k, c] at every place of maps [n, c, h, w]: [n, h, w]."""
    with torch.autocast(maps.device.type, enabled=False):
        return (logits(maps, centroids) - 0.5 * centroids.square().sum(1)[:, None, None]).argmax(1)


def logits(maps: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """The frozen classifier: maps [n, c, h, w] times the rows of centroids [k, c], [n, k, h, w]."""
    return torch.einsum("nchw,kc->nkhw", maps, centroids)


def cross_entropy(scores: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of -log softmax of scores [n, k, h, w] at labels [n, h, w], by the labels' weights [k].

    The same as torch's own loss, whose order of summation on CUDA changes between runs.
    """
    with torch.autocast(scores.device.type, enabled=False):
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
            drawn = (_views.batch(images, params, training, s, length) for s in range(step, step + length))
            model.start_epoch(drawn, length, params, seed)
        return ()

    return before


@torch.no_grad()
def final_tensors(
    model: SelfLabeller, images: Images, params: SelfLabelParams, training: HeadTraining
) -> dict[str, np.ndarray]:
    """Tensors of the head, its prototypes being the spherical k-means centroids of all codes of the whole images."""
    head, size = model.head, params.batch_size
    clusters, steps = len(head.prototypes.weight), -(-len(images) // size)
    seed = int(rng(training.seed, "adapt", "clustering", "last").integers(2**31))
    start = min(params.init_batches, steps)
    stream = StreamingKMeans(clusters, start, params.init_points, params.iterations, seed, True)
    for first in range(0, len(images), size):
        x = stack(images.several(range(first, min(first + size, len(images)))))
        with memory_advice("adapt.batch_size", size):
            stream.add(_rows(head.codes(torch.from_numpy(x).to(training.device))))
    head.prototypes.weight.copy_(torch.from_numpy(stream.result()[0]))
    return {f"head.{name}": value.detach().cpu().numpy() for name, value in head.state_dict().items()}


def _rows(maps: torch.Tensor) -> np.ndarray:
    """Maps [n, c, h, w] as points [m, c]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).cpu().numpy()


def monitors(parts: dict[str, Any], scores: torch.Tensor) -> dict[str, Any]:
    """Losses by part, and how the classes of scores [n, k, h, w] are used."""
    from maskmill.adapt._modules import usage

    return parts | usage(scores.detach())
