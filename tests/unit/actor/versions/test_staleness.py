import pytest
from msgspec.structs import replace

from actor.versions.staleness import StalenessMonitor, describe_age
from shared.policy.manifest import Manifest
from shared.store.version_files import describe_files
from tests.support.sample_versions import sample_files, sample_manifest

STALE_AFTER_S = 100.0


def version(number: int, published_unix_s: float = 0.0) -> Manifest:
    return replace(sample_manifest(number, describe_files(sample_files())), created_unix_s=published_unix_s)


def _messages(
    monitor: StalenessMonitor, acting: Manifest | None, known: list[int], now_s: float, unix_s: float
) -> list[str]:
    return [message for _, message in monitor.reports(acting, known, now_s, unix_s)]


@pytest.fixture
def monitor() -> StalenessMonitor:
    return StalenessMonitor(STALE_AFTER_S, alarming=True)


def test_nothing_is_reported_before_the_first_adoption_or_while_new_versions_come(monitor: StalenessMonitor) -> None:
    assert _messages(monitor, None, [], 0.0, 1e9) == []
    for second in range(0, 1000, 50):
        assert _messages(monitor, version(second, second), [second], second, second + 1) == []


def test_the_age_is_reported_at_the_interval(monitor: StalenessMonitor) -> None:
    said = [second for second in range(500) if _messages(monitor, version(3), [3], second, second)]
    assert said == [100, 200, 300, 400]
    assert list(monitor.reports(version(3), [3], 7200, 7200)) == [("WARNING", "policy version 3 is stale age=2.0 h")]


def test_a_version_that_is_old_when_adopted_is_reported_at_once(monitor: StalenessMonitor) -> None:
    assert _messages(monitor, version(3), [3], 0.0, 110.0) == ["policy version 3 is stale age=110 s"]
    assert _messages(monitor, version(4, 5.0), [4], 1.0, 111.0) == [], "not for every one of them"


@pytest.mark.parametrize("unix_s", [-1e9, 0.0])
def test_a_clock_that_is_behind_does_not_hide_an_age(monitor: StalenessMonitor, unix_s: float) -> None:
    assert _messages(monitor, version(3), [3], 0.0, unix_s) == []
    assert _messages(monitor, version(3), [3], 180.0, unix_s) == ["policy version 3 is stale age=3 min"]


def test_a_store_that_went_back_is_reported_once(monitor: StalenessMonitor) -> None:
    said = [bool(_messages(monitor, version(9), known, 0.0, 0.0)) for known in ([8, 9], [4], [4], [4, 5], [8, 9], [5])]
    assert said == [False, True, False, True, False, True]
    assert _messages(monitor, version(9), [], 0.0, 0.0) == [], "a store that is away says nothing"
    assert list(monitor.reports(version(9), [7], 0.0, 0.0)) == [
        (
            "WARNING",
            "policy store went back acting=9 newest=7: older versions are not adopted; restart the actor unless this "
            "is an older copy of the store",
        )
    ]


def test_the_report_is_information_unless_alarming_and_can_be_turned_off() -> None:
    ((level, _),) = StalenessMonitor(STALE_AFTER_S, alarming=False).reports(version(1), [1], 0.0, 1e6)
    assert level == "INFO"
    assert _messages(StalenessMonitor(float("inf"), alarming=True), version(1), [1], 1e9, 1e9) == []


@pytest.mark.parametrize(
    ("age_s", "said"),
    [
        (-5, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7200, "2.0 h"),
        (90000, "25.0 h"),
        (172799, "48.0 h"),
        (172800, "2.0 days"),
        (7199, "120 min"),
        (4e5, "4.6 days"),
    ],
)
def test_describe_age(age_s: float, said: str) -> None:
    assert describe_age(age_s) == said
