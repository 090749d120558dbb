"""DeepCluster-v2 at work: the bank of vectors, its clusterings, and the prediction of clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from maskmill.backbones.learning import Learning
from maskmill.device import autocast, float32
from maskmill.errors import ConfigError
from maskmill.pretrain._embedder import Embedder
from maskmill.pretrain._learner import Group, Learner, Outputs
from maskmill.pretrain._multicrop import LARGE
from maskmill.pretrain.deepcluster.clustering import IGNORED, cluster_loss, spherical_kmeans
from maskmill.pretrain.deepcluster.settings import Params

if TYPE_CHECKING:
    from maskmill.pretrain._views import Photos, Views


@dataclass(frozen=True)
class Seen:
    """Of a whole batch: vectors of the large crops [b, large crops, c], and their photos [b]."""

    vectors: torch.Tensor
    items: torch.Tensor


class DeepCluster(Learner):
    """The network, its head, the bank and what was made of it; monitors: see `_monitors`.

    Attributes:
        bank: [large crops, photos, c], the last vector of each. known: bool [photos], those that have one.
        clusters: int64 [clusterings, photos]. centroids<i>: [k, c] of each clustering. key: seed of their starts.
    """

    monitors = ("found", "used", "largest")
    bank: torch.Tensor
    known: torch.Tensor
    clusters: torch.Tensor
    key: torch.Tensor

    def __init__(self, network: Learning, params: Params, photos: int) -> None:
        super().__init__()
        if max(params.clusters) > photos:
            raise ConfigError(
                f"pretrain.clusters: {max(params.clusters)} clusters of {photos} photos; set no more than a tenth of "
                f"them, as [{', '.join([str(max(2, photos // 10))] * len(params.clusters))}]"
            )
        self.params, self.student = params, network
        self.head = Embedder(network.depth, params.hidden, params.dimensions)
        self.epoch = -(-photos // params.batch_size)
        self.register_buffer("bank", torch.zeros(LARGE, photos, params.dimensions))
        self.register_buffer("known", torch.zeros(photos, dtype=torch.bool))
        self.register_buffer("clusters", torch.full((len(params.clusters), photos), IGNORED))
        self.register_buffer("key", torch.randint(2**31, ()))
        for i, k in enumerate(params.clusters):
            self.register_buffer(f"centroids{i}", torch.zeros(k, params.dimensions))

    def centroids(self, i: int) -> torch.Tensor:
        """Centroids [k, c] of a clustering."""
        return torch.as_tensor(getattr(self, f"centroids{i}"))

    def groups(self) -> list[Group]:
        """Everything is decayed and scaled, as by the published optimiser."""
        return [Group([p for p in self.parameters() if p.requires_grad])]

    @torch.no_grad()
    def before(self, step: int, photos: Photos) -> Sequence[nn.Parameter]:
        """At the start of an epoch, cluster the bank; before the first one, fill it."""
        if step % self.epoch == 0:
            if not bool(self.known.any()):
                self._fill(step, photos)
            with float32(self.bank.device):
                self._cluster(step)
        return ()

    def _fill(self, step: int, photos: Photos) -> None:
        """Vectors of the views of an epoch's steps, by the network as it is, each of the large crops for itself."""
        device = self.bank.device
        for later in range(step, step + self.epoch):
            for places in photos.micro_batches(later):
                seen = photos.shown(photos.read([places])[0], device)
                with autocast(device):
                    vectors = torch.cat([self.head(self.student, [picture]) for picture in seen.pictures[:LARGE]])
                self._remember(vectors, seen.items)

    def _remember(self, vectors: torch.Tensor, items: torch.Tensor) -> None:
        """Vectors [large crops, b, c] of photos [b] into the bank; of a photo that comes twice the last one stays."""
        last = {item: row for row, item in enumerate(items.tolist())}
        chosen, rows = (torch.tensor(list(each), device=self.bank.device) for each in (last.keys(), last.values()))
        self.bank[:, chosen] = vectors[:, rows].to(self.bank.dtype)
        self.known[chosen] = True

    def _cluster(self, step: int) -> None:
        """Each clustering from vectors of one of the large crops, in turn, starting from vectors that are drawn."""
        draws = torch.Generator().manual_seed(int(self.key) + step)
        known = self.known.nonzero()[:, 0]
        for i, k in enumerate(self.params.clusters):
            vectors = self.bank[i % LARGE, known]
            start = torch.randperm(len(known), generator=draws)[:k].to(vectors.device)
            centroids, nearest = spherical_kmeans(vectors, vectors[start], self.params.iterations)
            self.centroids(i)[: len(centroids)] = centroids
            self.clusters[i, known] = nearest

    def outputs(self, views: Views, draws: torch.Generator, step: int) -> Outputs:
        """Vectors of all crops [crops, n, c], and the photos [n]."""
        return {"vectors": self.head(self.student, views.pictures), "items": views.items}

    def shared(self, outputs: Outputs) -> Outputs:
        """Vectors of the large crops [n, large crops, c], and the photos [n]."""
        return {"vectors": outputs["vectors"][:LARGE].detach().transpose(0, 1), "items": outputs["items"]}

    def targets(self, whole: Mapping[str, list[torch.Tensor]], step: int) -> Seen:
        """What the bank is to remember."""
        return Seen(torch.cat(list(whole["vectors"])), torch.cat(list(whole["items"])))

    def loss(
        self, outputs: Outputs, targets: Seen, place: int, step: int
    ) -> tuple[torch.Tensor, float, Mapping[str, torch.Tensor]]:
        """The mean over clusterings of the cross-entropy of the photos' clusters, given all crops."""
        vectors, clusters = outputs["vectors"], self.clusters[:, outputs["items"]]
        with float32(vectors.device):
            scores = [vectors @ self.centroids(i).T for i in range(len(clusters))]
            losses = [cluster_loss(*pair, self.params.temperature) for pair in zip(scores, clusters, strict=True)]
        return torch.stack(losses).mean(), float(vectors.shape[1]), self._monitors(scores, clusters)

    @torch.no_grad()
    def _monitors(self, scores: Sequence[torch.Tensor], clusters: torch.Tensor) -> dict[str, torch.Tensor]:
        """How often a crop's nearest centroid is its photo's, share of clusters with photos, share of the largest."""
        found, used, largest = [], [], []
        for i, k in enumerate(self.params.clusters):
            counts = torch.bincount(self.clusters[i][self.clusters[i] != IGNORED], minlength=k)
            found.append((scores[i].argmax(2) == clusters[i]).float().mean())
            used.append((counts > 0).float().mean())
            largest.append(counts.max() / counts.sum().clamp_min(1))
        return {
            name: torch.stack(each).mean() for name, each in zip(self.monitors, (found, used, largest), strict=True)
        }

    @torch.no_grad()
    def after(self, targets: Seen, step: int) -> None:
        """The bank remembers the batch."""
        self._remember(targets.vectors.transpose(0, 1), targets.items)
