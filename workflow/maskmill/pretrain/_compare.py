"""The gate: whether trained features are better than those that the training started from, measured without labels.

Both networks see the same photos in two views, the whole photo and a crop of it in another light, and their tokens are
taken at the same places. Four measures count. Each asks whether what a network says of a thing stays when the crop and
the light change, against other photos, so that chance is known and features that say nothing, or the same of
everything, score like chance:

- same_photo: the whole photo is the nearest of all to the other view of it;
- photo_neighbours: the nearest other photos are the same for both views;
- token_neighbours: the nearest tokens of other photos are the same for both views of a place;
- same_place: a place is nearer to itself in the other view than to places of other photos.

`better` says what follows. The rest is shown and does not count: k-means stability, since few and coarse clusters are
stable and a network that has learnt nothing can have the most stable ones (as in the report's predicted quality); the
predicted quality itself, since the witnesses here know colours and edges only, as a network of random weights does; and
the correspondence within a photo, since a wall is the same everywhere in good features, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics.agreement import adjusted_rand, table
from maskmill.numerics.kmeans import Settings, fit
from maskmill.numerics.sampling import rng
from maskmill.store.codebook import assign

COUNTED = ("same_photo", "photo_neighbours", "token_neighbours", "same_place")
LEAST = 0.01  # a smaller change does not count, whatever its error
ERRORS = 2.0  # standard errors that a change must exceed
KEPT_RANK = (
    0.25  # a network that keeps less of its effective rank is worse; noise has rank, so to lose half can be a gain
)
KEPT_SPREAD = 0.1  # the same for the spread of its tokens
FEWEST = 8  # photos; of fewer nothing can be said
CLUSTERS = (8, 32)  # of the k-means whose stability is shown
SPLITS = 3  # divisions of the photos into halves
DIGITS = 6  # of a cosine: float32 says no more
PART = 32  # a neighbourhood is the nearest 1/PART of all others: as large as a class of a segmentation into so many


@dataclass(frozen=True)
class Views:
    """What a network says of n photos in two views.

    Attributes:
        tokens: [2, n, t, d] float32, of the same t places of a photo in both views. photos: [2, n, d'] float32, cls.
    """

    tokens: np.ndarray
    photos: np.ndarray


@dataclass(frozen=True)
class Measured:
    """A network's report.

    Attributes:
        values: every measure; None where it cannot be told. each: [n] of every measure that counts, photo by photo.
        near_photos: [n, k] the nearest other photos. near_tokens: [n * t, k'] the nearest places of other photos.
        clusters: [n * t] labels of a k-means of the most clusters; None where the tokens are too much alike.
    """

    values: Mapping[str, float | None]
    each: Mapping[str, np.ndarray]
    near_photos: np.ndarray
    near_tokens: np.ndarray
    clusters: np.ndarray | None


@dataclass(frozen=True)
class Verdict:
    """What `better` says.

    Attributes:
        rises, falls: the measures that count and changed beyond chance. lost: rank or spread, where they collapsed.
        reasons: in numbers.
    """

    better: bool
    rises: tuple[str, ...]
    falls: tuple[str, ...]
    lost: tuple[str, ...]
    reasons: tuple[str, ...]


def measure(views: Views, seed: int) -> Measured:
    """The report of one network; it depends on the views and the seed only.

    Raises:
        NumericsError: NaN or infinite features.
    """
    from maskmill.numerics.blocks import one_thread

    if not (np.isfinite(views.tokens).all() and np.isfinite(views.photos).all()):
        raise NumericsError("pretrain: the network gives NaN or infinite features; lower pretrain.learning_rate")
    tokens, photos = unit(views.tokens), unit(views.photos)
    with one_thread():
        found, near_photos = _of_photos(photos)
        of_tokens, near_tokens = _of_tokens(tokens)
        found |= of_tokens
        stability, clusters = _stability(tokens[0], seed)
    values: dict[str, float | None] = {name: float(each.mean()) for name, each in found.items()}
    values |= stability
    for name, rows in (("", tokens[0].reshape(-1, tokens.shape[-1])), ("photo_", photos[0])):
        values |= {f"{name}rank": effective_rank(rows), f"{name}spread": spread(rows)}
    each = {name: found[name] for name in COUNTED}
    return Measured(values, each, near_photos, near_tokens, clusters)


def better(before: Measured, after: Measured) -> Verdict:
    """Whether the features of `after` are better, by a rule that was fixed before any network was judged by it.

    A measure has changed where the mean of its changes over the photos exceeds LEAST and ERRORS standard errors. The
    features are better where more of the four measures rise than fall, unless the network keeps less than a quarter of
    its effective rank or a tenth of its spread. Of fewer than FEWEST photos nothing is better.
    """
    count = len(before.near_photos)
    if count < FEWEST:
        return Verdict(False, (), (), (), (f"{count} photos are too few to tell; it takes {FEWEST}",))
    rises: list[str] = []
    falls: list[str] = []
    said: list[str] = []
    for name in COUNTED:
        change, error = changed(before, after, name)
        if abs(change) <= max(LEAST, ERRORS * error):
            continue
        (rises if change > 0 else falls).append(name)
        said.append(f"{name} {before.values[name]:.2f} -> {after.values[name]:.2f}")
    lost = [name for name, kept in (("rank", KEPT_RANK), ("spread", KEPT_SPREAD)) if _lost(before, after, name, kept)]
    said += [f"{name} {before.values[name]:.3g} -> {after.values[name]:.3g}" for name in lost]
    reasons = tuple(said) or ("no measure has changed beyond chance",)
    return Verdict(len(rises) > len(falls) and not lost, tuple(rises), tuple(falls), tuple(lost), reasons)


def changed(before: Measured, after: Measured, name: str) -> tuple[float, float]:
    """Mean change of a measure that counts, and its standard error over the photos."""
    change = after.each[name].astype(np.float64) - before.each[name]
    return float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change))) if len(change) > 1 else np.inf


def compare(before: Measured, after: Measured, witnesses: Sequence[np.ndarray] = ()) -> dict[str, Any]:
    """How far the two networks say the same, and the predicted quality of both (`maskmill.report`), ready for JSON.

    Args:
        witnesses: clusters [n * t] of the same places by other features.

    Returns:
        agreement: {photo_neighbours, token_neighbours: share of the neighbours that both have, chance 0; clusters:
        adjusted Rand index}, and predicted: {before, after}, the mean adjusted Rand index of a network's clusters with
        those of all others, None with fewer than three clusterings.
    """
    n, t = len(before.near_photos), len(before.near_tokens) // max(1, len(before.near_photos))
    agreement = {
        "photo_neighbours": _mean(kept(before.near_photos, after.near_photos, n - 1)),
        "token_neighbours": _mean(kept(before.near_tokens, after.near_tokens, (n - 1) * t)),
        "clusters": rand(before.clusters, after.clusters),
    }
    predicted: dict[str, float | None] = {}
    for name, own, other in (("before", before, after), ("after", after, before)):
        found = [rand(own.clusters, labels) for labels in (other.clusters, *witnesses)]
        known = [value for value in found if value is not None]
        predicted[name] = float(np.mean(known)) if len(known) > 1 else None
    return {"agreement": agreement, "predicted": predicted}


def unit(x: np.ndarray) -> np.ndarray:
    """Vectors [..., d] of unit length, float32; a vector of zeros stays zero."""
    norms = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    return np.asarray(x / np.maximum(norms, 1e-30), np.float32)


def effective_rank(rows: np.ndarray) -> float:
    """Exp of the entropy of the singular values' shares of centred rows [n, d], from 1 to d; 1 where nothing varies.

    Roy and Vetterli, The effective rank (2007).
    """
    centred = rows.astype(np.float64) - rows.mean(0, dtype=np.float64)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    variance = np.linalg.eigvalsh(gram).clip(0)
    if not variance.sum() > 1e-12 * len(rows):  # float32 rounding of equal unit vectors
        return 1.0
    share = np.sqrt(variance[variance > 1e-12 * variance.max()])  # the rest is the rounding of the product
    share /= share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def spread(rows: np.ndarray) -> float:
    """Mean of 1 - cosine over all pairs of unit vectors [n, d]: 0 where all are equal, 1 where they cancel."""
    return float(1 - np.square(rows.mean(0, dtype=np.float64)).sum())


def kept(mine: np.ndarray, theirs: np.ndarray, count: int) -> np.ndarray:
    """Share [m] of the neighbours [m, k] that both lists have, of `count` to choose from: 1 for all, 0 for chance.

    Negative where fewer are shared than at random.
    """
    k = mine.shape[1]
    if not 0 < k < count:
        return np.zeros(len(mine))
    shared = np.array([len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(mine, theirs, strict=True)])
    chance = k / count
    return np.asarray((shared / k - chance) / (1 - chance))


def rand(mine: np.ndarray | None, theirs: np.ndarray | None) -> float | None:
    """Adjusted Rand index of two clusterings [m]; None where one is unknown."""
    if mine is None or theirs is None:
        return None
    return float(adjusted_rand(table(mine, theirs, (int(mine.max()) + 1, int(theirs.max()) + 1))))


def clustered(rows: np.ndarray, clusters: int, seed: int, fitted: np.ndarray | None = None) -> np.ndarray | None:
    """Labels [m] of rows [m, d] by a spherical k-means of those in `fitted` [m] bool (all).

    None where these are too few or too much alike.
    """
    return labelled(rows, Settings(clusters=clusters, restarts=1), seed, fitted)


def labelled(rows: np.ndarray, settings: Settings, seed: int, fitted: np.ndarray | None = None) -> np.ndarray | None:
    """As `clustered`, by any k-means."""
    chosen = rows if fitted is None else rows[fitted]
    if len(chosen) < 4 * settings.clusters:
        return None
    try:
        book, _ = fit(chosen, settings, seed, "cpu")
    except NumericsError:  # fewer distinct vectors than clusters
        return None
    return assign(rows, book)[0]


def _of_photos(photos: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """same_photo and photo_neighbours [n] of unit vectors [2, n, d], and the neighbours [n, k] in the first view."""
    n = photos.shape[1]
    k = min(max(5, n // PART), max(1, (n - 1) // 2))
    first, other = cosines(photos[0], photos[0]), cosines(photos[1], photos[0])  # [n, n]: whole photos are the bank
    own = other.diagonal().copy()
    found = {"same_photo": np.zeros(n), "photo_neighbours": np.zeros(n)}
    if n < 2:
        return found, np.zeros((n, 0), np.int64)
    ahead, tied = (other > own[:, None]).sum(1), (other == own[:, None]).sum(1)
    found["same_photo"] = (ahead == 0) / tied  # itself is one of the tied
    for scores in (first, other):
        np.fill_diagonal(scores, -np.inf)
    near = nearest(first, k, 0)
    found["photo_neighbours"] = kept(near, nearest(other, k, 1), n - 1)
    return found, near


def _of_tokens(tokens: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """token_neighbours, same_place and within_photo [n] of unit vectors [2, n, t, d], and the neighbours [n * t, k]."""
    _, n, t, d = tokens.shape
    bank = tokens[0].reshape(n * t, d)
    count = (n - 1) * t
    k = min(max(5, count // PART), max(1, count // 2))
    found = {name: np.zeros(n) for name in ("token_neighbours", "same_place", "within_photo")}
    near = np.zeros((n * t, k if n > 1 else 0), np.int64)
    for i in range(n if n > 1 else 0):
        mine = slice(i * t, (i + 1) * t)
        first, other = cosines(tokens[0, i], bank), cosines(tokens[1, i], bank)  # [t, n * t]
        within = other[:, mine].copy()
        own = within.diagonal()[:, None]
        found["within_photo"][i] = (((within > own).sum(1) == 0) / (within == own).sum(1)).mean()
        for scores in (first, other):
            scores[:, mine] = -np.inf
        below, equal = (other < own).sum(1) - t, (other == own).sum(1)  # the photo's own places are not looked at
        found["same_place"][i] = ((below + equal / 2) / count).mean()
        near[mine] = nearest(first, k, 0, i)
        found["token_neighbours"][i] = kept(near[mine], nearest(other, k, 1, i), count).mean()
    return found, near


def cosines(rows: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Cosines [m, n] of unit vectors with DIGITS digits: what differs by the rounding of float32 only is equal."""
    return np.asarray(np.round(rows @ bank.T, DIGITS))


def nearest(scores: np.ndarray, k: int, *draw: int) -> np.ndarray:
    """Columns [m, k] of the largest scores [m, n] of every row, in no order.

    Args:
        scores: with DIGITS digits. draw: what the choice among equal scores depends on. Every row chooses anew, so that
            features which are the same everywhere do not seem to agree.
    """
    if not k:
        return np.zeros((len(scores), 0), np.int64)
    ties = rng(0, "pretrain", "ties", *map(str, draw)).random(scores.shape) * 10.0**-DIGITS / 2
    return np.asarray(np.argpartition(scores + ties, -k, axis=1)[:, -k:])


def _stability(tokens: np.ndarray, seed: int) -> tuple[dict[str, float | None], np.ndarray | None]:
    """Adjusted Rand index of k-means of halves of the photos, and of two seeds, tokens [n, t, d]; labels [n * t].

    All tokens are labelled by the centroids of either half. Mean over SPLITS; of every number of clusters, and the mean
    over them.
    """
    n, t, d = tokens.shape
    rows, last = tokens.reshape(n * t, d), None
    found: dict[str, float | None] = {}
    for clusters in CLUSTERS:
        halves = [rand(*pair) for pair in _halves(rows, n, clusters, seed)]
        found[f"halves_{clusters}"] = _mean([value for value in halves if value is not None])
        labels = [clustered(rows, clusters, seed + turn) for turn in range(2)]
        found[f"seeds_{clusters}"] = rand(labels[0], labels[1])
        last = labels[0]
    return found, last


def _halves(
    rows: np.ndarray, photos: int, clusters: int, seed: int
) -> Iterator[tuple[np.ndarray | None, np.ndarray | None]]:
    """Labels of all rows by the centroids of one half of the photos, and of the other."""
    for split in range(SPLITS if photos > 1 else 0):
        chosen = np.zeros(photos, bool)
        chosen[rng(seed, "pretrain", "halves", str(split)).permutation(photos)[: photos // 2]] = True
        one = np.repeat(chosen, len(rows) // photos)
        yield clustered(rows, clusters, seed, one), clustered(rows, clusters, seed, ~one)


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _lost(before: Measured, after: Measured, name: str, kept_share: float) -> bool:
    was, now = before.values[name], after.values[name]
    return was is not None and now is not None and now < kept_share * was
