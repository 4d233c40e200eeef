import pytest

from actor.session.actor_settings import ActorSettings
from shared.process.command_line import run_command


@pytest.mark.parametrize(
    ("flag", "has_sandbox"), [("--sandbox", 1), ("--no-sandbox", 0), ("--try-first", 1), ("--no-try-first", 0)]
)
def test_the_sandbox_has_a_flag_and_a_deprecated_one(flag: str, has_sandbox: int) -> None:
    def run() -> int:
        return run_command("python -m actor.run", ActorSettings, lambda settings: settings.sandbox, ["--env=x", flag])

    if "try-first" in flag:
        with pytest.warns(DeprecationWarning, match=f"{flag} is deprecated"):
            assert run() == has_sandbox
    else:
        assert run() == has_sandbox
