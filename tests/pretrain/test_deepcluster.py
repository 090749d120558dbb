"""DeepCluster: k-means and loss against loops, what the bank remembers, what an epoch starts with."""

from __future__ import annotations

import pytest
import torch
from toy_network import losses, toy, views

from maskmill.errors import ConfigError
from maskmill.pretrain import deepcluster
from maskmill.pretrain._heads import unit
from maskmill.pretrain._views import Views
from maskmill.pretrain.deepcluster import clustering
from maskmill.pretrain.deepcluster.clustering import IGNORED, cluster_loss, spherical_kmeans
from maskmill.pretrain.deepcluster.learner import DeepCluster

SMALL = {"crop": 16, "local_crop": 16, "local_crops": 1, "dimensions": 5, "hidden": 7, "clusters": (3, 4, 2),
         "batch_size": 4, "micro_batch": 2}  # fmt: skip
SIDES, PHOTOS = (16, 16, 8), 10


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def learner(**own: object) -> DeepCluster:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = deepcluster.build(toy(), deepcluster.Params.model_validate(SMALL | own), PHOTOS)
    assert isinstance(found, DeepCluster)
    return found


class FewPhotos:
    """Photos 0 to 9 in batches of four, in their order; two micro-batches a step."""

    def micro_batches(self, step: int) -> list[tuple[int, ...]]:
        first = [(4 * step + i) % PHOTOS for i in range(4)]
        return [tuple(first[:2]), tuple(first[2:])]

    def read(self, batch: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        return batch

    def shown(self, drawn: tuple[int, ...], device: torch.device) -> Views:
        parts = [views(SIDES, [item], seed=item) for item in drawn]  # a photo's views depend on the photo alone
        pictures = tuple(torch.cat([part.pictures[c] for part in parts]) for c in range(len(SIDES)))
        return Views(
            pictures, *(torch.cat([getattr(p, n) for p in parts]) for n in ("boxes", "flips", "places", "items"))
        )


def naive_kmeans(vectors: torch.Tensor, start: torch.Tensor, iterations: int) -> tuple[torch.Tensor, list[int]]:
    centroids = start.clone()

    def nearest() -> list[int]:
        return [max(range(len(centroids)), key=lambda k: float(v @ centroids[k])) for v in vectors]

    for _ in range(iterations):
        owners = nearest()
        for k in range(len(centroids)):
            members = [v for v, owner in zip(vectors, owners, strict=True) if owner == k]
            if members:
                mean = sum(members) / len(members)
                centroids[k] = mean / mean.norm()
    return centroids, nearest()


@pytest.mark.parametrize("block", [1, 300, 64 << 20])
def test_kmeans_is_that_of_loops_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "BLOCK_BYTES", block)
    for seed in range(3):
        vectors = rows(40, 5, seed=seed)
        centroids, nearest = spherical_kmeans(vectors, vectors[:6], 4)
        expected, owners = naive_kmeans(vectors, vectors[:6], 4)
        torch.testing.assert_close(centroids, expected)
        assert nearest.tolist() == owners


def test_an_empty_cluster_keeps_its_centroid_and_equals_go_to_the_first() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    equal = torch.tensor([[0.0, -1.0], [1.0, 0.0], [1.0, 0.0]])
    assert spherical_kmeans(vectors, equal, 0)[1].tolist() == [1, 1, 1]
    start = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
    centroids, nearest = spherical_kmeans(vectors, start, 2)
    assert nearest.tolist() == [0, 0, 0]
    assert centroids[1:].tolist() == start[1:].tolist()
    torch.testing.assert_close(centroids[0], unit(vectors.mean(0)))


def test_kmeans_finds_directions_that_are_far_apart() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    truth = torch.arange(60) % 4
    vectors = unit(axes[truth] + 0.1 * rows(60, 4))
    centroids, nearest = spherical_kmeans(vectors, vectors[:4], 10)
    assert nearest.equal(truth)
    assert bool(((centroids * axes).sum(1) > 0.98).all())


def test_the_loss_is_the_cross_entropy_without_unknown_photos() -> None:
    scores = rows(3, 4, 5)
    clusters = torch.tensor([2, IGNORED, 0, 4])
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1) / 0.1, clusters.repeat(3), ignore_index=IGNORED)
    torch.testing.assert_close(cluster_loss(scores, clusters, 0.1), expected)
    assert float(cluster_loss(scores, torch.full((4,), IGNORED), 0.1)) == 0
    assert torch.autograd.gradcheck(lambda x: cluster_loss(x, clusters, 0.3), (scores.requires_grad_(),))


