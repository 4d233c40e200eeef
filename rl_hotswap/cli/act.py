"""``rl-hotswap act``: the same as ``python -m actor.run``."""

from functools import partial

from actor.run import main
from actor.session.actor_settings import ActorSettings
from shared.process.command_line import run_command

command = partial(run_command, "rl-hotswap act", ActorSettings, main)
