"""The photos that a head sees while it learns: together with its backbone (`unfreeze`), or with the backbone frozen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from maskmill.adapt._data import Images
from maskmill.adapt._encoder import Encoder
from maskmill.backbones import weights_file
from maskmill.backbones.network import Backbone, load
from maskmill.errors import ConfigError, NumericsError
from maskmill.images.decode import resize, target_size, to_target
from maskmill.images.photos import read_photo
from maskmill.recipe.feature_set import STORING, FeatureSet
from maskmill.store.manifest import Row, read_manifest


class PhotoImages(Images):
    """Photos of the manifest, uint8 RGB [H, W, 3] in the size that their feature set says, one for all.

    Args:
        manifest: its file. weights: of the backbone. feature_set: of what the backbone is to make. facets: what that
            may be.

    Raises:
        ConfigError: the feature set is no plain level of a network, or gives photos of several sizes: in a batch they
            would be squeezed, and the network would see another shape than when codes are made.
        NumericsError: there is no image.
    """

    key, reads = "adapt.unfreeze", "train a network"  # what asks for photos and why, for messages

    def __init__(
        self,
        manifest: str | Path,
        weights: str | Path,
        feature_set: FeatureSet,
        cache_mib: int,
        device: torch.device,
        threads: int = 1,
        facets: Sequence[str] = ("token",),
    ) -> None:
        found = read_manifest(manifest)
        if not found.rows:
            raise NumericsError("adapt: there is no image to learn from; check images and inputs/rejected.csv")
        backbone = load(weights, feature_set, device)
        if feature_set.facet not in facets or not isinstance(backbone, Backbone):
            raise ConfigError(f"{self.key}: {feature_set.backbone}, facet {feature_set.facet}: a head can {self.reads} "
                              f"through facet: {' or '.join(facets)} only; name another feature set")  # fmt: skip
        sizes = {target_size(row.height, row.width, feature_set.size, backbone.multiple) for row in found.rows}
        if len(sizes) > 1:
            raise ConfigError(f"{self.key}: {feature_set.size} gives photos of {len(sizes)} sizes, but they are "
                              "learnt from in batches; set features.<name>.size: {square: ...}")  # fmt: skip
        facts = weights_file.read(weights)[1]
        self.encoder: Encoder | None = Encoder(
            backbone, {key: facts[key] for key in ("architecture", "mean", "std")}, threads
        )
        self.set, self.multiple, self.rows, self.threads = feature_set, backbone.multiple, found.rows, threads
        hashes = [*found.shards, backbone.digest]
        made_by = feature_set.model_dump(mode="json", exclude=STORING)
        super().__init__(found.ids, backbone.depth, hashes, made_by, cache_mib)

    def read(self, i: int) -> np.ndarray:
        """The photo as its backbone sees it, uint8 [H, W, 3]."""
        return seen(self.rows[i], self.set, self.multiple)

    def several(self, places: Sequence[int]) -> list[np.ndarray]:
        """Photos by position, decoded in threads."""
        if self.threads < 2:
            return super().several(places)
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.__getitem__, places))


class FrozenPhotos(PhotoImages):
    """The same, for a head that learns from photos while its backbone stays as it is, and is applied to stored tokens.

    Half of `cache_mib` is for photos, half for masks that a method makes of them.

    Attributes:
        backbone: frozen. size: of the photos (H, W). mask_room: bytes.
    """

    key, reads = "adapt.method", "see photos"

    def __init__(
        self,
        manifest: str | Path,
        weights: str | Path,
        feature_set: FeatureSet,
        cache_mib: int,
        device: torch.device,
        threads: int = 1,
        facets: Sequence[str] = ("token",),
    ) -> None:
        super().__init__(manifest, weights, feature_set, cache_mib // 2, device, threads, facets)
        assert self.encoder is not None
        self.backbone, self.encoder = self.encoder.backbone, None
        self.made_by = feature_set.model_dump(mode="json")  # as the stores have it that the head will be applied to
        first = self.rows[0]
        self.size = target_size(first.height, first.width, feature_set.size, self.multiple)
        self.mask_room = (cache_mib - cache_mib // 2) << 20

    def larger(self, i: int, factor: int) -> np.ndarray:
        """Photo i, uint8 [factor * H, factor * W, 3]; it is not held in memory."""
        return resize(read_photo(self.rows[i]), (factor * self.size[0], factor * self.size[1]))

    def view(self, i: int) -> np.ndarray:
        """Tokens [h, w, d] float32 of photo i."""
        return self.backbone.forward(torch.from_numpy(self[i])[None])[0][0].cpu().numpy()


def seen(row: Row, feature_set: FeatureSet, multiple: int) -> np.ndarray:
    """A photo of the manifest in the size that the feature set says, uint8 [H, W, 3]; raises as `read_photo`."""
    return to_target(read_photo(row), feature_set.size, multiple)
