"""``python -m actor.run``: act with a run's policies, in a process of its own."""

import os

# Before numpy and torch are loaded: one actor is one core's work, and several share a machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys

from actor.session.actor_settings import ActorSettings
from shared.process.command_line import run_command


def main(settings: ActorSettings) -> int:
    """Act until the episodes are done (0), the training is over (0) or somebody stops it (130, or 143 for SIGTERM)."""
    if settings.supervised:
        from shared.process.process_guard import die_with_parent

        die_with_parent()
    from actor.session.acting_session import act  # here, so that --help answers at once

    return act(settings)


if __name__ == "__main__":
    sys.exit(run_command("python -m actor.run", ActorSettings, main))