def test_the_bank_remembers_the_last_vectors_of_each_photo() -> None:
    found = learner()
    vectors = torch.arange(2 * 4 * 5.0).view(2, 4, 5)
    found._remember(vectors, torch.tensor([7, 1, 7, 3]))
    assert found.known.nonzero()[:, 0].tolist() == [1, 3, 7]
    for crop in range(2):
        assert found.bank[crop, 7].equal(vectors[crop, 2])
        assert found.bank[crop, 1].equal(vectors[crop, 1])
        assert float(found.bank[crop, 0].abs().sum()) == 0


def test_an_epoch_starts_with_clusterings_of_both_crops_in_turn() -> None:
    found, photos = learner(), FewPhotos()
    assert found.epoch == 3
    found.before(0, photos)  # type: ignore[arg-type]
    assert bool(found.known.all())
    for drawn in (each for step in range(3) for each in photos.micro_batches(step)):
        seen = photos.shown(drawn, torch.device("cpu"))
        for crop in range(2):  # each for itself, so that a batch norm sees one crop of every photo
            expected = found.head(found.student, [seen.pictures[crop]])[0].detach()
            torch.testing.assert_close(found.bank[crop, seen.items], expected)
    for i, k in enumerate(found.params.clusters):
        bank, centroids = found.bank[i % 2], found.centroids(i)
        assert centroids.shape == (k, 5)
        torch.testing.assert_close(centroids.norm(dim=1), torch.ones(k))
        assert found.clusters[i].equal((bank @ centroids.T).argmax(1))
    before = found.clusters.clone()
    for step in (1, 2):
        found.before(step, photos)  # type: ignore[arg-type]
        assert found.clusters.equal(before)
    found.bank.copy_(unit(torch.randn(found.bank.shape, generator=torch.Generator().manual_seed(5))))
    found.before(3, photos)  # type: ignore[arg-type]
    assert not found.clusters.equal(before)
    again = learner()
    again.load_state_dict(found.state_dict())
    again.before(3, photos)  # type: ignore[arg-type]
    assert again.clusters.equal(found.clusters)


def test_crops_predict_the_clusters_of_their_photos_and_centroids_stay() -> None:
    found, photos = learner(), FewPhotos()
    found.before(0, photos)  # type: ignore[arg-type]
    micros = [photos.shown(each, torch.device("cpu")) for each in photos.micro_batches(0)]
    loss, targets = losses(found, micros)
    total = 0.0
    for micro in micros:
        vectors = found.head(found.student, micro.pictures).detach()
        for i in range(3):
            for crop in vectors:
                total += float(
                    torch.nn.functional.cross_entropy(
                        crop @ found.centroids(i).T / 0.1, found.clusters[i, micro.items], reduction="sum"
                    )
                )
    assert float(loss.detach()) == pytest.approx(total / 3 / 3 / 4, rel=1e-5)  # crops, clusterings, photos
    loss.backward()
    learning = [p for group in found.groups() for p in group.parameters]
    assert all(p.grad is not None for p in learning)
    assert len(learning) == len(list(found.parameters()))  # centroids, bank and clusters are no parameters
    assert targets.items.tolist() == [0, 1, 2, 3]
    found.after(targets, 0)
    expected = found.head(found.student, micros[1].pictures)[:2].detach()
    torch.testing.assert_close(found.bank[:, 2:4], expected)


def test_photos_that_were_never_seen_do_not_count() -> None:
    found = learner()
    outputs = found.outputs(views(SIDES, [0, 1]), torch.Generator(), 0)
    loss, weight, _ = found.loss(outputs, None, 0, 0)  # type: ignore[arg-type]
    assert float(loss.detach()) == 0
    assert weight == 2


def test_more_clusters_than_photos_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pretrain.clusters: 11 clusters of 10 photos; .* as \[2, 2\]"):
        learner(clusters=(4, 11))


def test_monitors() -> None:
    found = learner(clusters=(4,))
    found.clusters[0] = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])
    found.centroids(0).copy_(torch.eye(5)[:4])
    scores = torch.eye(4)[[0, 1, 2]].expand(3, 3, 4)
    seen = {name: float(value) for name, value in found._monitors([scores], torch.tensor([[0, 1, 1]])).items()}
    assert seen == pytest.approx({"found": 2 / 3, "used": 0.75, "largest": 0.5})


def test_published_settings_are_the_defaults() -> None:
    own = deepcluster.Params()
    assert (own.clusters, own.iterations, own.temperature, own.dimensions) == ((3000, 3000, 3000), 10, 0.1, 128)
    assert (own.optimiser, own.weight_decay) == ("larc", 1e-6)
    assert own.learning_rate / own.batch_size == pytest.approx(4.8 / 4096)
    assert len(deepcluster.views(own)) == 8
