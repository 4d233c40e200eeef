"""The journal keeps its counts after a kill, also with a truncated line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigurationError
from shared.rollouts.rollout import RolloutAccounts
from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.rollout_ledger import Ledger, SenderKey
from tests.support.captured_logs import CapturedLogs
from tests.support.full_disk import file_size_limit
from tests.support.mutations import mutants


def read(path: Path) -> dict[tuple[str, str], int]:
    """Return the counts that the next learner reads."""
    journal = ArrivalJournal(path)
    journal.close()
    return journal.counts


A1, B1 = SenderKey("a", "1"), SenderKey("b", "1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "arrivals.jsonl"


def test_counts_are_read_again(path: Path) -> None:
    journal = ArrivalJournal(path)
    for count in range(1, 4):
        journal.write(*A1, count)
    journal.write(*B1, 7)
    again = ArrivalJournal(path)  # the first was not closed, as after a kill
    assert again.counts == {A1: 3, B1: 7}
    assert len(path.read_bytes().splitlines()) == 2
    journal.close()
    again.close()


def test_a_truncated_line_is_ignored(path: Path) -> None:
    path.write_bytes(b'["a","1",5]\n["a","1",6')
    journal = ArrivalJournal(path)
    assert journal.counts == {A1: 5}
    journal.write(*A1, 6)
    journal.close()
    assert read(path) == {A1: 6}


def test_the_file_does_not_grow_with_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.transport.arrival_journal._COMPACT_AFTER_LINES", 10)
    journal = ArrivalJournal(path)
    for count in range(1, 1000):
        journal.write(*A1, count)
        assert len(path.read_bytes().splitlines()) <= 12
    journal.close()
    assert read(path) == {A1: 999}


def test_any_bytes_can_be_read(path: Path) -> None:
    for mutant in mutants(b'["a","1",5]\n["b","1",6]\n' * 5, 300, seed=5):
        path.write_bytes(mutant)
        journal = ArrivalJournal(path)
        Ledger(journal)
        journal.close()


def test_a_journal_that_cannot_be_created_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="journal"):
        ArrivalJournal(tmp_path / "missing" / "arrivals.jsonl")


def test_a_full_disk_stops_nothing_and_later_writes_are_complete(path: Path, captured_logs: CapturedLogs) -> None:
    journal = ArrivalJournal(path)
    journal.write(*A1, 1)
    journal.write(*B1, 1)
    with file_size_limit(25):  # truncates a line
        for count in range(2, 5):
            journal.write(*A1, count)
    journal.write(*B1, 2)
    assert len([line for line in captured_logs.messages() if "journal not written" in line]) == 1
    assert read(path) == {A1: 4, B1: 2}
    journal.close()
    journal.write(*A1, 5)
    assert read(path) == {A1: 4, B1: 2}, "a closed journal is not written"


def test_a_learner_restarts_with_a_full_disk(path: Path) -> None:
    journal = ArrivalJournal(path)
    journal.write(*A1, 3)
    journal.close()
    with file_size_limit(1):
        again = ArrivalJournal(path)
        again.write(*B1, 1)
    again.write(*B1, 2)
    again.close()
    assert read(path) == {A1: 3, B1: 2}


@given(
    st.lists(st.tuples(st.sampled_from([A1, B1]), st.integers(0, 9), st.booleans()), max_size=30), st.integers(0, 30)
)
def test_after_a_kill_rollouts_since_the_checkpoint_are_lost(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[SenderKey, int, bool]], checkpoint_at: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "arrivals.jsonl"
    ledger = Ledger(ArrivalJournal(path))
    saved, at_checkpoint = None, RolloutAccounts()
    for i, (sender, number, announced) in enumerate(events):
        if i == checkpoint_at:
            saved, at_checkpoint = ledger.state(), ledger.accounts
        if announced:
            ledger.announced(sender, number)
        elif ledger.arrived(sender, number):
            ledger.settle(sender, number, "learned")
    ledger.close()
    after = Ledger(ArrivalJournal(path))
    if saved is not None:
        after.restore(saved)
    sent = ledger.accounts.sent
    learned = at_checkpoint.learned
    assert after.accounts == RolloutAccounts(sent=sent, learned=learned, lost=sent - learned)
    after.close()
