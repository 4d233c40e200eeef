"""Rearrangements of row-major arrays: slices, transpositions and broadcasts as strides, and copies between two."""

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class View:
    """Grid of ``shape`` in an array: entry ``(i, j, ...)`` is number ``start + i strides[0] + j strides[1] + ...``."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int = 0

    @staticmethod
    def of(shape: Sequence[int]) -> "View":
        """Return the view of a whole row-major array of ``shape``."""
        strides = itertools.accumulate(reversed(shape), operator.mul, initial=1)
        return View(tuple(shape), tuple(strides)[-2::-1])

    @property
    def is_row_major(self) -> bool:
        """True when the numbers follow one another without gaps."""
        whole = View.of(self.shape).strides
        return all(a == b for n, a, b in zip(self.shape, self.strides, whole, strict=True) if n != 1)

    def transposed(self, order: Sequence[int]) -> "View":
        """Return the view with axis ``i`` taken from axis ``order[i]``."""
        return View(tuple(self.shape[i] for i in order), tuple(self.strides[i] for i in order), self.start)

    def cut(self, axis: int, start: int, count: int, step: int = 1) -> "View":
        """Return ``count`` entries along ``axis``, from ``start`` on, ``step`` apart."""
        stride = self.strides[axis]
        return View(
            (*self.shape[:axis], count, *self.shape[axis + 1 :]),
            (*self.strides[:axis], step * stride, *self.strides[axis + 1 :]),
            self.start + start * stride,
        )

    def without(self, axes: Sequence[int]) -> "View":
        """Return the view without these axes, of length 1."""
        gone = set(axes)
        return self.transposed([i for i in range(len(self.shape)) if i not in gone])

    def expanded(self, shape: Sequence[int]) -> "View":
        """Return the view broadcast to ``shape``, which may have more axes."""
        more = len(shape) - len(self.shape)
        strides = [0 if n == 1 else stride for n, stride in zip(self.shape, self.strides, strict=True)]
        return View(tuple(shape), (*[0] * more, *strides), self.start)

    def places(self) -> np.ndarray:
        """Return the number in the array of each entry, in row-major order."""
        places = np.array(self.start)
        for n, stride in zip(self.shape, self.strides, strict=True):
            places = places[..., None] + np.arange(n) * stride
        return places.reshape(-1)


@dataclass(frozen=True)
class Move:
    """Copy in nested loops: ``sizes`` of the loops, and the strides of both sides, outermost first.

    The first number is ``start`` in the source and ``target`` in the result.
    """

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    target_strides: tuple[int, ...]
    target: int


def move(source: View, target: View) -> Move:
    """Return the copy from ``source`` to ``target``, of one shape, in as few loops as possible."""
    loops: list[tuple[int, int, int]] = []
    for n, stride, to in zip(source.shape, source.strides, target.strides, strict=True):
        if n == 1:
            continue
        if loops and loops[-1][1:] == (n * stride, n * to):
            loops[-1] = (loops[-1][0] * n, stride, to)
        else:
            loops.append((n, stride, to))
    sizes, strides, to_strides = zip(*loops, strict=True) if loops else ((1,), (1,), (1,))
    return Move(sizes, strides, source.start, to_strides, target.start)
