"""Disks and stores that fail during a training: the learner continues, logs it, and recovers."""

import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from learner.training.run_options import Outcome
from shared.policy.manifest import Manifest
from shared.store.policy_store import LocalPolicyStore
from tests.support.captured_logs import CapturedLogs
from tests.support.learner_loops import STEPS, LoopRun
from tests.support.mounts import mounted
from tests.support.waiting import PATIENCE_S, until

FAILS_FROM, WORKS_FROM, UPDATES = 3, 6, 9


def train_through(run: LoopRun, break_it: Callable[[], None], repair_it: Callable[[], None]) -> None:
    """Nine updates, of which the fourth to sixth find something broken."""
    actions = {FAILS_FROM: break_it, WORKS_FROM: repair_it}
    run.after_update = lambda update: actions.get(update, lambda: None)()
    run.send_many(UPDATES)
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert run.loop.counters.updates == UPDATES
    run.publisher.close()


def said(captured_logs: CapturedLogs, beginning: str) -> int:
    return sum(line.startswith(beginning) for line in captured_logs.messages("WARNING"))


def check_both_recovered(run: LoopRun, captured_logs: CapturedLogs) -> None:
    assert run.published_updates() == [0, 1, 2, 3, 7, 8, 9]
    assert run.checkpoints.load_newest()[1]["counters"]["updates"] == UPDATES
    for what in ("publishing", "writing checkpoints"):
        assert said(captured_logs, f"{what} fails: ") == 1
        assert said(captured_logs, f"{what} works again failures=3") == 1


def replace_by_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("in the way")


def test_checkpoints_that_cannot_be_written_end_no_training(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    run = LoopRun(tmp_path, total_steps=UPDATES * STEPS)
    where = tmp_path / "checkpoints"
    train_through(run, lambda: replace_by_file(where), where.unlink)
    # The observer runs before the checkpoint of its update: those of 3, 4 and 5 failed.
    assert said(captured_logs, "writing checkpoints fails: CheckpointError: ") == 1
    assert said(captured_logs, "writing checkpoints fails failures=2: ") == 1
    assert said(captured_logs, "writing checkpoints works again failures=3") == 1
    assert run.checkpoints.steps() == [8, 9, 10]  # the first was written before any update
    assert run.checkpoints.load_newest()[1]["counters"]["updates"] == UPDATES


def test_a_store_that_is_no_directory_any_more_ends_no_training(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    run = LoopRun(tmp_path, total_steps=UPDATES * STEPS)
    train_through(run, lambda: replace_by_file(run.store.path), run.store.path.unlink)
    assert said(captured_logs, "publishing fails: StoreUnavailable: ") == 1
    assert said(captured_logs, "publishing works again failures=3") == 1
    # Updates 4, 5 and 6 had no version; the numbers go on, though nothing in the store tells of them any more.
    assert run.published_updates() == [7, 8, 9]
    assert run.store.versions() == [4, 5, 6]


def test_a_store_that_is_removed_comes_back(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    run = LoopRun(tmp_path, total_steps=UPDATES * STEPS)
    train_through(run, lambda: shutil.rmtree(run.store.path), lambda: None)
    assert run.store.versions() == [4, 5, 6, 7, 8, 9]
    assert said(captured_logs, "publishing fails") == 0


@contextmanager
def small_file_system(path: Path) -> Iterator[Path]:
    """A file system of 400 kB. Skips where nobody may mount one."""
    with mounted(path, "-t", "tmpfs", "-o", "size=400k", "tmpfs") as disk:
        yield disk


def test_a_disk_that_takes_no_writes_ends_no_training(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    """As file systems become when a disk fails."""
    with small_file_system(tmp_path / "small") as disk:

        def remount(how: str) -> None:
            subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)

        run = LoopRun(disk, total_steps=UPDATES * STEPS)
        train_through(run, lambda: remount("ro"), lambda: remount("rw"))
        check_both_recovered(run, captured_logs)
    assert any("ead-only file system" in line for line in captured_logs.messages("WARNING"))


def test_a_full_disk_ends_no_training(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    with small_file_system(tmp_path / "small") as disk:
        ballast = disk / "ballast"

        def fill() -> None:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:  # until there is no room for more
                while True:
                    file.write(bytes(4096))

        run = LoopRun(disk, total_steps=UPDATES * STEPS)
        train_through(run, fill, ballast.unlink)
        check_both_recovered(run, captured_logs)
    assert any("No space left on device; free some space there" in line for line in captured_logs.messages("WARNING"))


def test_files_that_may_not_grow_end_no_training(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    """A limit on file sizes: another full disk, which needs no rights to make."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    run = LoopRun(tmp_path, total_steps=UPDATES * STEPS)
    try:
        train_through(
            run,
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1])),
            lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert run.published_updates() == [0, 1, 2, 3, 7, 8, 9]
    assert said(captured_logs, "publishing works again") == said(captured_logs, "writing checkpoints works again") == 1
    assert not [path for path in tmp_path.rglob(".tmp-*") if path.is_file()]


class HangingStore(LocalPolicyStore):
    """Publishes nothing more once it hangs, as a network mount whose server is gone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, fsync=False)
        self.answers = threading.Event()
        self.answers.set()

    def publish(self, *arguments: Any, **settings: Any) -> Manifest:
        assert self.answers.wait(PATIENCE_S)
        return super().publish(*arguments, **settings)


def test_a_store_that_hangs_holds_up_no_training(tmp_path: Path) -> None:
    store = HangingStore(tmp_path / "policies")
    run = LoopRun(tmp_path, total_steps=UPDATES * STEPS, store=store, synchronous=False, sync=True)

    def hang() -> None:
        until(lambda: run.publisher.latest_version == 2)  # on a busy machine the loop has given up waiting for it
        store.answers.clear()

    actions = {2: hang}
    run.after_update = lambda update: actions.get(update, lambda: None)()
    run.send_many(UPDATES)
    assert run.loop.run() is Outcome.STEP_LIMIT
    assert run.publisher.latest_version == run.published_updates()[-1] == 2
    store.answers.set()
    assert run.publisher.flush(PATIENCE_S)
    assert run.published_updates()[-1] == UPDATES  # what came meanwhile gave way to the newest
    run.publisher.close()
