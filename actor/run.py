"""``python -m actor.run``: act with a run's policies in a process of its own."""

import os

# Set before numpy and torch load: an actor uses one core, and several actors share a machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys

from actor.session.actor_settings import ActorSettings
from shared.process.command_line import run_command


def main(settings: ActorSettings) -> int:
    """Act; return 0 when the episodes are done or the training is over, 130 after Ctrl-C, 143 after SIGTERM."""
    if settings.supervised:
        from shared.process.process_guard import die_with_parent

        die_with_parent()
    from actor.session.acting_session import act  # a late import, so that --help answers fast

    return act(settings)


if __name__ == "__main__":
    sys.exit(run_command("python -m actor.run", ActorSettings, main))
