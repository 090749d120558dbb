"""DeepCluster-v2: photos are clustered at the start of every epoch, and their crops predict the clusters.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin (NeurIPS 2020), appendix, the successor by the same authors of
Caron, Bojanowski, Joulin and Douze, Deep Clustering (ECCV 2018). Vectors of the epoch before are kept (a memory bank)
where the method of 2018 computed them in a pass of its own; k-means is spherical; its centroids are the classifier,
where a new one was learnt every epoch; several clusterings are predicted at once; crops are SwAV's. The version of
2018 (features whitened by PCA, edges instead of colours, photos drawn evenly over clusters) is not offered: its
authors replaced it by this one.

Not as published: batches of 256 instead of 4096 photos, the rate scaled with them (4.8 there); batch norms see a
micro-batch; the bank starts from the views of the first epoch's steps, so that it has every photo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskmill.pretrain import Traits
from maskmill.pretrain._multicrop import crops
from maskmill.pretrain.deepcluster.settings import Params

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning
    from maskmill.pretrain._learner import Learner
    from maskmill.pretrain._views import CropSpec

__all__ = ["TRAITS", "Params", "build", "views"]
TRAITS = Traits(dense=False)


def views(params: Params) -> tuple[CropSpec, ...]:
    """Two large crops, then the small ones."""
    return crops(params)


def build(network: Learning, params: Params, photos: int) -> Learner:
    """The network with its head, and the bank of vectors.

    Raises:
        ConfigError: more clusters than photos.
    """
    from maskmill.pretrain.deepcluster.learner import DeepCluster

    return DeepCluster(network, params, photos)
