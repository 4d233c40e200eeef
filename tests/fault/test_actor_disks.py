"""Disks that fail under an actor, which continues to act and recovers. Uses real mounts and limits."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.rollouts.episodes import FinishedEpisode
from actor.session.session_report import EpisodeLog
from actor.watching.directory_events import file_system_type, reports_all_changes, shared_file_system
from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import OBSERVATIONS, MakeAgent, local_store, publish_seed
from tests.support.captured_logs import CapturedLogs
from tests.support.mounts import mounted
from tests.support.paths import REPOSITORY
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.waiting import until


def act_until(agent: Agent, version: int) -> None:
    """Act, one step an episode, until ``version`` acts."""

    def acts() -> bool:
        agent.act(OBSERVATIONS)
        agent.reset()
        return agent.policy.version == version

    until(acts, 60.0)


@pytest.fixture
def agent(store: LocalPolicyStore, make_agent: MakeAgent) -> Agent:
    """An agent that acts with version 0 and has a loader thread."""
    publish_seed(store, 0)
    agent = make_agent(synchronous=False, deadline_s=60.0)
    agent.reset()
    assert agent.policy.version == 0
    return agent


def test_a_store_that_is_moved_away_and_comes_back(agent: Agent, store: LocalPolicyStore, tmp_path: Path) -> None:
    store.path.rename(tmp_path / "away")
    for _ in range(3):
        agent.act(OBSERVATIONS)
        agent.reset()
    assert agent.policy.version == 0
    (tmp_path / "away").rename(store.path)
    publish_seed(store, 1)
    act_until(agent, 1)


def test_a_store_that_is_deleted_and_made_anew(agent: Agent, store: LocalPolicyStore) -> None:
    """A learner whose store was removed continues the numbers."""
    shutil.rmtree(store.path)
    agent.act(OBSERVATIONS)
    agent.reset()
    publish_seed(store, 1)  # the store object keeps its numbers
    act_until(agent, 1)


def test_a_read_only_store_is_acted_from(store: LocalPolicyStore, tmp_path: Path, captured_logs: CapturedLogs) -> None:
    """The actor cannot share its quarantine of an invalid version."""
    publish_seed(store, 0)
    with (
        mounted(tmp_path / "read-only", "-o", "bind,ro", str(store.path)) as path,
        Agent(local_store(path), AgentOptions(num_envs=3, deadline_s=60.0)) as agent,
    ):
        agent.reset()
        publish_seed(store, 1, action="box")
        until(lambda: agent.adopt() and captured_logs.has("quarantine not shared"))
        agent.act(OBSERVATIONS)
        assert agent.policy.version == 0
        publish_seed(store, 2)
        act_until(agent, 2)
    assert captured_logs.has("ead-only file system")
    assert store.quarantined() == {}


# In a user namespace of its own, whose limits are nobody else's.
_WITHOUT_WATCHES = """
import pathlib, sys
from loguru import logger
logger.remove()
logger.add(sys.stdout, format="{message}")
from actor.watching.policy_watcher import PolicyWatcher
from actor.watching.wake_up import WakeUp
from shared.store.policy_store import LocalPolicyStore
from tests.support.sample_versions import sample_files, sample_manifest
from tests.support.waiting import until

limit = pathlib.Path("/proc/sys/user", sys.argv[2])
limit.write_text("0")
store = LocalPolicyStore(pathlib.Path(sys.argv[1]), fsync=False)
watcher = PolicyWatcher(store, rescan_s=60.0, poll_s=0.1)
watcher.start()
for version in range(2):
    store.publish(sample_files(), sample_manifest)
    assert watcher.check() and watcher.known[-1] == version
    watcher._observe_again_at_s = 0.0  # a retry is due
    watcher.check()
    assert not watcher.has_events and watcher.interval_s == 0.1
