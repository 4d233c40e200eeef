"""The supervisor with small stand-ins for learner and actor: real processes, real signals, no torch."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_hotswap.launcher.supervisor import GAVE_UP, Supervisor, TrainingStatus
from shared.errors import ConfigurationError, EnvironmentFailed
from shared.rollouts.rollout import RolloutAccounts
from shared.run.progress import Progress, Summary
from shared.run.run_directory import RunDirectory
from tests.support.paths import REPOSITORY

# Stand-ins are told the run directory. A read of the fifo "end" blocks until the test opens it. They import little:
# there are a hundred of them, and NumPy would take most of their time.
_PRELUDE = """
import os, signal, sys, time
from shared.process.process_guard import die_with_parent
here = sys.argv[1] + "/"
die_with_parent()
alive = open(here + "alive", "wb", 0) if os.path.exists(here + "alive") else None
def summarise():
    os.rename(here + "a-summary", here + "summary.json")
def checkpoint(*_):
    mark("checkpoint"); summarise(); sys.exit(130)
def mark(name):
    open(here + name, "w").close()
"""
_WAIT = "open(here + 'end').read()"
_WITH_RUN = """
from pathlib import Path
from shared.run.progress import Progress
from shared.run.run_directory import RunDirectory
run = RunDirectory(Path(here))
"""
_SUMMARY = Summary(
    solved=True,
    env_steps=1,
    wall_s=1.0,
    time_to_target_s=None,
    mean_return=None,
    steps_per_s=1.0,
    versions_published=1,
    reloads=0,
    actor_restarts=0,
    rollouts=RolloutAccounts(),
)
_FOREVER = "mark('up-' + str(os.getpid()))\nwhile True: time.sleep(600)"


def _program(text: str, run: RunDirectory) -> list[str]:
    return [sys.executable, "-c", _PRELUDE + text, str(run.path)]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path).create()
    run.write_summary(_SUMMARY)
    (tmp_path / "summary.json").rename(tmp_path / "a-summary")
    os.mkfifo(tmp_path / "end")
    return run


@pytest.fixture
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl_hotswap.launcher.supervisor.restart_delay_s", lambda _: 0.0)


_WITHOUT_DELAYS = pytest.mark.usefixtures("_no_delays")


class _Watcher:
    """Remembers what was shown, and lets the learner end once ``enough`` was seen."""

    def __init__(self, run: RunDirectory, enough: Callable[[TrainingStatus], bool] = lambda _: True) -> None:
        self.run = run
        self.enough = enough
        self.messages: list[str] = []
        self.last = TrainingStatus()

    def show(self, status: TrainingStatus) -> None:
        self.last = status
        self.messages += status.messages
        if self.enough(status):
            with contextlib.suppress(OSError):  # nobody reads it yet, or any more
                os.close(os.open(self.run.path / "end", os.O_WRONLY | os.O_NONBLOCK))


def _supervise(
    run: RunDirectory, learner: list[str], actor: str = _FOREVER, actors: int = 0, watcher: _Watcher | None = None
) -> int:
    """``learner``: the program of the first start, of the second, …; the last one for all further ones."""
    watcher = watcher or _Watcher(run)
    return Supervisor(
        run,
        lambda starts: _program(learner[min(starts, len(learner) - 1)], run),
        lambda _index, _starts: _program(actor, run),
        actors,
        watcher.show,
    ).supervise()


@pytest.mark.parametrize("code", [0, 1])
def test_the_learners_end_is_the_end(run: RunDirectory, code: int) -> None:
    watcher = _Watcher(run, lambda _: len(list(run.path.glob("up-*"))) == 2)
    assert _supervise(run, [f"{_WAIT}; summarise(); sys.exit({code})"], actors=2, watcher=watcher) == code
    assert watcher.last.actors_alive == 0
    assert watcher.last.actor_deaths == 0


def test_a_mistake_is_told_in_the_learners_words(run: RunDirectory) -> None:
    program = "print('python -m learner.run: gamma must be in [0, 1]; found 3', file=sys.stderr); sys.exit(2)"
    with pytest.raises(ConfigurationError, match=r"^gamma must be in \[0, 1\]; found 3$"):
        _supervise(run, [program], actors=1)


def test_a_learner_that_dies_is_started_again(run: RunDirectory) -> None:
    """An uncaught error ends Python with 1, as does a training whose time is over: the summary tells them apart."""
    watcher = _Watcher(run)
    assert _supervise(run, ["raise ValueError('no luck')", "summarise()"], watcher=watcher) == 0
    assert watcher.last.learner_deaths == 1
    (said,) = watcher.messages  # in the form that its children's own lines have
    assert re.fullmatch(
        r"supervisor: WARNING \| rl_hotswap\.launcher\.supervisor:_note_death:\d+ - process died name=learner "
        r"exit_code=1 restart_in_s=0\.5 last_line=ValueError: no luck",
        said,
    )


@_WITHOUT_DELAYS
def test_an_old_summary_is_not_taken_for_the_end(run: RunDirectory) -> None:
    run.write_summary(_SUMMARY)
    watcher = _Watcher(run)
    assert _supervise(run, ["sys.exit(1)", "summarise()"], watcher=watcher) == 0
    assert watcher.last.learner_deaths == 1


def test_an_old_report_is_not_taken_for_the_learners_whatever_its_time(run: RunDirectory) -> None:
    """A clock that was set back since dates it ahead of everything to come."""
    run.write_progress(Progress(phase="ended", updated_unix_s=1e12))
    watcher = _Watcher(run, lambda _: any(run.path.glob("up-*")))
    assert _supervise(run, [f"{_WAIT}; summarise()"], actors=1, watcher=watcher) == 0
    assert any(run.path.glob("up-*")), "the actor was not started"


@_WITHOUT_DELAYS
def test_a_learner_that_always_dies_is_given_up(run: RunDirectory) -> None:
    watcher = _Watcher(run)
    assert _supervise(run, ["sys.exit(70)"], watcher=watcher) == GAVE_UP
    assert watcher.messages[-1].endswith(" - learner given up deaths_in_a_row=5")


@pytest.mark.slow
@_WITHOUT_DELAYS
def test_a_learner_that_gets_further_between_its_deaths_is_not_given_up(run: RunDirectory) -> None:
    checkpoint = "(run.checkpoints / f'checkpoint-{len(list(run.checkpoints.iterdir())):09d}.pt').touch()"
    update = "run.write_progress(Progress(updates=(run.progress() or Progress()).updates + 1))"
    # The newest was damaged, so the learner fell back from it, and made one of that number again.
    again = "newest = max(run.checkpoints.iterdir()); newest.unlink(); newest.touch()"
    watcher = _Watcher(run)
    learners = [f"{_WITH_RUN}{act}; sys.exit(70)" for act in [checkpoint] * 4 + [again] * 4 + [update] * 4]
    assert _supervise(run, [*learners, "summarise()"], watcher=watcher) == 0
    assert watcher.last.learner_deaths == 12


@_WITHOUT_DELAYS
def test_a_learner_that_dies_at_the_same_update_each_time_is_given_up(run: RunDirectory) -> None:
    watcher = _Watcher(run)
    run.write_progress(Progress(updates=7))
    assert _supervise(run, ["sys.exit(70)"], watcher=watcher) == GAVE_UP
    assert watcher.last.learner_deaths == 5


@_WITHOUT_DELAYS
def test_an_actor_that_dies_is_started_again_and_counted(run: RunDirectory) -> None:
    actor = f"""
