"""The switch interval of a process that acts while its policies are loaded on another thread."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_INTERVAL_S = 1e-4


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let threads wait at most 0.1 ms for the GIL instead of 5 ms, until the end of the block.

    The loader thread needs the GIL many times, each time for a moment. The interval belongs to the whole process, so
    a process that acts sets it, not an agent.
    """
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(min(_INTERVAL_S, before_s))
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
