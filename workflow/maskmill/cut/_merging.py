"""Greedy merging of neighbouring clusters of tokens, and the nested segments of its levels: loops of `hierarchy`."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from maskmill.jit import compiler

_compile = compiler()
_summed = compiler(fastmath={"reassoc", "contract"})  # sums may be vectorised


@_summed
def _product(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(len(a)):
        total += a[k] * b[k]
    return total


@_summed
def _unit(a, out) -> None:  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(len(a)):
        total += a[k] * a[k]
    scale = np.float32(1) / max(np.sqrt(total), np.float32(1e-12))
    for k in range(len(a)):
        out[k] = a[k] * scale


@_compile
def merged(tokens, parts, width, thresholds):  # type: ignore[no-untyped-def]
    """Join the two 4-neighbouring clusters of one part whose mean tokens have the largest cosine, again and again.

    Args:
        tokens: [n, d] float32 of a grid of `width` columns. parts: int64 [n]; tokens of different parts are never
            joined. thresholds: float64 [levels], falling: level l ends when no cosine is at least thresholds[l].

    Returns:
        pairs int64 [m, 2], the clusters of each join: 0..n-1 are the tokens, n + i is what join i made; cosines
        float64 [m]; and ends int64 [levels], how many joins were done by the end of each level. Of equal cosines the
        pair that was seen first is joined.
    """
    n = len(tokens)
    total = tokens.copy()  # of the cluster in each slot
    unit = np.empty_like(tokens)
    for i in range(n):
        _unit(total[i], unit[i])
    # The neighbours of a cluster: a chain of entries, each of which names one that may have been joined since.
    target, following = np.empty(4 * n, np.int64), np.full(4 * n, -1)
    head = np.full(2 * n, -1)
    used = np.int64(0)
    heap: Any = [(0.0, np.int64(0), np.int64(0), np.int64(0))]  # -cosine, when it was seen, and the pair
    heap.pop()
    seen: Any = np.int64(0)
    for i in range(n):
        for side in range(2):
            j = i - (1, width)[side]
            if j < 0 or (side == 0 and i % width == 0) or parts[i] != parts[j]:
                continue
            for a, b in ((i, j), (j, i)):
                target[used], following[used], head[a] = b, head[a], used
                used += 1
            heap.append((-np.float64(_product(unit[i], unit[j])), seen, np.int64(j), np.int64(i)))
            seen += 1
    heapq.heapify(heap)
    slot, into = np.arange(2 * n), np.full(2 * n, -1)  # where the sum of a cluster is; the cluster that it is in now
    stamp = np.full(2 * n, -1)
    pairs, cosines = np.empty((n, 2), np.int64), np.empty(n)
    ends = np.zeros(len(thresholds), np.int64)
    count = 0
    for level in range(len(thresholds)):
        while len(heap):
            negative, _, a, b = heap[0]
            if into[a] >= 0 or into[b] >= 0:
                heapq.heappop(heap)
                continue
            if -negative < thresholds[level]:
                break
            heapq.heappop(heap)
            new = n + count
            pairs[count, 0], pairs[count, 1], cosines[count] = a, b, -negative
            count += 1
            into[a] = into[b] = new
            slot[new] = slot[a]
            for k in range(total.shape[1]):
                total[slot[a], k] += total[slot[b], k]
            _unit(total[slot[new]], unit[slot[new]])
            for old in (a, b):
                entry = head[old]
                while entry >= 0:
                    after = following[entry]
                    other = target[entry]
                    while into[other] >= 0:
                        other = into[other]
                    if other != new and stamp[other] != new:
                        stamp[other] = new
                        target[entry], following[entry], head[new] = other, head[new], entry
                        cosine = np.float64(_product(unit[slot[other]], unit[slot[new]]))
                        heapq.heappush(heap, (-cosine, seen, other, new))
                        seen += 1
                    entry = after
        ends[level] = count
    return pairs[:count].copy(), cosines[:count].copy(), ends


@_compile
def levels(pairs, ends, n):  # type: ignore[no-untyped-def]
    """The cluster that each of n tokens is in at the end of each level, int64 [levels, n]: numbers as in `merged`."""
    into = np.full(n + len(pairs), -1)
    found = np.empty((len(ends), n), np.int64)
    done = 0
    for level in range(len(ends)):
        for i in range(done, ends[level]):
            into[pairs[i, 0]] = into[pairs[i, 1]] = n + i
        done = ends[level]
        for token in range(n):
            cluster = token if level == 0 else found[level - 1, token]
            while into[cluster] >= 0:
                cluster = into[cluster]
            found[level, token] = cluster
    return found


@_compile
def nested(clusters, parts, objects, smallest, largest_share):  # type: ignore[no-untyped-def]
    """The segments that are kept: objects, then the clusters of each level from the coarsest to the finest.

    A cluster is kept where it has `smallest` tokens or more and at most `largest_share` of those of the segment that it
    lies in; a larger one only where there is another segment beside it, because it is what the other one leaves.

    Args:
        clusters: int64 [levels, n], finest first, -1 for a token that is in none. parts: int64 [n]: 1..objects are
            objects, of which each is kept.

    Returns:
        above int64 [m], the segment that each one lies in, which comes before it, or -1; cluster int64 [m], its
        number, -1 for objects; and home int64 [n], the smallest segment that holds each token, or -1.
    """
    n = len(parts)
    most = objects + 2 * clusters.shape[0] * (n // smallest + 1)
    above, cluster, size = np.full(most, -1), np.full(most, -1), np.zeros(most, np.int64)
    within = np.zeros(most, np.int64)  # segments in each segment
    like = np.full(most, -1)  # the cluster in each segment that has too much of it, if any,
    shade = np.full(n, -1)  # and for its tokens that segment
    home = parts - 1
    for token in range(n):
        home[token] = -1 if home[token] >= objects else home[token]
        size[home[token]] += home[token] >= 0
    count = np.int64(objects)
    tokens_of, number = np.zeros(2 * n, np.int64), np.full(2 * n, -1)
    for level in range(clusters.shape[0] - 1, -1, -1):
        tokens_of[:] = 0
        number[:] = -1
        for token in range(n):
            if clusters[level, token] >= 0:
                tokens_of[clusters[level, token]] += 1
        for token in range(n):
            name = clusters[level, token]
            if name < 0:
                continue
            outer = home[token]
            if number[name] < 0 and tokens_of[name] >= smallest:
                if outer >= 0 and within[outer] == 0 and tokens_of[name] > largest_share * size[outer]:
                    like[outer] = name
                    for each in range(n):
                        if home[each] == outer:
                            shade[each] = outer if clusters[level, each] == name else -1
                    tokens_of[name] = 0  # seen
                    continue
                if outer >= 0 and within[outer] == 0 and like[outer] >= 0 and shade[token] != outer:
                    above[count], cluster[count] = outer, like[outer]
                    for each in range(n):
                        if shade[each] == outer:
                            home[each] = count
                            size[count] += 1
                    count += 1
                    within[outer] += 1
                above[count], cluster[count], size[count] = outer, name, tokens_of[name]
                number[name] = count
                count += 1
                if outer >= 0:
                    within[outer] += 1
            if number[name] >= 0:
                home[token] = number[name]
    return above[:count].copy(), cluster[:count].copy(), home


@_compile
def grown(tokens, home, above, leaf, width):  # type: ignore[no-untyped-def]
    """The leaf of every token, int64 [n]: tokens of a segment that are in none of its leaves join one of them.

    Wave by wave a token joins the leaf of a 4-neighbour, of those leaves that lie in its own segment the one whose mean
    is most like it; one that no wave reaches joins the most similar leaf of its segment. -1: a token of no segment.

    Args:
        tokens: [n, d] float32. home: int64 [n], the smallest segment that holds each token, or -1.
        above: int64 [m], the segment that each one lies in, or -1. leaf: bool [m].
    """
    n, d = tokens.shape
    mean, unit = np.zeros((len(above), d), np.float32), np.empty_like(tokens)
    found = np.full(n, -1)
    left: Any = np.int64(0)
    for token in range(n):
        _unit(tokens[token], unit[token])
        if home[token] >= 0 and leaf[home[token]]:
            found[token] = home[token]
            mean[home[token]] += tokens[token]
        elif home[token] >= 0:
            left += 1
    for node in range(len(above)):
        _unit(mean[node].copy(), mean[node])
    waves: Any = True
    while left:
        before = found.copy()
        joined: Any = np.int64(0)
        for token in range(n):
            if home[token] < 0 or before[token] >= 0:
                continue
            best = np.float32(-2)
            for side in range(4 if waves else len(above)):
                if waves:
                    near = (token - 1, token + 1, token - width, token + width)[side]
                    apart = (side == 0 and token % width == 0) or (side == 1 and token % width == width - 1)
                    if apart or near < 0 or near >= n or before[near] < 0:
                        continue
                    node = before[near]
                elif leaf[side]:
                    node = side
                else:
                    continue
                outer = node
                while outer >= 0 and outer != home[token]:
                    outer = above[outer]
                cosine = _product(unit[token], mean[node])
                if outer >= 0 and cosine > best:
                    best = cosine
                    found[token] = node
            joined += found[token] >= 0
        left -= joined
        waves = joined > 0
    return found
