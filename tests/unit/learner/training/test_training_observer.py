"""Progress, scalars and summary of a training, also while the disk is full."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from learner.ppo.learner import UpdateMetrics
from learner.training import training_observer
from learner.training.training_observer import ScalarFile, TrainingObserver, summarise
from shared.run.run_directory import RunDirectory
from tests.support.captured_logs import CapturedLogs
from tests.support.learner_loops import STEPS, LoopRun


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write progress and scalars after every update."""
    for name in ("_PROGRESS_PERIOD_S", "_SCALARS_PERIOD_S"):
        monkeypatch.setattr(training_observer, name, 0.0)


@pytest.fixture
def trained(tmp_path: Path) -> LoopRun:
    run = LoopRun(tmp_path / "training", total_steps=3 * STEPS)
    run.send_many(3)
    run.loop.run()
    run.publisher.close()
    return run


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run").create()


def test_progress_reports_the_training(trained: LoopRun, directory: RunDirectory) -> None:
    observer = TrainingObserver(directory)
    observer.after_update(trained.loop, UpdateMetrics())
    progress = directory.progress()
    assert progress is not None
    assert (progress.phase, progress.env_steps, progress.updates, progress.version) == ("training", 3 * STEPS, 3, 3)
    assert (progress.episodes, progress.mean_return, progress.lag) == (3, 20.0, 2)
    assert progress.rollouts == trained.receiver.accounts
    observer.report(trained.loop, "ended")
    progress = directory.progress()
    assert progress is not None
    assert progress.phase == "ended"
    observer.close()


def test_steps_per_second_are_those_between_two_looks(trained: LoopRun, directory: RunDirectory) -> None:
    observer = TrainingObserver(directory)
    observer.report(trained.loop, "training")
    trained.loop.counters.env_steps += 1000
    observer.report(trained.loop, "training")
    progress = directory.progress()
    assert progress is not None
    assert progress.steps_per_s > 0
    observer.close()


def test_scalars_are_written_as_they_come(trained: LoopRun, directory: RunDirectory) -> None:
    observer = TrainingObserver(directory)
    observer.after_update(trained.loop, UpdateMetrics(entropy=0.5, gradient_steps=7))
    events = EventAccumulator(str(directory.tensorboard)).Reload()  # before the writer is closed
    (entropy,) = events.Scalars("losses/entropy")
    assert (entropy.step, entropy.value) == (3 * STEPS, 0.5)
    assert events.Scalars("rollouts/learned")[0].value == 3
    assert events.Scalars("charts/mean_return")[0].value == 20
    observer.close()
    observer.close()


def test_a_full_disk_is_logged_and_writing_continues_later(
    trained: LoopRun, directory: RunDirectory, captured_logs: CapturedLogs
) -> None:
    shutil.rmtree(directory.path)
    directory.path.write_text("in the way")
    observer = TrainingObserver(directory)
    for _ in range(3):
        observer.after_update(trained.loop, UpdateMetrics())
    assert sum(line.startswith("writing progress.json fails: ") for line in captured_logs.messages("WARNING")) == 1
    assert sum(line.startswith("writing to TensorBoard fails: ") for line in captured_logs.messages("WARNING")) == 1

    directory.path.unlink()
    directory.create()
    observer.after_update(trained.loop, UpdateMetrics(entropy=0.25))
    assert any(line.startswith("writing progress.json works again") for line in captured_logs.messages("WARNING"))
    assert any(line.startswith("writing to TensorBoard works again") for line in captured_logs.messages("WARNING"))
    assert directory.progress() is not None
    events = EventAccumulator(str(directory.tensorboard)).Reload()
    assert events.Scalars("losses/entropy")[-1].value == 0.25
    observer.close()


def test_the_summary_counts_the_training(trained: LoopRun) -> None:
    summary = summarise(trained.loop)
    assert (summary.solved, summary.time_to_target_s) == (False, None)
    assert (summary.env_steps, summary.versions_published, summary.mean_return) == (3 * STEPS, 4, 20.0)
    assert summary.rollouts.learned == summary.rollouts.sent == 3
    assert summary.wall_s > 0
    assert summary.steps_per_s > 0
    trained.loop.counters.time_to_target_s = 1.5
    assert summarise(trained.loop).solved


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
