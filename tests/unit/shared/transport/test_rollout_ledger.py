"""The ledger against a slow oracle that records the outcome of each number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CheckpointError
from shared.rollouts.rollout import RolloutAccounts
from shared.transport.rollout_ledger import Ledger, SenderKey

A1, A2, B1 = SenderKey("a", "1"), SenderKey("a", "2"), SenderKey("b", "1")

_events = st.lists(
    st.one_of(
        st.tuples(st.just("arrived"), st.sampled_from([A1, A2, B1]), st.integers(0, 12)),
        st.tuples(st.just("announced"), st.sampled_from([A1, A2, B1]), st.integers(0, 12)),
        st.tuples(st.sampled_from(["learned", "stale", "invalid"]), st.sampled_from([A1, A2, B1]), st.integers(0, 12)),
        st.tuples(st.just("end"), st.just(A1), st.just(0)),
    ),
    max_size=60,
)


class Oracle:
    """The outcome of each number of each sender; ``None`` while it is in flight."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[SenderKey, int], str | None] = {}

    def expected(self, sender: SenderKey) -> int:
        return 1 + max((number for key, number in self.outcomes if key == sender), default=-1)

    def lose_below(self, sender: SenderKey, end: int) -> None:
        for number in range(self.expected(sender), end):
            self.outcomes[sender, number] = "lost"

    @property
    def accounts(self) -> RolloutAccounts:
        outcomes = list(self.outcomes.values())
        counts = {outcome: outcomes.count(outcome) for outcome in ("learned", "stale", "invalid", "lost")}
        return RolloutAccounts(sent=len(outcomes), **counts)


def play(ledger: Ledger, oracle: Oracle, events: list[tuple[str, SenderKey, int]]) -> None:
    for what, sender, number in events:
        if what == "arrived":
            new = number >= oracle.expected(sender)
            assert ledger.arrived(sender, number) == new
            if new:
                oracle.lose_below(sender, number)
                oracle.outcomes[sender, number] = None
        elif what == "announced":
            ledger.announced(sender, number)
            oracle.lose_below(sender, number)
        elif what == "end":
            ledger.lose_in_flight()
            oracle.outcomes = {key: outcome or "lost" for key, outcome in oracle.outcomes.items()}
        elif oracle.outcomes.get((sender, number), "unknown") is None:
            ledger.settle(sender, number, what)
            oracle.outcomes[sender, number] = what
        else:
            with pytest.raises(ValueError, match="not in flight"):
                ledger.settle(sender, number, what)
        assert ledger.expected(sender) == oracle.expected(sender)


@given(_events)
def test_every_number_gets_the_outcome_of_the_oracle(events: list[tuple[str, SenderKey, int]]) -> None:
    ledger, oracle = Ledger(), Oracle()
    play(ledger, oracle, events)
    assert ledger.accounts == oracle.accounts
    ledger.lose_in_flight()
    accounts = ledger.accounts
    assert accounts.sent == accounts.learned + accounts.stale + accounts.invalid + accounts.lost


@given(_events, _events)
def test_restored_accounts_count_rollouts_in_flight_as_lost(
    before: list[tuple[str, SenderKey, int]], after: list[tuple[str, SenderKey, int]]
) -> None:
    ledger, oracle = Ledger(), Oracle()
    play(ledger, oracle, before)
    restored = Ledger()
    restored.restore(ledger.state())
    oracle.outcomes = {key: outcome or "lost" for key, outcome in oracle.outcomes.items()}
    assert restored.accounts == oracle.accounts
    play(restored, oracle, after)
    assert restored.accounts == oracle.accounts


def test_rollouts_learned_after_the_checkpoint_become_lost() -> None:
    ledger = Ledger()
    ledger.arrived(A1, 0)
    ledger.settle(A1, 0, "learned")
    checkpoint = ledger.state()
    ledger.arrived(A1, 1)
    ledger.settle(A1, 1, "learned")
    ledger.restore(checkpoint)
    ledger.accounts.learned = 5  # of a copy
    assert ledger.accounts == RolloutAccounts(sent=2, learned=1, lost=1)
    ledger.announced(A1, 3)
    assert ledger.accounts == RolloutAccounts(sent=3, learned=1, lost=2)


def test_rollouts_that_wait_during_a_restore_can_be_learned_from() -> None:
    saved = Ledger()
    saved.announced(A1, 2)
    ledger = Ledger()
    ledger.announced(A1, 4)
    ledger.arrived(A1, 4)
    ledger.restore(saved.state())
    assert ledger.accounts == RolloutAccounts(sent=5, lost=4)
    ledger.settle(A1, 4, "learned")
    assert ledger.accounts == RolloutAccounts(sent=5, lost=4, learned=1)


@given(st.binary(max_size=80))
def test_random_bytes_are_not_accounts(data: bytes) -> None:
    ledger = Ledger()
    ledger.announced(A1, 1)
    with pytest.raises(CheckpointError):
        ledger.restore(data)
    assert ledger.accounts == RolloutAccounts(sent=1, lost=1)


def test_restarts_are_sessions_after_the_first_of_an_actor_and_of_a_resumed_run() -> None:
    first = Ledger()
    for sender in (A1, B1, A1):
        first.announced(sender, 3)
    assert first.restarts == 0
    first.announced(A2, 1)
    assert first.restarts == 1
    resumed = Ledger()
    resumed.restore(first.state())
    assert resumed.restarts == 1
    resumed.announced(SenderKey("a", "3"), 2)
    assert resumed.restarts == 1
    resumed.announced(SenderKey("a", "4"), 2)
    assert resumed.restarts == 2
    again = Ledger()
    again.restore(resumed.state())
    again.announced(SenderKey("a", "5"), 2)
    assert again.restarts == 2
    again.announced(SenderKey("a", "5"), 3)  # the same process continues
    assert again.restarts == 2