limit.write_text("1000")
watcher._observe_again_at_s = 0.0
watcher.check()
assert watcher.has_events
store.publish(sample_files(), sample_manifest)
until(watcher.check)
assert watcher.known == (0, 1, 2)
watcher.stop()
"""


@pytest.mark.parametrize(
    ("limit", "message"), [("max_inotify_watches", "watch limit"), ("max_inotify_instances", "instance limit")]
)
def test_a_store_is_polled_while_the_system_has_no_watches_left(tmp_path: Path, limit: str, message: str) -> None:
    alone = ["unshare", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a namespace takes more rights than these")
    done = subprocess.run(
        [*alone, sys.executable, "-c", _WITHOUT_WATCHES, str(tmp_path / "policies"), limit],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "no file events" in line]  # once for all retries
    assert message in line
    assert " poll_s=0.1 " in line


def test_versions_without_events_are_found_by_rescans(tmp_path: Path) -> None:
    """An overlay has no events for changes of its layers, as a network file system has none for other machines."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={tmp_path / 'lower'},upperdir={tmp_path / 'upper'},workdir={tmp_path / 'work'}"
    below = LocalPolicyStore(tmp_path / "upper" / "policies", fsync=False)
    below.publish(sample_files(), sample_manifest)
    with mounted(tmp_path / "merged", "-t", "overlay", "-o", layers, "overlay") as merged:
        woken = WakeUp()
        store = LocalPolicyStore(merged / "policies")
        watcher = PolicyWatcher(store, woken, rescan_s=0.1)
        watcher.start()
        assert watcher.has_events, "the overlay looks like a file system with events"
        assert watcher.interval_s == 0.1, "an overlay is not known to report all changes"
        watcher.check()
        assert watcher.known == (0,)
        for version in range(1, 3):
            below.publish(sample_files(), sample_manifest)
            until(watcher.check)
            assert watcher.known[-1] == version
        assert not woken.wait(0.0)
        watcher.stop()


class TestFileSystemsThatOthersChange:
    def test_they_are_polled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, captured_logs: CapturedLogs
    ) -> None:
        monkeypatch.setattr("actor.watching.policy_watcher.shared_file_system", lambda _: "nfs4")
        store = LocalPolicyStore(tmp_path / "policies", fsync=False)
        watcher = PolicyWatcher(store, poll_s=0.2)
        watcher.start()
        store.publish(sample_files(), sample_manifest)
        assert watcher.check()
        watcher.stop()
        assert not watcher.has_events
        assert watcher.interval_s == 0.2
        assert captured_logs.has("poll_s=0.2 error=nfs4 has no events for changes by other machines")

    def test_the_innermost_mount_says_what_a_path_is_on(self) -> None:
        mounts = [("/", "ext4"), ("/mnt", "nfs4"), ("/mnt/scratch", "xfs"), ("/mnt/scratch", "fuse.sshfs")]
        where = [(Path(path), kind) for path, kind in mounts]
        for path, kind in {"/mntx/a": "ext4", "/mnt/a": "nfs4", "/mnt/scratch/a": "fuse.sshfs", "relative": ""}.items():
            assert file_system_type(Path(path), where) == kind

    def test_one_of_this_machines_own_is_none_of_them(self, tmp_path: Path) -> None:
        assert shared_file_system(tmp_path) is None
        with mounted(tmp_path / "memory", "-t", "tmpfs", "tmpfs") as memory:
            assert shared_file_system(memory / "not there yet") is None
            assert reports_all_changes(memory / "not there yet")


def test_an_episode_log_survives_a_full_disk(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    with small_disk(tmp_path / "small") as disk:
        log = EpisodeLog(disk / "episodes.jsonl")
        ballast = fill(disk)
        for number in range(300):
            log.write(number + 1, FinishedEpisode(1.0, 10, 0, (0,), "ab" * 32))
        ballast.unlink()
        log.write(301, FinishedEpisode(1.0, 10, 0, (0,), "ab" * 32))
        log.close()
        written = (disk / "episodes.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in written] == [f'{{"episode":{number}' for number in range(1, 302)]
    (line,) = captured_logs.messages("WARNING")
    assert "No space left on device" in line


def test_printing_to_a_full_disk_is_no_error() -> None:
    program = "import os; from actor.session.session_report import print_line as p; p('x' * 9000); p('x'); os._exit(7)"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, stdout=full, check=False)
    assert done.returncode == 7


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    with mounted(path, "-t", "tmpfs", "-o", "size=300k", "tmpfs") as disk:
        yield disk


def fill(disk: Path) -> Path:
    """Fill the disk with one file and return it."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return ballast
