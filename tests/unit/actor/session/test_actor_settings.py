import pytest

from actor.session.actor_settings import ActorSettings
from shared.process.command_line import run_command


@pytest.mark.filterwarnings("ignore:--(no-)?try-first is deprecated")
@pytest.mark.parametrize(
    ("flag", "has_sandbox"), [("--sandbox", 1), ("--no-sandbox", 0), ("--try-first", 1), ("--no-try-first", 0)]
)
def test_the_sandbox_has_flags_and_deprecated_ones(flag: str, has_sandbox: int) -> None:
    flags = ["--env=x", flag]
    assert run_command("actor", ActorSettings, lambda settings: settings.sandbox, flags) == has_sandbox
