"""Signals to other processes, one after the other: two equal signals that are pending at once are one."""

import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.support.waiting import until


def deliver(process: "subprocess.Popen[Any]", number: signal.Signals) -> None:
    """Send a signal and wait until the process has received it, or has ended."""
    process.send_signal(number)
    until(lambda: not _is_pending(process, number))


def _is_pending(process: "subprocess.Popen[Any]", number: signal.Signals) -> bool:
    if process.poll() is not None:
        return False
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)
