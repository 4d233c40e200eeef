"""Memory is reused, but never while a view of it exists."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.files.buffer_pool import BufferPool, is_lasting


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_memory_without_views_is_reused() -> None:
    memory = BufferPool()
    view = memory.take(1000)
    view[:4] = b"full"
    address = _address(view)
    del view
    again = memory.take(2000)
    assert _address(again) == address
    assert (len(again), bytes(again[:4])) == (2000, b"full"), "the very same, as it was left"


@pytest.mark.parametrize(
    "hold",
    [
        lambda view: view,
        lambda view: view[10:20],
        lambda view: view[10:20].toreadonly(),
        lambda view: np.frombuffer(view[10:].toreadonly(), np.uint8, 4, 2).reshape(2, 2)[1:],
    ],
    ids=["view", "part", "read-only part", "array"],
)
def test_memory_with_views_is_not_reused(hold: Callable[[memoryview], Any]) -> None:
    memory = BufferPool()
    view = memory.take(1000)
    view[:] = b"a" * 1000
    held = hold(view)
    del view
    for _ in range(3):
        memory.take(1000)[:] = b"b" * 1000
    assert bytes(held).strip(b"a") == b""


def test_only_free_memory_of_the_last_size_is_kept() -> None:
    memory = BufferPool()
    small, large = 2**21, 2**23
    views = [memory.take(small), memory.take(small), memory.take(large)]
    views.clear()
    memory.take(large)
    assert [len(piece) for piece in memory.pieces] == [large]


def test_only_immutable_memory_is_lasting() -> None:
    view = BufferPool().take(1000)
    assert not np.frombuffer(view, np.uint8).any()  # also without the pool
    assert all(map(is_lasting, (view.toreadonly(), b"bytes", memoryview(b"bytes"))))
    assert not any(map(is_lasting, (view, memoryview(bytearray(5)).toreadonly(), bytearray(5))))