if os.path.exists(here + "died"):
    {_FOREVER.replace(chr(10), chr(10) + "    ")}
mark("died")
print("WARNING | actor.agent:reset:1 - about to crash", flush=True)
os.kill(os.getpid(), signal.SIGSEGV)
"""
    watcher = _Watcher(run, lambda _: any(run.path.glob("up-*")))
    assert _supervise(run, [f"{_WAIT}; summarise()"], actor, 1, watcher) == 0
    assert watcher.last.actor_deaths == 1
    assert "actor-0: WARNING | actor.agent:reset:1 - about to crash" in watcher.messages
    assert any(" - process died name=actor-0 signal=SIGSEGV" in message for message in watcher.messages)
    summary = run.summary()
    assert summary is not None
    assert summary.actor_restarts == 1


@_WITHOUT_DELAYS
def test_an_actor_that_never_can_ends_the_training(run: RunDirectory) -> None:
    actor = "print('python -m actor.run: no such engine', file=sys.stderr); sys.exit(2)"
    with pytest.raises(ConfigurationError, match=r"^no such engine$"):
        _supervise(run, [_FOREVER], actor, 1)


_FAILS = """
number = sum(name.startswith("failed-") for name in os.listdir(here)) + 1
mark(f"failed-{number}")
print(f"python -m actor.run: fix the environment: Hot-v0 raised OSError: {WHY}, in step {number}", file=sys.stderr)
sys.exit(4)
"""


@_WITHOUT_DELAYS
def test_an_environment_that_fails_alike_five_times_ends_the_training(run: RunDirectory) -> None:
    learner = f"signal.signal(signal.SIGTERM, checkpoint)\n{_FOREVER}"
    expected = r"^fix the environment: Hot-v0 raised OSError: line 7, in step 5 \(5 identical failures in a row\)$"
    with pytest.raises(EnvironmentFailed, match=expected):
        _supervise(run, [learner], _FAILS.replace("{WHY}", "line 7"), 1)
    assert len(list(run.path.glob("failed-*"))) == 5


@pytest.mark.slow
@_WITHOUT_DELAYS
def test_an_environment_that_fails_in_other_ways_is_started_again(run: RunDirectory) -> None:
    watcher = _Watcher(run, lambda _: len(list(run.path.glob("failed-*"))) > 6)
    actor = _FAILS.replace("{WHY}", "{chr(ord('a') + number // 4)}")
    assert _supervise(run, [f"{_WAIT}; summarise()"], actor, 1, watcher) == 0


def test_a_learner_that_ends_the_training_for_its_environment_is_not_started_again(run: RunDirectory) -> None:
    learner = "summarise(); print('python -m learner.run: reward of Hot-v0 is nan', file=sys.stderr); sys.exit(4)"
    with pytest.raises(EnvironmentFailed, match=r"^reward of Hot-v0 is nan$"):
        _supervise(run, [learner], actors=1)


_SUPERVISE = """
import pathlib, sys
from rl_hotswap.launcher import supervisor
from rl_hotswap.launcher.supervisor import Supervisor
from shared.run.run_directory import RunDirectory
run = RunDirectory(pathlib.Path(sys.argv[1]))
prelude, learner, actor, patience = sys.argv[2:]
supervisor._LEARNER_GRACE_S *= float(patience)
command = lambda text: [sys.executable, "-c", prelude + text, str(run.path)]
print("ready", flush=True)
sys.exit(Supervisor(run, lambda _: command(learner), lambda *_: command(actor), 2, lambda _: None).supervise())
"""


def _in_a_process(run: RunDirectory, learner: str, actor: str, patience: float = 1.0) -> "subprocess.Popen[bytes]":
    """Supervise in a process that waits ``patience`` times as long as usual for a learner to stop."""
    command = [sys.executable, "-c", _SUPERVISE, str(run.path), _PRELUDE, learner, actor, str(patience)]
    return subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)


class _Alive:
    """A fifo that learner and actors hold open: its end means that all of them are gone."""

    def __init__(self, run: RunDirectory) -> None:
        os.mkfifo(run.path / "alive")
        self._reader = os.open(run.path / "alive", os.O_RDONLY | os.O_NONBLOCK)
        self._held = os.open(run.path / "alive", os.O_WRONLY)
        os.set_blocking(self._reader, True)

    def wait_for(self, marks: int) -> None:
        """Until that many bytes were written into it."""
        seen = 0
        while seen < marks:
            seen += len(os.read(self._reader, marks - seen))

    def wait_for_the_end(self) -> None:
        os.close(self._held)
        assert os.read(self._reader, 1) == b""
        os.close(self._reader)


_UP = "alive.write(b'.')\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_stop_signal_lets_the_learner_write_its_checkpoint(
    run: RunDirectory, number: signal.Signals, code: int
) -> None:
    alive = _Alive(run)
    learner = f"signal.signal(signal.SIGTERM, checkpoint)\n{_UP}{_FOREVER}"
    with _in_a_process(run, learner, _UP + _FOREVER) as supervisor:
        alive.wait_for(3)
        os.killpg(supervisor.pid, number)  # as a terminal does it: to the whole group, which children are not in
        alive.wait_for_the_end()
    assert supervisor.returncode == code
    assert (run.path / "checkpoint").exists()
    assert run.summary() is not None


@pytest.mark.parametrize("kind", ["deaf", "stopped"])
def test_children_that_do_not_stop_are_killed(run: RunDirectory, kind: str) -> None:
    alive = _Alive(run)
    before = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if kind == "deaf" else ""
    after = "os.kill(os.getpid(), signal.SIGSTOP)\n" if kind == "stopped" else ""
    program = before + _UP + after + _FOREVER
    with _in_a_process(run, program, program, patience=0.1) as supervisor:
        alive.wait_for(3)
        supervisor.send_signal(signal.SIGINT)
        alive.wait_for_the_end()
    assert supervisor.returncode == 130
    assert not (run.path / "checkpoint").exists()


def test_a_second_signal_waits_for_nobody(run: RunDirectory) -> None:
    alive = _Alive(run)
    learner = f"signal.signal(signal.SIGTERM, lambda *_: alive.write(b'.'))\n{_UP}{_FOREVER}"
    with _in_a_process(run, learner, _UP + _FOREVER) as supervisor:
        alive.wait_for(3)
        supervisor.send_signal(signal.SIGINT)
        alive.wait_for(1)
        supervisor.send_signal(signal.SIGINT)
        alive.wait_for_the_end()
    assert supervisor.returncode == 130


def test_nothing_outlives_a_killed_supervisor(run: RunDirectory) -> None:
    alive = _Alive(run)
    with _in_a_process(run, _UP + _FOREVER, _UP + _FOREVER) as supervisor:
        alive.wait_for(3)
        supervisor.kill()
        alive.wait_for_the_end()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part of the guard")
def test_a_child_that_was_stopped_before_it_could_guard_itself_does_not_outlive_the_supervisor_either(
    run: RunDirectory,
) -> None:
    alive = _Alive(run)
    stopped = "import os, signal, sys; alive = open(sys.argv[1] + '/alive', 'wb', 0); alive.write(b'.'); "
    stopped += "os.kill(os.getpid(), signal.SIGSTOP)"
    supervise = _SUPERVISE.replace("prelude + text", "text")
    command = [sys.executable, "-c", supervise, str(run.path), "", stopped, stopped, "1"]
    with subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True) as supervisor:
        alive.wait_for(3)
        supervisor.kill()
        alive.wait_for_the_end()


def test_what_a_dead_actor_left_running_ends_with_it(run: RunDirectory) -> None:
    """An actor's own helper processes are in its session."""
    alive = _Alive(run)
    helper = "import sys, time; time.sleep(600)"
    actor = (
        "import subprocess\n"
        f"subprocess.Popen([sys.executable, '-c', {helper!r}], pass_fds=[alive.fileno()])\n"
        f"{_UP}os._exit(9)"
    )
    watcher = _Watcher(run, lambda status: status.actor_deaths > 0)
    assert _supervise(run, [f"alive.close(); {_WAIT}; summarise()"], actor, 1, watcher) == 0
    alive.wait_for(1)
    alive.wait_for_the_end()
