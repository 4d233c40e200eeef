"""``python -m actor.run`` with real stores and environments, and with processes where they matter."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from actor.run import main
from actor.session.actor_settings import ActorSettings
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from shared.policy.manifest import Manifest
from shared.process.command_line import run_command
from shared.rollouts.rollout import Rollout, RolloutLayout
from shared.run.environment_description import describe_environment
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.store.policy_store import PolicyStore, open_store
from shared.transport.addresses import LOCAL_ADDRESS, resolve_address
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.transport_keys import keep_learner_keys
from shared.transport.zmq_receiver import ZmqReceiver
from tests.support.agent_policies import publish, publish_run
from tests.support.paths import REPOSITORY
from tests.support.second_user import NOBODY

ENV = "CartPole-v1"
LENGTH = 8


def _policy(seed: int) -> ActingPolicy:
    description = describe_environment(ENV)
    generator = torch.Generator().manual_seed(seed)
    config = NetworkConfig(hidden_sizes=(8,))
    return ActingPolicy(description.leaves, description.action, config, description.masked, generator).eval()


@pytest.fixture(scope="module")
def exporter() -> PolicyExporter:
    policy = _policy(0)
    return PolicyExporter(policy, policy.signature)


@pytest.fixture
def store(tmp_path: Path, exporter: PolicyExporter) -> PolicyStore:
    """A store with version 0."""
    store = open_store(tmp_path / "policies")
    publish(store, _policy(0), exporter)
    return store


def _act(*flags: str) -> int:
    return run_command("python -m actor.run", ActorSettings, main, [f"--env={ENV}", *flags])


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextlib.contextmanager
def _process(*flags: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process, which is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "actor.run", f"--env={ENV}", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    """Return the first line of the process that contains ``text``."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    assert process.stderr is not None
    raise AssertionError(f"the process ended without {text!r}; stderr: {process.stderr.read()!r}")


def test_it_acts_and_prints_episodes(tmp_path: Path, store: PolicyStore, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "logs" / "episodes.jsonl"
    assert _act(f"--store={tmp_path / 'policies'}", "--episodes=3", "--seed=1", f"--episode-log={log}") == 0
    digest = store.open(0).manifest.digest
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("version 0 acts now (")
    assert digest[:12] in out[0]
    episodes = _lines(log)
    assert [line["episode"] for line in episodes] == [1, 2, 3]
    for said, line in zip(out[1:], episodes, strict=False):
        assert line.keys() == {"episode", "return", "length", "version", "versions", "digest"}
        assert (line["version"], line["versions"], line["digest"]) == (0, [0], digest)
        assert line["return"] == line["length"]
        assert said == f"episode {line['episode']}: return {line['return']:g}, length {line['length']}, version 0"
    assert out[-1].startswith("3 episodes, mean return ")


@pytest.mark.parametrize("flags", [[], ["--envs=3"], ["--deterministic"], ["--engine=torchscript"], ["--engine=onnx"]])
def test_the_same_seed_gives_the_same_episodes(tmp_path: Path, store: PolicyStore, flags: Sequence[str]) -> None:
    logs = []
    for i, seed in enumerate((5, 5, 6)):
        logs.append(tmp_path / f"{i}.jsonl")
        where = f"--store={tmp_path / 'policies'}"
        assert _act(where, "--episodes=4", f"--seed={seed}", f"--episode-log={logs[-1]}", *flags) == 0
    lengths = [[line["length"] for line in _lines(log)] for log in logs]
    assert lengths[0] == lengths[1]
    assert lengths[0] != lengths[2]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env=CartPol-v1"], "did you mean CartPole-v1"),
        (["--env=Acrobot-v1", "--deadline-s=20"], "does not fit Acrobot-v1"),
        (["--envs=0"], "--envs"),
        (["--episodes=many"], "--episodes"),
        (["--follow=newset"], "'newset'"),
        (["--follow=pinned:7", "--deadline-s=1"], "version 7 is not among"),
        (["--follow=history:0.5", "--envs=2"], "needs --envs 1"),
        (["--canary=1.5"], "above 0 and below 1"),
        (["--canary=0.5", "--follow=pinned:0"], "to follow newest"),
        (["--deadline-s=-1"], "--deadline-s"),
        (["--run-dir=elsewhere"], "--run-dir and --store"),
        (["--store={file}"], "file"),
        (["--store={file}-typo"], "there is no policy store"),
        (["--store={empty}", "--deadline-s=1"], "no version has been published"),
        (["--store=nonsense://x"], "nonsense"),
        (["--episode-log={empty}"], "cannot write the episode log"),
    ],
)
def test_an_error_is_one_line_and_code_2(
    tmp_path: Path, store: PolicyStore, capsys: pytest.CaptureFixture[str], flags: Sequence[str], said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    flags = [flag.format(file=tmp_path / "file", empty=tmp_path / "empty") for flag in flags]
    assert _act(f"--store={tmp_path / 'policies'}", "--deadline-s=0", "--episodes=1", *flags) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith("python -m actor.run: ")
    assert said in err[-1]
    assert not any("Traceback" in line for line in err)
    assert not (tmp_path / "file-typo").exists()


@pytest.mark.parametrize("has_log", [True, False])
def test_an_environment_that_raises_is_one_line_and_code_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_log: bool
) -> None:
    env = "tests.support.counting_environment:Raising-v0"
    run = publish_run(tmp_path, env, onnx=False)
    where = f"--run-dir={run.path}" if has_log else f"--store={run.policies}"
    assert _act(f"--env={env}", where, "--seed=0", "--name=me") == 4
    err = capsys.readouterr().err.splitlines()
    log = run.logs / "me.log"
    said = f"python -m actor.run: fix the environment: {env} raised Unsendable: the motor is hot, in step 3"
    if has_log:
        assert err[-1] == f"{said}; the traceback is in {log}"
        assert "    raise Unsendable" in log.read_text()
        assert not any("Unsendable(" in line for line in err)
    else:
        assert err[-1] == said
        assert any(line.strip() == 'raise Unsendable("the motor", "is hot")' for line in err)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to another user")
