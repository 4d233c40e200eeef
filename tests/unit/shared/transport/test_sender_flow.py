"""Decisions of a sender, without socket and clock."""

import pytest

from shared.transport.messages import Credit, Refused, Stop, Welcome
from shared.transport.sender_flow import SenderFlow

HEARTBEAT_S = 0.5
TIMEOUT_S = 5.0


@pytest.fixture
def flow() -> SenderFlow:
    """A sender that is welcome at 0 s, with a window of 2."""
    flow = SenderFlow(2, TIMEOUT_S, 0.0)
    flow.greeted(0.0)
    flow.process(Welcome(0, 0, HEARTBEAT_S), 0.0)
    return flow


def test_a_new_sender_greets_and_waits_to_be_welcome() -> None:
    flow = SenderFlow(1, TIMEOUT_S, 0.0)
    assert flow.hello_due(0.0)
    assert not flow.has_room
    flow.greeted(0.0)
    assert not flow.hello_due(0.0)
    assert flow.hello_due(flow.wait_s(0.0))  # if it is not answered
    flow.process(Welcome(0, 0, HEARTBEAT_S), 0.1)
    assert flow.has_room


def test_the_window_closes_and_opens(flow: SenderFlow) -> None:
    flow.count_sent()
    assert flow.has_room
    flow.count_sent()
    assert not flow.has_room
    flow.process(Credit(1), 0.1)
    assert flow.has_room


def test_credit_is_a_total(flow: SenderFlow) -> None:
    for _ in range(2):
        flow.count_sent()
    flow.process(Credit(2), 0.1)
    flow.count_sent()
    flow.count_sent()
    flow.process(Credit(1), 0.2)  # late
    flow.process(Credit(2), 0.2)  # repeated
    assert not flow.has_room
    flow.process(Credit(999), 0.3)  # nonsense
    flow.count_sent()
    flow.count_sent()
    assert not flow.has_room


def test_the_learner_is_alive_until_the_timeout_and_a_stop_is_final(flow: SenderFlow) -> None:
    assert flow.learner_alive(TIMEOUT_S - 0.01)
    assert not flow.learner_alive(TIMEOUT_S)
    flow.process(Credit(0), 100.0)
    assert flow.learner_alive(100.0 + TIMEOUT_S - 0.01)
    flow.process(Stop(), 0.1)
    flow.process(Credit(0), 0.2)
    assert flow.stop


def test_a_silent_learner_is_greeted_before_the_timeout(flow: SenderFlow) -> None:
    assert not flow.hello_due(HEARTBEAT_S)
    assert flow.hello_due(2 * HEARTBEAT_S)
    flow.greeted(2 * HEARTBEAT_S)
    assert not flow.hello_due(2 * HEARTBEAT_S)
    assert flow.hello_due(4 * HEARTBEAT_S)


def test_after_a_loss_the_count_is_announced_first(flow: SenderFlow) -> None:
    flow.count_lost()
    assert (flow.sent, flow.lost) == (1, 1)
    assert not flow.has_room
    flow.process(Credit(0), 10.0)
    assert flow.hello_due(10.0)
    flow.greeted(10.0)
    flow.process(Welcome(0, 0, HEARTBEAT_S), 10.0)  # the answer to an older greeting
    assert not flow.has_room
    assert not flow.hello_due(10.0)
    flow.process(Welcome(1, 1, HEARTBEAT_S), 10.0)
    assert flow.has_room


def test_after_a_disconnection_the_peer_is_greeted_first(flow: SenderFlow) -> None:
    flow.disconnected()
    assert flow.hello_due(0.0)
    assert not flow.has_room
    flow.greeted(0.1)
    flow.process(Welcome(0, 0, HEARTBEAT_S), 0.1)
    assert flow.has_room


def test_a_refusal_holds_until_a_welcome(flow: SenderFlow) -> None:
    flow.process(Refused("another run"), 0.1)
    assert flow.refusal == "another run"
    assert not flow.learner_alive(0.1)
    assert not flow.has_room
    flow.process(Welcome(0, 0, HEARTBEAT_S), 0.2)
    assert flow.refusal is None
    assert flow.learner_alive(0.2)
    assert flow.has_room


@pytest.mark.parametrize("disconnected", [False, True])
def test_waiting_ends_when_the_state_changes_and_never_spins(disconnected: bool) -> None:
    flow = SenderFlow(1, TIMEOUT_S, 0.0)
    now_s = 0.0
    rounds = 0
    if not disconnected:
        flow.greeted(now_s)
    while flow.learner_alive(now_s):
        assert flow.wait_s(now_s) > 0
        now_s += flow.wait_s(now_s)
        if not disconnected and flow.hello_due(now_s):
            flow.greeted(now_s)
        rounds += 1
    assert now_s == pytest.approx(TIMEOUT_S)
    assert rounds <= TIMEOUT_S / HEARTBEAT_S + 1
