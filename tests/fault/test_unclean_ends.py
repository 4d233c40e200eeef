"""Versions that hang or crash for rare inputs: real actors, which start again and again."""

import contextlib
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from actor.guard.call_deadline import EXCEEDED
from actor.guard.record_place import record_place
from rl_hotswap.launcher.supervisor import Supervisor, TrainingStatus
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import PolicyStore
from tests.support.agent_policies import publish_seed
from tests.support.bad_programs import CrashesRarely, HangsRarely, publish_program
from tests.support.paths import REPOSITORY
from tests.support.signals import deliver
from tests.support.waiting import until

_ENV = "tests.support.rare_environment:Rare-v0"
_KINDS = {"hang": HangsRarely, "crash": CrashesRarely}
_ENDS = {"hang": EXCEEDED, "crash": -signal.SIGSEGV}
_REASONS = {"hang": "did not return from a call on torchscript for", "crash": "crashed its process in a call on"}

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def _command(tmp_path: Path, *flags: str) -> list[str]:
    store = tmp_path / "policies"
    return [
        sys.executable,
        "-m",
        "actor.run",
        f"--env={_ENV}",
        f"--store={store}",
        "--engine=torchscript",
        "--trust-program",
        *flags,
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def _act(tmp_path: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = _command(tmp_path, "--episodes=3", *flags)
    return subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)


@contextlib.contextmanager
def _hanging(tmp_path: Path, *flags: str) -> Iterator["subprocess.Popen[bytes]"]:
    """An actor that hangs in a call, for so long that its end counts."""
    process = subprocess.Popen(_command(tmp_path, *flags), env=_environment(), stderr=subprocess.PIPE)
    try:
        place = record_place(tmp_path / "rl-hotswap")
        until(lambda: any(_hung_s(path) > 0 for path in place.paths()), 60)
        yield process
    finally:
        process.kill()
        process.communicate()


def _hung_s(record: Path) -> float:
    (hung_s,) = struct.unpack_from("<d", record.read_bytes(), 16)
    return float(hung_s)


def _quarantined(store: PolicyStore) -> Sequence[str]:
    return list(store.quarantined().values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", _KINDS)
def test_the_third_start_acts_with_the_version_before(tmp_path: Path, store: PolicyStore, kind: str) -> None:
    publish_seed(store, 0)
    bad = publish_program(store, _KINDS[kind](1))
    for start in (1, 2):
        done = _act(tmp_path, "--call-deadline-s=1")
        assert done.returncode == _ENDS[kind]
        assert ("policy version 1 ended an actor ends=1" in done.stderr) == (start == 2)
        assert ("exceeded its deadline, process ends version=1" in done.stderr) == (kind == "hang")
        assert _quarantined(store) == []
    done = _act(tmp_path, "--call-deadline-s=1")
    assert done.returncode == 0
    assert "episode 3: return 10, length 10, version 0" in done.stdout
    assert done.stderr.count("policy version 1 quarantined reason=UncleanEnd: ") == 1
    (reason,) = _quarantined(store)
    assert _REASONS[kind] in reason
    assert (tmp_path / "rl-hotswap" / "quarantine" / f"{bad.digest}.json").exists()
    assert record_place(tmp_path / "rl-hotswap").paths() == []


_ONNX_LOOP = """
import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from actor.guard.acting_record import ActingRecord
from actor.guard.call_deadline import CallDeadline
node, value = helper.make_node, helper.make_tensor_value_info
body = helper.make_graph(
    [node("Identity", ["go"], ["go_on"]), node("Identity", ["v"], ["w"])], "body",
    [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, None)],
    [value("go_on", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, None)],
)
graph = helper.make_graph(
    [node("Cast", ["x"], ["go"], to=TensorProto.BOOL), node("Loop", ["", "go", "x"], ["y"], body=body)], "graph",
    [value("x", TensorProto.FLOAT, [])], [value("y", TensorProto.FLOAT, None)],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString())
binding = session.io_binding()
record = ActingRecord()
deadline = CallDeadline(record, lambda: 0, 0.2)
record.calling[0] = 1
binding.bind_cpu_input("x", np.ones((), np.float32))
binding.bind_output("y")
session.run_with_iobinding(binding)
"""


def test_the_deadline_ends_a_call_of_onnx_runtime_too() -> None:
    """The thread needs the GIL, which ONNX Runtime releases."""
    command = [sys.executable, "-c", _ONNX_LOOP]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == EXCEEDED
    assert "acting call exceeded its deadline" in done.stderr


@pytest.mark.slow
def test_the_supervisor_starts_an_actor_again_until_it_acts_with_the_version_before(
    tmp_path: Path, store: PolicyStore
) -> None:
    publish_seed(store, 0)
    publish_program(store, HangsRarely(1))
    run = RunDirectory(tmp_path / "run").create()
    log = tmp_path / "episodes.jsonl"
    learner = (
        "import pathlib, sys, time; from shared.run.progress import Summary; "
        "from shared.run.run_directory import RunDirectory; from shared.rollouts.rollout import RolloutAccounts; "
        "log = pathlib.Path(sys.argv[2])\n"
        "while not (log.exists() and log.read_bytes()): time.sleep(0.05)\n"
        "RunDirectory(pathlib.Path(sys.argv[1])).write_summary(Summary(solved=True, env_steps=1, wall_s=1.0, "
        "time_to_target_s=None, mean_return=None, steps_per_s=1.0, versions_published=1, reloads=0, actor_restarts=0, "
        "rollouts=RolloutAccounts()))"
    )
    last = TrainingStatus()
    messages: list[str] = []

    def show(status: TrainingStatus) -> None:
        nonlocal last
        last = status
        messages.extend(status.messages)

    supervisor = Supervisor(
        run,
        lambda _starts: [sys.executable, "-c", learner, str(run.path), str(log)],
        lambda _index, _starts: _command(tmp_path, "--call-deadline-s=1", "--supervised", f"--episode-log={log}"),
        1,
        show,
    )
    assert supervisor.supervise() == 0
    assert last.actor_deaths == 2
    assert '"version":0' in log.read_text()
    ends = [message for message in messages if "process died name=actor-0 exit_code=5" in message]
    assert len(ends) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_the_second_signal_ends_an_actor_that_hangs_and_counts(
    tmp_path: Path, store: PolicyStore, number: signal.Signals
) -> None:
    publish_seed(store, 0)
    publish_program(store, HangsRarely(1))
    with _hanging(tmp_path, "--call-deadline-s=10") as process:
        deliver(process, number)
        assert process.poll() is None
        deliver(process, number)
        assert process.wait(20) == 128 + number
    done = _act(tmp_path, "--follow=pinned:0")
    assert "policy version 1 ended an actor ends=1 reason=did not return from a call" in done.stderr


@pytest.mark.slow
def test_an_actor_that_is_killed_while_it_acts_well_may_act_with_the_version_again(
    tmp_path: Path, store: PolicyStore
) -> None:
    publish_seed(store, 0)
    for _ in range(3):
        command = _command(tmp_path, "--envs=4")
        with subprocess.Popen(command, env=_environment(), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any("episode 20:" in line for line in process.stdout)
            process.kill()
    done = _act(tmp_path)
    assert done.returncode == 0
    assert "ended an actor" not in done.stderr
    assert "version 0" in done.stdout