def test_the_run_of_another_user_is_acted_from_without_a_write_into_it(tmp_path: Path) -> None:
    """A link in place of the log would lead to a file of this user."""
    run = publish_run(tmp_path / "run", ENV, onnx=False)
    own_file = tmp_path / "profile"
    own_file.touch()
    (run.logs / "me.log").symlink_to(own_file)
    os.chown(run.path, NOBODY, NOBODY)
    assert _act(f"--run-dir={run.path}", "--name=me", "--episodes=1") == 0
    assert own_file.read_bytes() == b""


def test_without_a_run_it_prints_the_reason_for_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _act("--deadline-s=0") == 2
    out, err = capsys.readouterr()
    assert "waiting for a run of CartPole-v1 under runs/" in out
    assert err.startswith("python -m actor.run: nothing to act with after 0 s")


def test_it_waits_for_the_first_version_and_follows_the_next(tmp_path: Path, exporter: PolicyExporter) -> None:
    where = tmp_path / "policies"
    where.mkdir()
    with _process(f"--store={where}") as process:
        assert str(where) in _read_until(process, "waiting for a first policy version")
        store = open_store(where)
        publish(store, _policy(0), exporter)
        _read_until(process, "version 0 acts now")
        _read_until(process, "episode 3:")
        publish(store, _policy(1), exporter)
        _read_until(process, "version 1 acts now")
        assert _read_until(process, "version 1").startswith("episode ")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(tmp_path: Path, store: PolicyStore, number: int, code: int) -> None:
    log = tmp_path / "episodes.jsonl"
    with _process(f"--store={tmp_path / 'policies'}", "--envs=4", f"--episode-log={log}") as process:
        _read_until(process, "episode 5:")
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == code
        assert [line for line in err.splitlines() if "still waiting for a policy" not in line] == []  # a busy machine
    told = out.splitlines()[-1]
    assert told.startswith(f"{len(_lines(log))} episodes, mean return ")


def test_a_signal_ends_the_wait_for_a_policy_too(tmp_path: Path) -> None:
    with _process(f"--store={tmp_path}") as process:
        _read_until(process, "waiting for a first policy version")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (143, "")


