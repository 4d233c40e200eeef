"""Bounds of the parts that a batch is processed in."""

import itertools

# Activations of layers of 64 units for this many rows fit the core's own cache: 17,408 rows take 23 and 32 ms (shared
# and separate networks) at once, 20 and 22 ms in parts. Also, not all activations of images are in memory at a time.
_CACHE_ROWS = 2048


def split_evenly(total: int, size: int) -> list[tuple[int, int]]:
    """Return the bounds of consecutive parts of nearly equal length, as close to ``size`` as possible."""
    parts = max(1, round(total / size))
    edges = [total * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges)) if total else []


def cache_sized_parts(rows: int) -> list[tuple[int, int]]:
    """Return the bounds of at least one part, each about as large as the cache allows."""
    return split_evenly(rows, _CACHE_ROWS) or [(0, 0)]
