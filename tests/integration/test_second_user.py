"""Attacks by another user of the machine on a run: none succeeds, also if the permissions of its files are lost."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.rollouts.rollout import RolloutAccounts
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory, new_run_directory
from shared.transport.addresses import LOCAL_ADDRESS, resolve_address
from shared.transport.transport_keys import keep_learner_keys
from tests.support.captured_logs import CapturedLogs
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout
from tests.support.second_user import FORGED_LINE, NOBODY, SecondUser
from tests.support.transport_cases import ACTOR_KEYS, Network, learn
from tests.support.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can act as a second user"
)

ROLLOUT = example_rollout(plain_layout())
ON_ACCOUNTS = [
    "stop a training",
    "inject rollouts",
    "announce counts",
    "write into the log",
    "impersonate an actor",
    "flood with frames",
    "exhaust sessions",
]
WAYS = ["ipc", "ipc without permissions", "tcp"]


@pytest.fixture(scope="module")
def second_user() -> Iterator[SecondUser]:
    user = SecondUser()
    yield user
    user.close()


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    """A run in a directory that every user can enter."""
    root = Path(tempfile.mkdtemp(prefix="rl-hotswap-test-", dir="/tmp"))
    root.chmod(0o755)
    run = new_run_directory("CartPole-v1", root)
    run.restrict(group_readable=False)
    keys, layout = keep_learner_keys(run.path), plain_layout()
    public_key = keys.public_key
    run.write_run_config(
        RunConfig(RUN_ID, "CartPole-v1", {}, 0, 4, layout.signature, LOCAL_ADDRESS, learner_public_key=public_key)
    )
    yield run
    shutil.rmtree(root)


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


def lose_permissions(run: RunDirectory) -> None:
    """Let every user enter the run and read all but its keys, and connect to its socket."""
    for path in (run.path, *run.path.rglob("*")):
        if path.suffix != ".key":
            path.chmod(0o777 if path.is_socket() else 0o755 if path.is_dir() else 0o644)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("attack", ON_ACCOUNTS)
def test_no_other_user_reaches_the_accounts(
    network: Network, run: RunDirectory, second_user: SecondUser, captured_logs: CapturedLogs, way: str, attack: str
) -> None:
    address = "tcp://127.0.0.1:0" if way == "tcp" else resolve_address(LOCAL_ADDRESS, run.path)
    receiver = network.receiver(address)
    sender = network.sender(receiver.address, timeout_s=PATIENCE_S)
    assert sender.send(ROLLOUT)
    session_id = learn(receiver).header.session_id
    if "without" in way:
        lose_permissions(run)
    memory = psutil.Process().memory_info().rss
    achieved = second_user.attack(
        attack,
        receiver.address,
        actor_id="actor-0",
        session_id=session_id,
        learner_public_key=ACTOR_KEYS.learner_public_key,
    )
    assert achieved == ""
    assert not captured_logs.has(FORGED_LINE)
    assert psutil.Process().memory_info().rss - memory < 50 * 2**20
    assert receiver.receive(0.0) is None
    assert receiver.live_senders == 1
    assert sender.send(ROLLOUT)
    assert learn(receiver).header.session_id == session_id
    assert receiver.accounts == RolloutAccounts(sent=2, learned=2)
    assert not sender.stop_requested


@pytest.mark.parametrize("permissions", ["private", "lost"])
def test_no_other_user_takes_the_address_of_a_killed_learner(
    network: Network, run: RunDirectory, second_user: SecondUser, permissions: str
) -> None:
    address = resolve_address(LOCAL_ADDRESS, run.path)
    learner = network.program("learner", address)
    sender = network.sender(address)
    assert sender.send(ROLLOUT)
    learner.kill()
    if permissions == "lost":
        lose_permissions(run)
    assert second_user.attack("squat the address", address) == ""
    receiver = network.receiver(address)
    until(lambda: sender.send(ROLLOUT))
    learn(receiver)


@pytest.mark.parametrize("permissions", ["private", "lost"])
def test_no_other_user_reads_the_run(run: RunDirectory, second_user: SecondUser, permissions: str) -> None:
    if permissions == "lost":
        lose_permissions(run)
    only_secrets = {"only_secrets": "yes"} if permissions == "lost" else {}
    assert second_user.attack("read the run", str(run.path), **only_secrets) == ""


def test_the_group_reads_a_group_readable_run_but_not_its_keys_and_does_not_connect(
    network: Network, run: RunDirectory, second_user: SecondUser
) -> None:
    run.restrict(group_readable=True)
    (run.path / "run.json").chmod(0o640)
    receiver = network.receiver(resolve_address(LOCAL_ADDRESS, run.path))
    for path in (run.path, *run.path.rglob("*")):
        os.chown(path, -1, NOBODY)
    assert second_user.attack("read the run", str(run.path)) == "run.json can be read"
    assert second_user.attack("read the run", str(run.path), only_secrets="yes") == ""
    known = {"actor_id": "actor-0", "session_id": "s", "learner_public_key": ACTOR_KEYS.learner_public_key}
    assert second_user.attack("stop a training", receiver.address, **known) == ""
    assert second_user.attack("squat the address", receiver.address) == ""