def test_an_actor_on_onnx_never_imports_torch(tmp_path: Path, store: PolicyStore) -> None:
    script = (
        "import sys; from actor.run import main; from actor.session.actor_settings import ActorSettings; "
        f"main(ActorSettings(env={ENV!r}, store={str(tmp_path / 'policies')!r}, episodes=2, engine='onnx')); "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert result.stdout.splitlines()[-1] == "False"


class _LiveRun:
    """A run whose learner is this test: the lock is held, rollouts arrive at ``receiver``."""

    def __init__(self, path: Path, exporter: PolicyExporter) -> None:
        self.directory = RunDirectory(path).create()
        self._exporter = exporter
        signature = _policy(0).signature
        self.layout = RolloutLayout(signature, LENGTH)
        address, keys = resolve_address(LOCAL_ADDRESS, self.directory.path), keep_learner_keys(self.directory.path)
        self.receiver = ZmqReceiver(address, self.layout, "run-1", ReceiverOptions(heartbeat_s=0.05), keys=keys)
        kwargs, public_key = {"max_episode_steps": 20}, keys.public_key
        self.directory.write_run_config(
            RunConfig("run-1", ENV, kwargs, 0, LENGTH, signature, LOCAL_ADDRESS, learner_public_key=public_key)
        )

    def publish(self, seed: int) -> Manifest:
        return publish(open_store(self.directory.policies), _policy(seed), self._exporter)

    def receive(self) -> Rollout:
        rollout = self.receiver.receive(20.0)
        assert rollout is not None, "no rollout came"
        self.receiver.count_learned(rollout)
        return rollout


@pytest.fixture
def live_run(tmp_path: Path, exporter: PolicyExporter) -> Iterator[_LiveRun]:
    run = _LiveRun(tmp_path / "runs" / "live", exporter)
    with run.directory.lock_learner(), contextlib.closing(run.receiver):
        yield run


def test_it_finds_the_live_run_and_joins_it(tmp_path: Path, live_run: _LiveRun) -> None:
    digests = {0: live_run.publish(0).digest}
    with _process("--envs=3", cwd=tmp_path) as process:
        assert str(live_run.directory.path.name) in _read_until(process, "joined the training in")
        first = live_run.receive()
        live_run.layout.check(first)
        assert (first.batch_size, first.header.version, first.header.digest) == (3, 0, digests[0])
        digests[1] = live_run.publish(1).digest
        while (rollout := live_run.receive()).header.version == 0:
            live_run.layout.check(rollout)
        assert (rollout.header.version, rollout.header.digest) == (1, digests[1])
        _read_until(process, "version 1 acts now")
        lengths = live_run.receive().header.episodes.lengths
        while not lengths:
            lengths = live_run.receive().header.episodes.lengths
        assert max(lengths) <= 20  # the run's own keyword arguments reached the environment
        live_run.receiver.stop_actors(5.0)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, err) == (0, "")
        assert "the training is over" in out
    accounts = live_run.receiver.accounts
    assert accounts.invalid == accounts.stale == 0
    assert accounts.sent == accounts.learned + accounts.lost


def test_an_actor_that_may_not_read_the_key_acts_without_sending(tmp_path: Path, live_run: _LiveRun) -> None:
    """As one of the group of a group-readable run. Root may read everything, so the process asks a stricter kernel."""
    live_run.publish(0)
    script = (
        "import os, sys; asked = os.access; "
        "os.access = lambda path, mode: not str(path).endswith('actor.key') and asked(path, mode); "
        "from actor.run import main; from actor.session.actor_settings import ActorSettings; "
        f"sys.exit(main(ActorSettings(env={ENV!r}, episodes=2)))"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "no rollouts are sent: only the owner of" in done.stdout
    assert "joined the training" not in done.stdout
    assert live_run.receiver.accounts.sent == 0


def test_it_acts_the_missing_episodes_after_the_training(tmp_path: Path, live_run: _LiveRun) -> None:
    live_run.publish(0)
    with _process("--episodes=200", cwd=tmp_path) as process:
        live_run.receive()
        live_run.receiver.stop_actors(5.0)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
    assert out.index("the training is over") < out.index("episode 200:")


@pytest.mark.parametrize("flag", ["--no-send", "--deterministic", "--follow=pinned:0"])
def test_rollouts_that_cannot_be_learned_from_are_not_sent(
    live_run: _LiveRun, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    live_run.publish(0)
    assert _act(f"--run-dir={live_run.directory.path}", "--episodes=2", flag) == 0
    assert "joined" not in capsys.readouterr().out
    assert live_run.receiver.receive(0.0) is None
    assert live_run.receiver.live_senders == 0


def test_a_run_without_a_learner_is_acted_from(
    tmp_path: Path, exporter: PolicyExporter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _LiveRun(tmp_path / "runs" / "ended", exporter)
    run.receiver.close()
    run.publish(0)
    monkeypatch.chdir(tmp_path)
    assert _act("--episodes=2") == 0
    assert "joined" not in capsys.readouterr().out
    (log,) = run.directory.logs.glob("*.log")
    assert "policy version 0 adopted" in log.read_text()


def test_a_supervised_actor_is_silent_and_ends_with_the_training(tmp_path: Path, live_run: _LiveRun) -> None:
    live_run.publish(0)
    flags = (f"--run-dir={live_run.directory.path}", "--supervised", "--name=actor-0")
    with _process(*flags) as process:
        assert live_run.receive().header.actor_id == "actor-0"
        process.send_signal(signal.SIGINT)  # a supervised actor ignores Ctrl-C
        live_run.receive()
        live_run.receive()
        live_run.receiver.stop_actors(5.0)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
    assert (live_run.directory.logs / "actor-0.log").exists()
