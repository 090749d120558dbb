"""The compiled loops of `maskmill.store.product`. No reordering of sums: every machine gives the same bits."""

from __future__ import annotations

from maskmill.jit import compiler

_compile = compiler()


@_compile
def sum_rows(codes, table, out) -> None:  # type: ignore[no-untyped-def]
    """Out [n, d] = the sum over j of table[j, codes[i, j]] for codes [n, m] and table [m, 256, d], j ascending."""
    n, m = codes.shape
    d = table.shape[2]
    fours = m - m % 4  # four rows at once: a quarter of the loads and stores of `out`
    for i in range(n):
        row = out[i]
        for t in range(d):
            row[t] = 0
        for j in range(0, fours, 4):
            a, b = table[j, codes[i, j]], table[j + 1, codes[i, j + 1]]
            e, f = table[j + 2, codes[i, j + 2]], table[j + 3, codes[i, j + 3]]
            for t in range(d):
                row[t] = (((row[t] + a[t]) + b[t]) + e[t]) + f[t]
        for j in range(fours, m):
            a = table[j, codes[i, j]]
            for t in range(d):
                row[t] += a[t]


@_compile
def rotate_back(centroids, directions, out) -> None:  # type: ignore[no-untyped-def]
    """Out [m, k, d] float32 = centroids [m, k, s] @ directions [m, s, d], summed in float64."""
    m, k, s = centroids.shape
    d = directions.shape[2]
    for j in range(m):
        total = out[j, 0].astype(directions.dtype)
        for c in range(k):
            for t in range(d):
                total[t] = 0
            for q in range(s):
                weight = centroids[j, c, q]
                for t in range(d):
                    total[t] += weight * directions[j, q, t]
            for t in range(d):
                out[j, c, t] = total[t]
