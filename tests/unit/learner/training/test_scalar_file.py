"""Scalars that TensorBoard reads, and a disk that has no room for them."""

import os
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learner.training.scalar_file import ScalarFile


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    file = ScalarFile(tmp_path / "tensorboard")
    for step in (10, 20):
        file.write({"losses/policy": 0.5 * step, "charts/lag": 1}, step)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    file.close()
    assert sorted(events.Tags()["scalars"]) == ["charts/lag", "losses/policy"]
    assert [(event.step, event.value) for event in events.Scalars("losses/policy")] == [(10, 5.0), (20, 10.0)]


def test_a_full_disk_is_an_error_to_whoever_writes_and_to_no_thread(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no disk that is always full")
    threads = threading.active_count()
    file = ScalarFile(tmp_path)
    with Path("/dev/full").open("wb") as full:
        os.dup2(full.fileno(), file._file.fileno())
    with pytest.raises(OSError, match="No space left"):
        file.write({"charts/lag": 1}, 1)
    assert threading.active_count() == threads
    file.close()


def test_files_of_one_moment_are_two(tmp_path: Path) -> None:
    for _ in range(2):
        ScalarFile(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 2
