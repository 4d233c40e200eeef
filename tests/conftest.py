"""Settings for all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.captured_logs import CapturedLogs, capture_logs

# A test that is slow on a busy machine is still right: only pytest's own timeout ends a hang.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this user's actors remember is no matter here, and what is tried here is nothing to remember."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def captured_logs() -> Iterator[CapturedLogs]:
    """The log of this process during the test."""
    with capture_logs() as captured:
        yield captured
