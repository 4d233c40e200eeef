"""Settings for all tests."""

from hypothesis import settings

# A test that is slow on a busy machine is still right: only pytest's own timeout ends a hang.
settings.register_profile("default", deadline=None)
settings.load_profile("default")
