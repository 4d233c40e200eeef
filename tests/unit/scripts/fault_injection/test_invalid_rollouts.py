"""The invalid rollouts of a chaos run: each is rejected for what is wrong with it, and no others may be."""

import secrets
from pathlib import Path

import pytest
from loguru import logger

from scripts.fault_injection.invalid_rollouts import INVALID, InvalidRollouts, send_invalid
from scripts.fault_injection.invariants import Invariants
from shared.rollouts.rollout_accounts import RolloutAccounts
from shared.run.progress import Progress
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from shared.transport.zmq_receiver import ZmqReceiver
from tests.support.rollout_examples import RUN_ID, plain_layout

SAID = {
    "of a wrong shape": "expected arrays in frames of",
    "of another run": "found ('another'",
    "with a value that is not finite": "reward holds values that are not finite",
}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run").create()


@pytest.fixture
def invariants() -> Invariants:
    return Invariants()


@pytest.fixture
def config() -> RunConfig:
    layout, address = plain_layout(), f"ipc://@rl-hotswap-test-{secrets.token_hex(8)}"
    return RunConfig(RUN_ID, "CartPole-v1", {}, 0, layout.length, layout.signature, address)


@pytest.mark.parametrize("kind", INVALID)
def test_it_is_rejected_for_what_is_wrong_with_it(config: RunConfig, kind: str) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING")
    receiver = ZmqReceiver(config.address, plain_layout(), RUN_ID)
    try:
        assert send_invalid(config, kind, patience_s=10.0)
        while receiver.accounts.invalid == 0:  # pytest's own timeout ends this where it never is
            assert receiver.receive(0.1) is None
        assert receiver.accounts == RolloutAccounts(sent=1, invalid=1)
    finally:
        receiver.close()
        logger.remove(sink)
    assert any(SAID[kind] in line for line in said), said


def test_where_nobody_listens_none_is_sent(config: RunConfig) -> None:
    assert not send_invalid(config, "of another run", patience_s=0.05)


@pytest.mark.parametrize(("sent", "counted", "is_good"), [(2, 0, True), (2, 2, True), (2, 3, False), (0, 1, False)])
def test_no_more_may_be_invalid_than_were_sent_to_be(
    run: RunDirectory, invariants: Invariants, sent: int, counted: int, is_good: bool
) -> None:
    rollouts = InvalidRollouts(run, invariants)
    rollouts.sent = sent
    rollouts.may_be_invalid(counted)
    assert invariants.is_good is is_good


@pytest.mark.parametrize(("counted", "is_good"), [(0, False), (2, False), (3, True)])
def test_an_undisturbed_learner_has_to_count_every_one(
    run: RunDirectory, invariants: Invariants, monkeypatch: pytest.MonkeyPatch, counted: int, is_good: bool
) -> None:
    taken: list[str] = []

    def take(_: InvalidRollouts, kind: str, _patience_s: float) -> bool:
        taken.append(kind)
        run.write_progress(Progress(rollouts=RolloutAccounts(invalid=min(counted, len(taken)))))
        return True

    monkeypatch.setattr(InvalidRollouts, "send", take)
    monkeypatch.setattr("scripts.fault_injection.invalid_rollouts._REJECTED_WITHIN_S", 0.0)
    InvalidRollouts(run, invariants).must_be_rejected()
    assert taken == list(INVALID)
    assert invariants.is_good is is_good
