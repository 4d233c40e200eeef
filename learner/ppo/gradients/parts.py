"""Batches in parts."""

import itertools


def split_evenly(total: int, size: int) -> list[tuple[int, int]]:
    """Bounds of consecutive parts of nearly equal length that come as near to ``size`` as they can."""
    parts = max(1, round(total / size))
    edges = [total * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges)) if total else []
