import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.versions.version_life import TRANSITIONS, VersionState, VersionTable

S = VersionState


def _table_at(state: VersionState) -> VersionTable:
    """Return a table in which version 1 reached ``state`` by permitted transitions."""
    paths = {
        S.SEEN: [],
        S.SKIPPED: [S.SKIPPED],
        S.LOADING: [S.LOADING],
        S.LOADED: [S.LOADING, S.LOADED],
        S.FAILED: [S.FAILED],
    }
    table = VersionTable()
    table.see([1])
    for step in paths[state]:
        table.move(1, step)
    return table


@pytest.mark.parametrize(("state", "to"), list(itertools.product(S, S)))
def test_only_permitted_transitions_are_made(state: VersionState, to: VersionState) -> None:
    table = _table_at(state)
    if to in TRANSITIONS[state]:
        table.move(1, to)
        assert table.state(1) is to
    else:
        with pytest.raises(RuntimeError, match=f"version 1 cannot go from {state.name} to {to.name}"):
            table.move(1, to)
        assert table.state(1) is state


def test_every_state_can_fail() -> None:
    for state in S:
        assert S.FAILED in TRANSITIONS[state]


def test_only_the_newest_of_a_listing_matters() -> None:
    table = VersionTable()
    table.see([1, 2, 3])
    assert [table.state(v) for v in (1, 2, 3)] == [None, None, S.SEEN]
    table.see([1, 2, 3, 4, 5, 6])
    assert [table.state(v) for v in (3, 4, 5, 6)] == [S.SKIPPED, S.SKIPPED, S.SKIPPED, S.SEEN]


def test_the_first_version_of_all_is_followed_by_every_other() -> None:
    table = VersionTable()
    table.see([0])
    table.see([0, 1, 2])
    assert [table.state(v) for v in (0, 1, 2)] == [S.SKIPPED, S.SKIPPED, S.SEEN]


def test_a_newest_version_that_comes_back_is_not_new() -> None:
    table = VersionTable()
    for listing in ([3], [], [3]):
        table.see(listing)
    assert table.state(3) is None


def test_a_content_can_be_quarantined_before_any_version_has_it() -> None:
    table = VersionTable()
    table.quarantine("d1", "it ended the process twice")
    assert table.quarantine_reason("d1") == "it ended the process twice"
    assert table.failures() == []


def test_a_version_that_loads_or_is_loaded_is_not_skipped() -> None:
    table = _table_at(S.LOADED)
    table.see([1, 2])
    table.move(2, S.LOADING)
    table.see([1, 2, 3])
    assert [table.state(v) for v in (1, 2, 3)] == [S.LOADED, S.LOADING, S.SEEN]


def test_a_permanent_failure_quarantines_the_digest_and_is_never_due() -> None:
    table = _table_at(S.LOADING)
    table.fail(1, "ProbeMismatch: no", digest="d1")
    (record,) = table.failures()
    assert table.quarantine_reason("d1") == "ProbeMismatch: no"
    assert table.unusable(1e12) == {1}
    assert table.next_retry_s(0.0) is None
    assert record.describe_failure() == "version 1 (quarantined): ProbeMismatch: no"


def test_a_transient_failure_is_due_again_and_keeps_its_digest_clean() -> None:
    table = _table_at(S.LOADING)
    table.fail(1, "TransientLoadError: disk", digest="d1", retry_at_s=10.0)
    assert table.quarantine_reason("d1") is None
    assert table.unusable(9.0) == {1}
    assert table.unusable(10.0) == frozenset()
    assert table.next_retry_s(4.0) == 6.0
    assert table.next_retry_s(10.0) is None, "it is due"
    table.move(1, S.LOADING)
    table.fail(1, "TransientLoadError: disk", retry_at_s=20.0)
    assert (table.attempts(1), table.attempts(2)) == (2, 0)
    assert table.failures()[0].describe_failure() == (
        "version 1 (2 attempts, will be tried again): TransientLoadError: disk"
    )


def test_records_of_removed_versions_are_dropped_except_for_held_ones_and_the_last_failures() -> None:
    table = _table_at(S.LOADED)
    table.see([1, 2])
    table.move(2, S.LOADING)
    for version in range(3, 200):
        table.see([version], held={1})
        table.fail(version, "bad", digest=str(version))
    table.see([200], held={1})
    assert table.state(1) is S.LOADED
    assert table.state(2) is S.LOADING
    assert table.state(3) is None
    assert table.quarantine_reason("3") == "bad"
    assert [record.version for record in table.failures()] == list(range(199, 99, -1)), "the last hundred"
    table.see([201])
    assert table.state(1) is None


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("see"), st.lists(st.integers(0, 12), max_size=5)),
            st.tuples(st.sampled_from([*S]), st.integers(0, 12)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_no_state_changes_but_by_a_permitted_transition(steps: list[tuple[Any, Any]]) -> None:
    table = VersionTable()
    for what, versions in steps:
        before = {version: table.state(version) for version in range(13)}
        if what == "see":
            table.see(versions, held={0, 1, 2})
        elif what in TRANSITIONS[before[versions] or S.SEEN]:
            table.fail(versions, "bad") if what is S.FAILED else table.move(versions, what)
        else:
            with pytest.raises(RuntimeError, match="cannot go from"):
                table.move(versions, what)
        for version, was in before.items():
            now = table.state(version)
            assert now in (was, None) or now in TRANSITIONS[was or S.SEEN] or (was is None and now is S.SEEN)
        assert {record.version for record in table.failures()} == {v for v in range(13) if table.state(v) is S.FAILED}
        assert sum(table.state(version) is S.SEEN for version in range(13)) <= 1
