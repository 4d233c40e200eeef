"""The rule that decides which numbers of a store count."""

from hypothesis import given
from hypothesis import strategies as st

from shared.store.version_numbers import MAX_JUMP, IgnoredNumbers, StoreNumbers, is_plausible, plausible_numbers
from tests.support.captured_logs import CapturedLogs

NUMBERS = st.integers(0, 10**18 - 1)
FAR = 999_999_999_999_999_999


def test_a_number_counts_up_to_a_million_above_the_used_ones() -> None:
    for used in (-1, 0, 5, 10**9):
        assert is_plausible(used + MAX_JUMP, used)
        assert not is_plausible(used + MAX_JUMP + 1, used)
        assert is_plausible(0, used)


def test_the_first_number_of_a_store_without_marks_is_below_a_million() -> None:
    assert plausible_numbers([MAX_JUMP - 1], []).versions == [MAX_JUMP - 1]
    assert plausible_numbers([MAX_JUMP], []).versions == []


def test_a_far_directory_is_ignored_in_every_state_of_a_store() -> None:
    for versions, marks, used, highest in (
        ([], [], -1, -1),
        ([], [], None, -1),
        ([0, 1], [1], None, 1),
        ([0, 1], [], None, 1),
        ([5_000_000], [5_000_000], None, 5_000_000),
        ([], [], 7, 7),
        ([0, 5_000_000], [5_000_001], 5_000_001, 5_000_001),
    ):
        found = plausible_numbers([*versions, FAR], marks, used=used)
        assert found == StoreNumbers(versions, marks, highest, [FAR])


def test_a_far_mark_is_ignored_beside_that_of_the_publisher() -> None:
    assert plausible_numbers([3], [3, FAR]) == StoreNumbers([3], [3], 3, [FAR])
    for used in (-1, 3):
        assert plausible_numbers([3, FAR], [FAR], used=used) == StoreNumbers([3], [], 3, [FAR])


def test_two_publishers_at_once_leave_two_marks() -> None:
    assert plausible_numbers([4, 5], [5, 6]) == StoreNumbers([4, 5], [5, 6], 6, [])


def test_a_file_with_the_name_of_a_version_takes_its_number() -> None:
    assert plausible_numbers([1], [1], others=[9, FAR]).highest == 9


def test_numbers_far_apart_count_below_the_mark() -> None:
    """A version that is kept for ever, and those of today."""
    assert plausible_numbers([0, 40_000_000], [40_000_000]).versions == [0, 40_000_000]


@given(st.lists(NUMBERS, max_size=8), st.lists(NUMBERS, max_size=4), st.none() | st.integers(-1, 10**18 - 1))
def test_the_highest_number_is_a_short_way_above_what_was_used(
    versions: list[int], marks: list[int], used: int | None
) -> None:
    found = plausible_numbers(versions, marks, used=used)
    known = min(marks, default=-1) if used is None else used
    assert known <= found.highest <= known + (len(marks) + 1) * MAX_JUMP
    assert sorted({*found.versions, *found.marks, *found.ignored}) == sorted({*versions, *marks})
    assert not set(found.versions) & {n for n in versions if n > found.highest}
    again = plausible_numbers(found.versions, found.marks, used=used)
    assert (again.versions, again.highest, again.ignored) == (found.versions, found.highest, [])


def test_each_ignored_number_is_logged_once(captured_logs: CapturedLogs) -> None:
    ignored = IgnoredNumbers("a store")
    for found in ([FAR], [FAR], [FAR - 1, FAR]):
        ignored.report(StoreNumbers([0], [0], 0, found))
    assert captured_logs.messages("WARNING") == [
        f"version numbers ignored store=a store numbers={number} highest_used=0: remove them, no publisher can have "
        "reached them"
        for number in (FAR, FAR - 1)
    ]
    for first in range(100):
        ignored.report(StoreNumbers([0], [0], 0, range(FAR - 50 * first, FAR)))
    assert len(captured_logs.messages("WARNING")) == 3, "a flood of them costs one line"


def test_no_number_is_logged_after_twenty(captured_logs: CapturedLogs) -> None:
    ignored = IgnoredNumbers("a store")
    for found in (range(FAR - 20, FAR), [FAR]):
        ignored.report(StoreNumbers([0], [0], 0, found))
    assert len(captured_logs.messages("WARNING")) == 1
