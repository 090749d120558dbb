"""Where the cls token of a ViT looks, from what a store of keys holds. Shared by several stages.

The store has the keys k_i and, once an image, the query q of the cls token. The keys come without their bias b. That is
the attention of the network over the patches, exactly: softmax of q . (k_i - b) is softmax of q . k_i, because q . b is
the same number for every patch i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.errors import StoreError

if TYPE_CHECKING:
    from maskmill.store.ragged import Ragged

EVEN = 1e-6  # relative spread of the attention below which no patch is looked at more than another
RADIUS = 3  # the Gaussian over an attention is cut off to 7x7 tokens


def cls_queries(keys: Ragged, who: str) -> np.ndarray:
    """The query of the cls token of every image of a store of keys, float32 [n, heads, d_head].

    Args:
        who: what needs it, for the message.

    Raises:
        StoreError: the store has none.
    """
    if len(keys) and "cls_query" not in keys.per_image_names:
        said = f"{keys.attrs.get('backbone')}, facet {keys.attrs.get('facet')}"
        raise StoreError(
            f"{keys.path}: has no query of a cls token ({said}); {who} needs facet: key of a ViT with a cls token "
            "and plain attention"
        )
    if not len(keys):
        return np.zeros((0, 1, 1), np.float32)
    queries = keys.per_image("cls_query").astype(np.float32)  # [n, d]
    return queries.reshape(len(queries), int(keys.attrs["heads"]), -1)


def cls_logits(keys: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Products q . k_i / sqrt(d_head) of keys [n, heads * d_head] and query [heads, d_head]: float64 [heads, n]."""
    heads, width = query.shape
    by_head = keys.reshape(len(keys), heads, width).astype(np.float64)
    return np.einsum("nhd,hd->hn", by_head, query.astype(np.float64)) / np.sqrt(width)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows that add up to one [heads, n]."""
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def heaviest(attention: np.ndarray, mass: float, sigma: float, least: int) -> np.ndarray | None:
    """The fewest tokens that hold the share `mass` of an attention [h, w] >= 0: bool [h, w]; None: it is even.

    Ziegler and Asano, Self-supervised learning of object parts for semantic segmentation (Leopart, 2022), section 3.3.
    Tokens of equal attention enter in the order of the grid.

    Args:
        sigma: Gaussian over the attention before it is added up, in tokens, cut off to 7x7; 0: none.
        least: connected parts (8 neighbours) of fewer tokens are dropped.
    """
    from scipy import ndimage

    if attention.size < 2 or np.ptp(attention) <= EVEN * attention.max():
        return None
    if sigma:
        attention = ndimage.gaussian_filter(attention, sigma, mode="mirror", radius=RADIUS)
    order = np.argsort(-attention.ravel(), kind="stable")
    held = np.cumsum(attention.ravel()[order])
    chosen = np.zeros(attention.size, bool)
    chosen[order[: int(np.searchsorted(held, mass * held[-1])) + 1]] = True
    parts, _ = ndimage.label(chosen.reshape(attention.shape), np.ones((3, 3)))
    large = np.bincount(parts.ravel()) >= least
    large[0] = False
    return np.asarray(large[parts])
