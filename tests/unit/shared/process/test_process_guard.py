"""The tests start a parent process, which starts a guarded child, and kill the parent."""

import os
import signal
import subprocess
import sys

import pytest

from tests.support.paths import REPOSITORY

# Guards itself, prints that, and waits; "native" waits with the GIL held.
_CHILD = """
import ctypes, sys, time
import shared.process.process_guard as guard
if sys.argv[1] == "lifeline only":
    guard.sys.platform = "elsewhere"
guard.die_with_parent()
print("guarded", flush=True)
ctypes.PyDLL(None).pause() if sys.argv[1] == "native" else time.sleep(600)
"""

_PARENT = """
import os, subprocess, sys, time
from shared.process.process_guard import Lifeline
lifeline = Lifeline()
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE, start_new_session=True,
    env=os.environ | lifeline.environment, pass_fds=lifeline.pass_fds,
)
print("child", child.stdout.readline().decode().strip(), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["both", "native", "lifeline only"])
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_does_not_outlive_its_parent(how: str, ending: signal.Signals) -> None:
    if how == "native" and sys.platform != "linux":
        pytest.skip("only the kernel reaches a child in native code")
    command, pipes = (
        [sys.executable, "-c", _PARENT, _CHILD, how],
        {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE},
    )
    with subprocess.Popen(command, cwd=REPOSITORY, text=True, **pipes) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert parent.stdout.readline() == "child guarded\n"
        parent.send_signal(ending)
        # The child inherited this pipe: it ends when both processes have.
        assert parent.stderr.read() == ""
    assert parent.returncode == -ending


def test_a_parent_that_ended_before_the_guard_is_noticed() -> None:
    environment = os.environ | {"RL_HOTSWAP_PARENT_PID": "1"}  # not this process, which is the real parent
    command = [sys.executable, "-c", _CHILD, "both"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b""
