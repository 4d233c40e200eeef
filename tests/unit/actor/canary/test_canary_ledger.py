"""The ledger of evaluations: the first note counts, garbage does not, and a store may fail."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.canary import canary_ledger
from actor.canary.canary_ledger import CanaryLedger, Evaluation, Returns, Version
from shared.errors import StoreUnavailable
from shared.store.policy_store import LocalPolicyStore
from shared.store.remote_policy_store import RemotePolicyStore

V0, V1, V2, V3 = (Version(number, f"{number}" * 64) for number in range(4))


@pytest.fixture
def store(tmp_path: Path) -> LocalPolicyStore:
    return LocalPolicyStore(tmp_path)


def _ledger(store: LocalPolicyStore, name: str) -> CanaryLedger:
    ledger = CanaryLedger(store.notes, name)
    ledger.look()
    return ledger


def test_the_first_evaluation_and_the_first_verdict_count(store: LocalPolicyStore) -> None:
    ours, theirs = _ledger(store, "ours"), _ledger(store, "theirs")
    assert ours.open(V0, None)
    assert not theirs.open(V1, None)
    assert theirs.champion == ours.champion == V0
    assert not ours.is_open
    assert theirs.open(V1, V0)
    assert not ours.open(V2, V0)
    assert (ours.evaluation, ours.champion, ours.is_open) == (Evaluation(V1, V0, "theirs"), V0, True)
    ours.decide(is_worse=False, reason="good")
    verdict = theirs.decide(is_worse=True, reason="bad")
    assert (verdict.is_worse, verdict.by) == (False, "ours")
    for ledger in (ours, theirs):
        ledger.look()
        assert (ledger.champion, ledger.is_open) == (V1, False)


def test_a_worse_version_is_not_the_champion(store: LocalPolicyStore) -> None:
    ledger = _ledger(store, "actor")
    ledger.open(V1, V0)
    ledger.decide(is_worse=True, reason="bad")
    assert ledger.champion == V0
    assert _ledger(store, "another").champion == V0


def test_the_returns_of_other_actors_are_read_and_own_ones_are_not(store: LocalPolicyStore) -> None:
    ours, theirs = _ledger(store, "ours"), _ledger(store, "theirs")
    ours.open(V1, V0)
    theirs.look()
    theirs.report(Returns((1.0,), (2.0, 3.0), 1))
    ours.report(Returns((4.0,), (), 1))
    ours.look()
    assert list(ours.returns.values()) == [Returns((1.0,), (2.0, 3.0), 1)]


def test_old_evaluations_are_removed(store: LocalPolicyStore) -> None:
    ledger = _ledger(store, "actor")
    for number in range(5):
        ledger.open(Version(number + 1, V1.digest), Version(number, V0.digest))
        ledger.report(Returns((1.0,)))
        ledger.decide(is_worse=False, reason="good")
    assert {name.split("-")[1] for name in store.notes.names()} == {"000000003", "000000004"}


def test_an_evaluation_without_new_notes_is_abandoned(store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(canary_ledger, "time", SimpleNamespace(monotonic=lambda: now_s))
    ours, theirs = _ledger(store, "ours"), _ledger(store, "theirs")
    theirs.open(V1, V0)
    ours.look()
    for beat in range(1, 4):
        now_s += canary_ledger.ABANDONED_AFTER_S - 1
        theirs.report(Returns(beat=beat))
        ours.look()
        assert not ours.is_abandoned
    now_s += canary_ledger.ABANDONED_AFTER_S
    ours.look()
    assert ours.is_abandoned


def test_a_store_that_does_not_answer_changes_nothing(store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> list[str]:
        raise StoreUnavailable("the mount went away")

    ledger = _ledger(store, "actor")
    ledger.open(V1, V0)
    with monkeypatch.context() as patch:
        for method in ("names", "read", "write", "create", "remove"):
            patch.setattr(type(store.notes), method, refuse)
        ledger.look()
        assert ledger.evaluation == Evaluation(V1, V0, "actor")
        assert ledger.fault == "the mount went away"
        ledger.report(Returns((1.0,)))
        assert ledger.decide(is_worse=False, reason="good").by == "actor"
    ledger.look()
    assert ledger.champion == V1, "what could not be written counts here"


@given(st.binary(max_size=200), st.sampled_from(["trial", "verdict", "returns"]))
def test_any_bytes_are_read_as_a_note_or_as_none(data: bytes, kind: str) -> None:
    store = RemotePolicyStore("memory://fuzzed-notes")
    for name in store.notes.names():
        store.notes.remove(name)
    ledger = CanaryLedger(store.notes, "actor")
    ledger.look()
    assert ledger.open(V1, V0)
    suffix = "-" + "0" * 14 if kind == "returns" else ""
    number = 1 if kind == "trial" else 0
    store.notes.write(f"{kind}-{number:09d}{suffix}", data)
    ledger.look()
    assert ledger.evaluation is not None
    assert ledger.open(V2, V1)
    assert ledger.evaluation == Evaluation(V2, V1, "actor")
