import pytest

from actor.versions.follow_rules import (
    Follow,
    History,
    Newest,
    Pinned,
    check_canary,
    draw_older,
    parse_follow,
    select_version,
)
from shared.errors import ConfigurationError

KNOWN = [1, 2, 5, 7]
HALF = History(0.5)


@pytest.mark.parametrize(
    ("follow", "known", "unusable", "held", "highest_acted", "selected"),
    [
        # nothing held yet: the newest that can be used
        (Newest(), [], [], None, None, None),
        (Newest(), KNOWN, [], None, None, 7),
        (Newest(), KNOWN, [7], None, None, 5),
        (Newest(), KNOWN, KNOWN, None, None, None),
        # something acts: only what is newer
        (Newest(), KNOWN, [], 5, 5, 7),
        (Newest(), KNOWN, [], 7, 7, None),
        (Newest(), KNOWN, [7], 2, 2, 5),
        (Newest(), KNOWN, [7], 5, 5, None),
        # a store that went back: never below what was acted with
        (Newest(), [1, 2], [], 5, 5, None),
        (Newest(), [1, 2, 6], [], 5, 5, 6),
        # the last good one acts again after a newer one failed: that newer one's successors only
        (Newest(), KNOWN, [7], 2, 7, None),
        (Newest(), [*KNOWN, 8], [7], 2, 7, 8),
        # to recover, anything that verifies
        (Newest(), KNOWN, [7], None, 7, 5),
        (Newest(), KNOWN, [7, 5], None, 7, 2),
        # history follows the newest, its draws apart
        (HALF, KNOWN, [], 5, 5, 7),
        # a pin never falls back, up or down
        (Pinned(5), KNOWN, [], None, None, 5),
        (Pinned(5), KNOWN, [], 5, 5, None),
        (Pinned(5), KNOWN, [5], None, None, None),
        (Pinned(3), KNOWN, [], None, None, None),
        (Pinned(2), KNOWN, [], None, 7, 2),
    ],
)
def test_select_version(
    follow: Follow,
    known: list[int],
    unusable: list[int],
    held: int | None,
    highest_acted: int | None,
    selected: int | None,
) -> None:
    assert select_version(follow, known, unusable, held, highest_acted) == selected


def test_draws_are_uniform_over_what_is_older_and_usable() -> None:
    known = list(range(10))
    draws = [draw_older(known, {3}, 6, i / 1000) for i in range(1000)]
    assert {version: draws.count(version) for version in set(draws)} == {0: 200, 1: 200, 2: 200, 4: 200, 5: 200}


def test_nothing_to_draw_from() -> None:
    assert draw_older([4], (), 4, 0.5) is None
    assert draw_older([3, 4], (3,), 4, 0.5) is None
    assert draw_older([3, 4], (), None, 0.5) is None


@pytest.mark.parametrize("text", ["newest", "pinned:7", "history:0.25", "history:1"])
def test_parse_follow_reads_what_it_prints(text: str) -> None:
    assert str(parse_follow(text)) == text


@pytest.mark.parametrize(
    ("text", "follow"), [("pinned:v000042", Pinned(42)), ("history:.5", HALF), ("history:0", History(0.0))]
)
def test_parse_follow(text: str, follow: Follow) -> None:
    assert parse_follow(text) == follow


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        *(f"pinned{x}" for x in ("", ":", ":-1", ":x", ":٣")),
        *(f"history:{x}" for x in (1.5, -0.1, "nan", "٣", ".٣")),
    ],
)
def test_parse_follow_says_what_it_expected(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected newest, pinned:VERSION or history:PROBABILITY"):
        parse_follow(text)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 1.5, float("nan")])
def test_the_share_of_a_canary_is_a_proper_fraction(share: float) -> None:
    with pytest.raises(ConfigurationError, match="expected a share above 0 and below 1"):
        check_canary(share, Newest())


def test_a_canary_follows_the_newest_version() -> None:
    check_canary(0.5, Newest())
    for follow in (Pinned(3), HALF):
        check_canary(None, follow)
        with pytest.raises(ConfigurationError, match=f"needs to follow newest, not {follow}"):
            check_canary(0.5, follow)
