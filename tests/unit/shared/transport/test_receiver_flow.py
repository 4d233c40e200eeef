"""Decisions of a receiver: sessions belong to their token, and their number is bounded."""

import itertools
from pathlib import Path

import msgspec
import pytest

from shared.rollouts.rollout import RolloutAccounts
from shared.transport import receiver_flow, rollout_ledger
from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.messages import PROTOCOL, Bye, Hello, Refused, Sender, Sending, Welcome, encode
from shared.transport.receiver_flow import ReceiverFlow, ReceiverOptions, Reply
from shared.transport.rollout_ledger import Ledger, SenderKey
from tests.support.captured_logs import CapturedLogs
from tests.support.rollout_examples import RUN_ID, plain_layout

OWN = Sender(RUN_ID, "actor-0", "own token")
_routes = itertools.count()


def make_flow(ledger: Ledger | None = None) -> ReceiverFlow:
    return ReceiverFlow(plain_layout(), RUN_ID, ledger or Ledger(), ReceiverOptions())


def say(flow: ReceiverFlow, message: object, route: bytes | None = None) -> Reply | None:
    """Process a message on a connection of its own, unless ``route`` names one."""
    return flow.process(b"%d" % next(_routes) if route is None else route, [encode(message)])


@pytest.mark.parametrize("guess", ["", "another token", OWN.key.session_id])
@pytest.mark.parametrize("kind", [Hello, Sending, Bye])
def test_without_its_token_no_connection_speaks_for_a_session(guess: str, kind: type) -> None:
    """An attacker knows the names in logs, journal and rollouts: run, actor and session id."""
    ledger = Ledger()
    flow = make_flow(ledger)
    say(flow, Hello(OWN, 5), b"own")
    before = ledger.expected(OWN.key)
    say(flow, kind(Sender(RUN_ID, "actor-0", guess), 100))
    assert OWN.key in flow.present
    assert ledger.expected(OWN.key) == before
    assert flow.stop_requests()[0].route == b"own"
    assert say(flow, Hello(OWN, 6), b"own") == Reply(b"own", Welcome(6, 6, 0.5))


def test_a_session_moves_to_the_connection_that_has_its_token() -> None:
    flow = make_flow()
    say(flow, Hello(OWN, 5), b"before")
    say(flow, Hello(OWN, 5), b"after")
    assert [reply.route for reply in flow.stop_requests()] == [b"after"]


def test_the_token_is_in_no_log(captured_logs: CapturedLogs) -> None:
    flow = make_flow()
    say(flow, Hello(OWN, 0), b"own")
    say(flow, Sending(OWN, 2**50), b"own")
    say(flow, Bye(OWN, 0), b"own")
    assert captured_logs.has(OWN.key.session_id)
    assert not captured_logs.has(OWN.token)
    assert OWN.token not in repr(Hello(OWN, 0))


@pytest.mark.parametrize("protocol", [1, PROTOCOL + 1])
def test_another_release_is_refused_with_a_clear_reason(protocol: int) -> None:
    """Messages of the last release have the same form: its session id is in the place of the token."""
    reply = say(make_flow(), {"type": "hello", "sender": _old_sender(), "sent": 0, "protocol": protocol})
    assert reply is not None
    assert isinstance(reply.message, Refused)
    assert reply.message.reason == (
        f"run one release on both sides: expected transport protocol {PROTOCOL}, found {protocol}"
    )


def _old_sender() -> dict[str, str]:
    return {"run_id": RUN_ID, "actor_id": "actor-0", "incarnation": "0123456789abcdef"}


def test_the_number_of_connected_senders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver_flow, "_MOST_SENDERS", 3)
    flow = make_flow()
    for number in range(10):
        say(flow, Hello(Sender(RUN_ID, "many", str(number)), 0), b"route-%d" % number)
    assert len(flow.present) == len(flow.heartbeats()) == 3
    assert say(flow, Hello(Sender(RUN_ID, "many", "0"), 0), b"route-0") == Reply(b"route-0", Welcome(0, 0, 0.5))
    flow.disconnected(b"route-1")
    assert isinstance(getattr(say(flow, Hello(OWN, 0)), "message", None), Welcome)


def test_sessions_that_have_left_are_forgotten_beyond_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rollout_ledger, "_SESSIONS_KEPT", 20)
    monkeypatch.setattr("shared.transport.arrival_journal._COMPACT_AFTER_LINES", 30)
    path = tmp_path / "arrivals.jsonl"
    ledger = Ledger(ArrivalJournal(path))
    flow = make_flow(ledger)
    say(flow, Hello(OWN, 7), b"own")
    say(flow, Sending(Sender(RUN_ID, "in flight", "token"), 0), b"in-flight")
    flow.disconnected(b"in-flight")
    for number in range(500):
        say(flow, Bye(Sender(RUN_ID, f"restarted-{number % 3}", str(number)), 1))
    saved = msgspec.msgpack.decode(ledger.state())
    assert len(saved["expected"]) <= 22
    assert {("actor-0", OWN.key.session_id, 7), ("in flight", SenderKey(*saved["expected"][1][:2]).session_id, 1)} == {
        tuple(entry) for entry in saved["expected"][:2]
    }
    assert len(path.read_bytes().splitlines()) <= 60
    assert ledger.accounts == RolloutAccounts(sent=508, lost=507)  # the totals stay
    assert ledger.restarts == 500 - 3
    ledger.settle(Sender(RUN_ID, "in flight", "token").key, 0, "invalid")
    ledger.close()
    again = Ledger(ArrivalJournal(path))
    assert again.expected(OWN.key) == 7
    again.close()
