"""Syntax trees of TorchScript code, read on several threads at once."""

import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from shared.operators.torchscript_syntax import read_code

CODE = "def f(x):\n" + "".join(f"  a{k} = torch.add(x, {k})\n" for k in range(200))


@pytest.fixture
def alternating_threads() -> Iterator[None]:
    """Let every garbage collection give way to another thread, as finalizers written in Python may."""

    def give_way(phase: str, info: dict[str, int]) -> None:
        time.sleep(1e-5)

    before = gc.get_threshold()
    gc.callbacks.append(give_way)
    gc.set_threshold(200)
    yield
    gc.callbacks.remove(give_way)
    gc.set_threshold(*before)


def _at_depth(depth: int, call: Callable[[], object]) -> object:
    return call() if depth == 0 else _at_depth(depth - 1, call)


@pytest.mark.usefixtures("alternating_threads")
def test_threads_that_parse_at_the_same_time_do_not_disturb_each_other() -> None:
    errors = []

    def read(depth: int) -> None:
        try:
            for _ in range(5):
                found = _at_depth(depth, lambda: read_code({"code/__torch__.py": CODE.encode()}))
                assert "__torch__.f" in found.functions  # type: ignore[attr-defined]
        except BaseException as error:  # noqa: BLE001 - a thread must not end in silence
            errors.append(error)

    for _ in range(10):
        threads = [threading.Thread(target=read, args=(30 * k,)) for k in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
