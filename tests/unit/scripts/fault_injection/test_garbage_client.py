"""Invalid rollouts of a chaos run: each is rejected for its flaw, and no other rollout may be invalid."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from scripts.fault_injection.garbage_client import INVALID, InvalidRollouts, flood, send_invalid
from scripts.fault_injection.invariants import Invariants
from shared.rollouts.rollout import RolloutAccounts
from shared.run.progress import Progress
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.transport.addresses import LOCAL_ADDRESS, resolve_address
from shared.transport.transport_keys import keep_learner_keys
from shared.transport.zmq_receiver import ZmqReceiver
from tests.support.captured_logs import CapturedLogs
from tests.support.rollout_examples import RUN_ID, plain_layout

REASONS = {
    "wrong shape": "expected arrays in frames of",
    "another run": "found ('another'",
    "value that is not finite": "reward holds values that are not finite",
    "observation that is not finite": "observation[0] holds values that are not finite",
    "huge reward": "reward holds values outside [-1e+06, 1e+06]",
    "impossible log-probability": "behaviour_log_prob holds values outside [-100, 0.001]",
    "impossible return": "no episode can have ended with this return",
}


LAYOUT = replace(plain_layout(), reward_limit=1e6)
CONFIG = RunConfig(RUN_ID, "CartPole-v1", {}, 0, LAYOUT.length, LAYOUT.signature, LOCAL_ADDRESS)


@pytest.fixture
def receiver(run: RunDirectory) -> Iterator[ZmqReceiver]:
    address = resolve_address(LOCAL_ADDRESS, run.path)
    receiver = ZmqReceiver(address, LAYOUT, RUN_ID, keys=keep_learner_keys(run.path))
    yield receiver
    receiver.close()


@pytest.mark.parametrize("kind", INVALID)
def test_each_kind_is_rejected_for_its_flaw(
    run: RunDirectory, receiver: ZmqReceiver, captured_logs: CapturedLogs, kind: str
) -> None:
    assert send_invalid(run.path, CONFIG, kind, timeout_s=10.0)
    while receiver.accounts.invalid == 0:  # the timeout of pytest ends a failing test
        assert receiver.receive(0.1) is None
    assert receiver.accounts == RolloutAccounts(sent=1, invalid=1)
    assert any(REASONS[kind] in message for message in captured_logs.messages("WARNING"))


def test_garbage_passes_the_handshake(run: RunDirectory, receiver: ZmqReceiver, captured_logs: CapturedLogs) -> None:
    assert flood(run.path, np.random.default_rng(0)) > 0
    while not captured_logs.has("invalid message received"):
        assert receiver.receive(0.1) is None


def test_without_a_learner_nothing_is_sent(run: RunDirectory) -> None:
    keep_learner_keys(run.path)
    assert not send_invalid(run.path, CONFIG, "another run", timeout_s=0.05)


@pytest.mark.parametrize(("sent", "counted", "is_good"), [(2, 0, True), (2, 2, True), (2, 3, False), (0, 1, False)])
def test_more_invalid_rollouts_than_were_sent_are_a_violation(
    run: RunDirectory, invariants: Invariants, sent: int, counted: int, is_good: bool
) -> None:
    rollouts = InvalidRollouts(run, invariants)
    rollouts.sent = sent
    rollouts.check_count(counted)
    assert invariants.is_good is is_good


@pytest.mark.parametrize(("counted", "is_good"), [(0, False), (len(INVALID) - 1, False), (len(INVALID), True)])
def test_an_undisturbed_learner_must_count_every_one(
    run: RunDirectory, invariants: Invariants, monkeypatch: pytest.MonkeyPatch, counted: int, is_good: bool
) -> None:
    taken: list[str] = []

    def take(_: InvalidRollouts, kind: str, _timeout_s: float) -> bool:
        taken.append(kind)
        run.write_progress(Progress(rollouts=RolloutAccounts(invalid=min(counted, len(taken)))))
        return True

    monkeypatch.setattr(InvalidRollouts, "send", take)
    monkeypatch.setattr("scripts.fault_injection.garbage_client._REJECTED_WITHIN_S", 0.0)
    InvalidRollouts(run, invariants).check_rejection()
    assert taken == list(INVALID)
    assert invariants.is_good is is_good
