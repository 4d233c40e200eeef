"""The contract of transports."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shared.errors import CheckpointError, TransportClosed
from shared.rollouts.rollout import Rollout, RolloutAccounts, RolloutLayout
from shared.transport.transport import RolloutSender
from tests.support.captured_logs import CapturedLogs
from tests.support.rollout_examples import assert_same, example_rollout, header, plain_layout, rich_layout
from tests.support.transport_cases import LEARNER_TIMEOUT_S, TRANSPORTS, TransportCase
from tests.support.waiting import PATIENCE_S, Running, until

Open = Callable[..., TransportCase]


@pytest.fixture(params=TRANSPORTS)
def open_transport(request: pytest.FixtureRequest) -> Iterator[Open]:
    opened: list[TransportCase] = []

    def open_one(layout: RolloutLayout, *, synchronous: bool = False) -> TransportCase:
        opened.append(TRANSPORTS[request.param](layout, synchronous))
        return opened[-1]

    yield open_one
    for case in opened:
        case.close()


@pytest.fixture
def transport(open_transport: Open) -> TransportCase:
    return open_transport(plain_layout())


@pytest.fixture
def synchronous_transport(open_transport: Open) -> TransportCase:
    return open_transport(plain_layout(), synchronous=True)


@pytest.fixture
def sender(transport: TransportCase) -> RolloutSender:
    return transport.sender()


def plain(**changes: object) -> Rollout:
    return example_rollout(plain_layout(), **changes)


def take(transport: TransportCase) -> Rollout:
    rollout = transport.receiver.receive(PATIENCE_S)
    assert rollout is not None
    return rollout


@pytest.mark.parametrize("layout", [plain_layout(), rich_layout(), rich_layout(length=32)])
@pytest.mark.parametrize("finals", [0, 3])
def test_a_rollout_arrives_as_it_was_sent(open_transport: Open, layout: RolloutLayout, finals: int) -> None:
    transport = open_transport(layout)
    sent = example_rollout(layout, batch_size=4, finals=finals, version=3)
    assert transport.sender().send(sent)
    assert_same(take(transport), sent)


def test_a_rollout_stays_valid_after_later_ones_of_any_number_of_environments(
    transport: TransportCase, sender: RolloutSender
) -> None:
    sent = [plain(seed=seed, batch_size=batch_size) for seed, batch_size in enumerate((1, 7, 2))]
    found = []
    for rollout in sent:
        sender.send(rollout)
        found.append(take(transport))
    for a, b in zip(found, sent, strict=True):
        assert_same(a, b)


def test_numbers_are_consecutive_and_arrive_in_order(transport: TransportCase) -> None:
    sender = transport.sender(window=5)
    for seed in range(5):
        assert sender.send(plain(seed=seed))
    assert [take(transport).header.sequence for _ in range(5)] == [0, 1, 2, 3, 4]


def test_receiving_gives_up_after_its_timeout(transport: TransportCase) -> None:
    assert transport.receiver.receive(0.0) is None
    assert transport.receiver.receive(0.01) is None


def test_receiving_wakes_when_a_rollout_arrives(transport: TransportCase, sender: RolloutSender) -> None:
    receiving = Running(transport.receiver.receive, PATIENCE_S)
    sent = plain()
    sender.send(sent)
    assert_same(receiving.join(), sent)


def test_a_sender_has_room_for_its_window_and_more_after_a_receive(transport: TransportCase) -> None:
    sender = transport.sender(window=2)
    assert sender.wait_for_room(PATIENCE_S)
    sender.send(plain())
    assert sender.wait_for_room(PATIENCE_S)
    sender.send(plain())
    assert not sender.wait_for_room(0.02)
    waiting = Running(sender.wait_for_room, PATIENCE_S)
    take(transport)
    assert waiting.join()


def test_a_synchronous_receiver_makes_room_when_it_resumes_senders(synchronous_transport: TransportCase) -> None:
    transport, sender = synchronous_transport, synchronous_transport.sender()
    assert transport.receiver.synchronous
    sender.send(plain())
    take(transport)
    assert not sender.wait_for_room(0.05)
    transport.receiver.resume_senders(7)
    assert sender.wait_for_room(PATIENCE_S)
    assert sender.wanted_version == 7


def test_a_waiting_sender_does_not_keep_another_waiting(synchronous_transport: TransportCase) -> None:
    transport = synchronous_transport
    first, second = transport.sender("first"), transport.sender("second", window=2)
    first.send(plain(actor_id="first"))
    take(transport)
    second.send(plain(actor_id="second"))
    take(transport)
    assert second.wait_for_room(PATIENCE_S)
    second.send(plain(actor_id="second"))
    assert not second.wait_for_room(0.05)
    assert not first.wait_for_room(0.05)
    transport.receiver.resume_senders(None)
    assert first.wait_for_room(PATIENCE_S)
    assert second.wait_for_room(PATIENCE_S)


def test_sending_waits_for_room(transport: TransportCase, sender: RolloutSender) -> None:
    sender.send(plain(seed=1))
    sending = Running(sender.send, plain(seed=2))
    assert_same(take(transport), plain(seed=1))
    assert_same(take(transport), plain(seed=2))
    assert sending.join()


def test_a_slow_learner_slows_its_actors_during_long_updates(transport: TransportCase, sender: RolloutSender) -> None:
    sender.send(plain())
    assert not sender.wait_for_room(2 * LEARNER_TIMEOUT_S)  # without a receive meanwhile
    assert sender.learner_alive


def test_each_sender_has_its_own_window(transport: TransportCase) -> None:
    first, second = transport.sender("actor-0"), transport.sender("actor-1")
    first.send(plain())
    second.send(plain(actor_id="actor-1"))
    assert {take(transport).header.actor_id for _ in range(2)} == {"actor-0", "actor-1"}


def test_every_rollout_gets_one_outcome(transport: TransportCase) -> None:
    sender = transport.sender(window=4)
    broken = plain()
    broken.reward[0, 0] = np.nan
    for rollout in (plain(), plain(), broken, plain()):
        sender.send(rollout)
    transport.receiver.count_learned(take(transport))
    transport.receiver.count_stale(take(transport))
    take(transport)
    assert transport.receiver.accounts == RolloutAccounts(sent=4, learned=1, stale=1, invalid=1)
    sender.close()
    transport.receiver.stop_actors(PATIENCE_S)
    assert transport.receiver.accounts == RolloutAccounts(sent=4, learned=1, stale=1, invalid=1, lost=1)


def test_a_rollout_is_counted_once(transport: TransportCase) -> None:
    transport.sender().send(plain())
    rollout = take(transport)
    transport.receiver.count_learned(rollout)
    with pytest.raises(ValueError, match="rollout 0 of actor='actor-0'"):
        transport.receiver.count_stale(rollout)


def test_a_rollout_that_the_learner_finds_invalid_is_counted_and_its_sender_logged(
    transport: TransportCase, captured_logs: CapturedLogs
) -> None:
    transport.sender("actor-7").send(plain(actor_id="actor-7"))
    transport.receiver.count_invalid(take(transport), "from the future")
    assert transport.receiver.accounts == RolloutAccounts(sent=1, invalid=1)
    assert captured_logs.has("'actor-7'", "from the future"), captured_logs.messages()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda rollout: rollout.reward.fill(np.inf), "reward holds values that are not finite"),
        (lambda rollout: rollout.action.fill(2), "action holds choices that do not exist"),
        (lambda rollout: setattr(rollout, "reward", rollout.reward[:-1]), "expected"),
        (lambda rollout: setattr(rollout, "header", header("actor-7", run_id="run-2")), "run-2"),
    ],
)
def test_an_invalid_rollout_is_counted_and_its_sender_logged(
    transport: TransportCase, captured_logs: CapturedLogs, fault: Callable[[Rollout], None], message: str
) -> None:
    sender = transport.sender("actor-7")
    broken = plain(actor_id="actor-7")
    fault(broken)
    sender.send(broken)
    assert until(lambda: transport.receiver.receive(0.0) or transport.receiver.accounts.invalid) == 1
    assert sender.wait_for_room(PATIENCE_S)
    assert captured_logs.has("'actor-7'", message), captured_logs.messages()


@pytest.mark.parametrize("method", ["wait_for_room", "send"])
def test_a_stop_ends_waiting(transport: TransportCase, sender: RolloutSender, method: str) -> None:
    sender.send(plain())
    waiting = Running(getattr(sender, method), PATIENCE_S if method == "wait_for_room" else plain())
    stopping = Running(transport.receiver.stop_actors, PATIENCE_S)
    assert not waiting.join()
    assert sender.stop_requested
    sender.close()
    stopping.join()
    lost = 1 if method == "wait_for_room" else 2
    assert transport.receiver.accounts == RolloutAccounts(sent=lost, lost=lost)


def test_rollouts_sent_after_a_stop_are_lost(transport: TransportCase) -> None:
    sender = transport.sender(window=3)
    sender.send(plain())
    until(lambda: transport.receiver.live_senders == 1)
    stopping = Running(transport.receiver.stop_actors, PATIENCE_S)
    until(lambda: sender.stop_requested)
    assert not sender.send(plain())
    assert not sender.send(plain())
    sender.close()
    stopping.join()
    assert transport.receiver.accounts == RolloutAccounts(sent=3, lost=3)


def test_stopping_ends_when_every_actor_has_left(transport: TransportCase) -> None:
    def act(actor_id: str) -> int:
        sender = transport.sender(actor_id)
        sent = 0
        while sender.wait_for_room(PATIENCE_S):
            sender.send(plain(actor_id=actor_id))
            sent += 1
        sender.close()
        return sent

    actors = [Running(act, f"actor-{i}") for i in range(3)]
    for _ in range(50):
        transport.receiver.count_learned(take(transport))
    transport.receiver.stop_actors(PATIENCE_S)
    sent = sum(actor.join() for actor in actors)
    accounts = transport.receiver.accounts
    assert accounts.learned == 50
    assert accounts.sent == sent
    assert accounts.sent == accounts.learned + accounts.stale + accounts.invalid + accounts.lost
    assert until(lambda: transport.receiver.live_senders == 0)


def test_stopping_without_actors_returns_at_once(transport: TransportCase) -> None:
    transport.receiver.stop_actors(PATIENCE_S)
    assert transport.receiver.accounts == RolloutAccounts()


def test_connected_senders_are_counted(transport: TransportCase) -> None:
    senders = [transport.sender(f"actor-{i}") for i in range(2)]
    for sender in senders:
        assert sender.wait_for_room(PATIENCE_S)
    until(lambda: transport.receiver.live_senders == 2)
    senders[0].close()
    until(lambda: transport.receiver.live_senders == 1)


def test_a_new_session_of_an_actor_is_a_restart_with_its_own_numbers(transport: TransportCase) -> None:
    for session in range(3):
        sender = transport.sender()
        sender.send(plain(seed=session))
        rollout = take(transport)
        assert rollout.header.sequence == 0
        transport.receiver.count_learned(rollout)
        assert transport.receiver.actor_restarts == session
        sender.close()
    assert transport.receiver.accounts == RolloutAccounts(sent=3, learned=3)


def test_two_sessions_of_one_actor_are_distinguished(transport: TransportCase) -> None:
    old, new = transport.sender(), transport.sender()
    old.send(plain(seed=1))
    first = take(transport)
    new.send(plain(seed=2))
    second = take(transport)
    transport.receiver.count_learned(second)
    transport.receiver.count_stale(first)
    assert transport.receiver.accounts == RolloutAccounts(sent=2, learned=1, stale=1)


def test_without_a_learner_nothing_blocks_and_rollouts_are_lost(
    transport: TransportCase, sender: RolloutSender
) -> None:
    sender.send(plain())
    take(transport)
    transport.receiver.close()
    for _ in range(10):
        assert until(lambda: sender.wait_for_room(0.1))
        sender.send(plain())
    assert not sender.learner_alive
    assert not sender.send(plain())


def test_accounts_can_be_saved_and_restored(transport: TransportCase, open_transport: Open) -> None:
    sender = transport.sender(window=3)
    for _ in range(3):
        sender.send(plain())
    transport.receiver.count_learned(take(transport))
    transport.receiver.count_stale(take(transport))
    take(transport)
    saved = transport.receiver.state()
    another = open_transport(plain_layout())
    with pytest.raises(CheckpointError, match="accounts"):
        another.receiver.restore(b"what is this")
    another.receiver.restore(saved)
    assert another.receiver.accounts == RolloutAccounts(sent=3, learned=1, stale=1, lost=1)
    another.sender().send(plain())
    another.receiver.count_learned(take(another))
    assert another.receiver.accounts == RolloutAccounts(sent=4, learned=2, stale=1, lost=1)


def test_closed_ends_raise_transport_closed(transport: TransportCase, sender: RolloutSender) -> None:
    for end in (sender, sender, transport.receiver, transport.receiver):
        end.close()
    for act in (lambda: sender.send(plain()), lambda: sender.wait_for_room(0.0), lambda: transport.receiver.receive(0)):
        with pytest.raises(TransportClosed):
            act()


def _poisoned(seed: int = 0) -> Rollout:
    rollout = plain(seed=seed)
    rollout.reward[1, 0] = np.nan
    return rollout


def test_a_rejected_rollout_releases_its_synchronous_sender(synchronous_transport: TransportCase) -> None:
    transport, sender = synchronous_transport, synchronous_transport.sender()
    for seed in range(3):  # without an update between them
        sender.send(_poisoned(seed))
        until(lambda seen=seed: transport.receiver.receive(0.0) or transport.receiver.accounts.invalid > seen)  # type: ignore[misc]
        assert sender.wait_for_room(PATIENCE_S)
    assert transport.receiver.accounts == RolloutAccounts(sent=3, invalid=3)


def test_rejections_in_a_row_are_counted_for_each_actor_and_end_with_a_valid_rollout(transport: TransportCase) -> None:
    receiver = transport.receiver
    assert receiver.most_rejected is None
    senders = [transport.sender(f"actor-{i}", window=8) for i in range(2)]
    for i, rejected in enumerate((3, 2)):
        for _ in range(rejected):
            senders[i].send(_poisoned())
    until(lambda: receiver.receive(0.0) or receiver.accounts.invalid == 5)
    row = receiver.most_rejected
    assert row is not None
    assert (row.actor_id, row.count) == ("actor-0", 3)
    assert row.why == "reward holds values that are not finite: reward[1, 0] is nan"
    senders[0].send(plain())
    take(transport)
    for _ in range(2):
        senders[0].send(_poisoned())
        senders[1].send(_poisoned())
    until(lambda: receiver.receive(0.0) or receiver.accounts.invalid == 9)
    row = receiver.most_rejected
    assert row is not None
    assert (row.actor_id, row.count) == ("actor-1", 4)


def test_a_rollout_of_another_form_is_no_fault_of_the_environment(transport: TransportCase) -> None:
    broken = plain()
    broken.action.fill(2)
    transport.sender().send(broken)
    until(lambda: transport.receiver.receive(0.0) or transport.receiver.accounts.invalid)
    assert transport.receiver.most_rejected is None
