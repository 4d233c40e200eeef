"""What was heard is there again after a kill, however the last line ended."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loguru import logger

from shared.errors import ConfigurationError
from shared.rollouts.rollout_accounts import RolloutAccounts
from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.ledger import Ledger, SenderKey
from tests.support.mutations import mutants


def read(path: Path) -> dict[tuple[str, str], int]:
    """What a later learner hears."""
    journal = ArrivalJournal(path)
    journal.close()
    return journal.counts


A1, B1 = SenderKey("a", "1"), SenderKey("b", "1")


def test_what_was_noted_is_heard_again(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.jsonl"
    journal = ArrivalJournal(path)
    for count in range(1, 4):
        journal.write(*A1, count)
    journal.write(*B1, 7)
    again = ArrivalJournal(path)  # the first was not closed: it was killed
    assert again.counts == {A1: 3, B1: 7}
    assert len(path.read_bytes().splitlines()) == 2
    journal.close()
    again.close()


def test_a_line_that_was_cut_short_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.jsonl"
    path.write_bytes(b'["a","1",5]\n["a","1",6')
    journal = ArrivalJournal(path)
    assert journal.counts == {A1: 5}
    journal.write(*A1, 6)
    journal.close()
    assert read(path) == {A1: 6}


def test_it_does_not_grow_with_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.transport.arrival_journal._COMPACT_AFTER_LINES", 10)
    path = tmp_path / "arrivals.jsonl"
    journal = ArrivalJournal(path)
    for count in range(1, 1000):
        journal.write(*A1, count)
        assert len(path.read_bytes().splitlines()) <= 12
    journal.close()
    assert read(path) == {A1: 999}


def test_any_bytes_are_read_calmly(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.jsonl"
    for mutant in mutants(b'["a","1",5]\n["b","1",6]\n' * 5, 300, seed=5):
        path.write_bytes(mutant)
        journal = ArrivalJournal(path)
        Ledger(journal)
        journal.close()


def test_a_journal_that_cannot_be_had_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="journal"):
        ArrivalJournal(tmp_path / "missing" / "arrivals.jsonl")


@contextlib.contextmanager
def no_more_than(file_bytes: int) -> Iterator[None]:
    """A limit on file sizes: a full disk that needs no rights to make."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_takes_no_more_stops_nothing_and_nothing_is_missing_afterwards(tmp_path: Path) -> None:
    lines: list[str] = []
    handle = logger.add(lines.append, format="{message}", level="WARNING")
    path = tmp_path / "arrivals.jsonl"
    journal = ArrivalJournal(path)
    journal.write(*A1, 1)
    journal.write(*B1, 1)
    with no_more_than(25):  # cuts a line short
        for count in range(2, 5):
            journal.write(*A1, count)
    journal.write(*B1, 2)
    assert len([line for line in lines if "journal not written" in line]) == 1
    logger.remove(handle)
    assert read(path) == {A1: 4, B1: 2}
    journal.close()
    journal.write(*A1, 5)
    assert read(path) == {A1: 4, B1: 2}, "who has closed it writes no more"


def test_a_learner_comes_back_though_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.jsonl"
    journal = ArrivalJournal(path)
    journal.write(*A1, 3)
    journal.close()
    with no_more_than(1):
        again = ArrivalJournal(path)
        again.write(*B1, 1)
    again.write(*B1, 2)
    again.close()
    assert read(path) == {A1: 3, B1: 2}


@given(
    st.lists(st.tuples(st.sampled_from([A1, B1]), st.integers(0, 9), st.booleans()), max_size=30), st.integers(0, 30)
)
def test_after_a_kill_everything_heard_since_the_checkpoint_is_lost(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[SenderKey, int, bool]], checkpoint_at: int
) -> None:
    path = tmp_path_factory.mktemp("run") / "arrivals.jsonl"
    ledger = Ledger(ArrivalJournal(path))
    kept, at_checkpoint = None, RolloutAccounts()
    for i, (sender, number, announced) in enumerate(events):
        if i == checkpoint_at:
            kept, at_checkpoint = ledger.state(), ledger.accounts
        if announced:
            ledger.announced(sender, number)
        elif ledger.arrived(sender, number):
            ledger.settle(sender, number, "learned")
    ledger.close()
    after = Ledger(ArrivalJournal(path))
    if kept is not None:
        after.restore(kept)
    sent = ledger.accounts.sent
    learned = at_checkpoint.learned
    assert after.accounts == RolloutAccounts(sent=sent, learned=learned, lost=sent - learned)
    after.close()
