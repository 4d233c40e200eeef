"""``rl-hotswap act``: the same as ``python -m actor.run``."""

from collections.abc import Sequence

from actor.run import main
from actor.session.actor_settings import ActorSettings
from shared.process.command_line import run_command

COMMAND = "rl-hotswap act"


def command(arguments: Sequence[str]) -> int:
    """Run the command with ``arguments`` and return its exit code."""
    return run_command(COMMAND, ActorSettings, main, arguments)
