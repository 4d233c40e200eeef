"""``rl-hotswap``: one command with a subcommand for each module of this folder, which is imported when called."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from shared.process.command_line import CANNOT

COMMANDS = {
    "train": "train a policy on this machine with actors that adopt each new version",
    "act": "run environments with the newest verified version and send rollouts to the learner",
    "learn": "run the learner alone, for actors that are started separately",
    "evaluate": "run deterministic episodes of one policy version and print their statistics",
    "inspect": "print the contents of a policy version and verify it",
    "export": "export a policy that was trained elsewhere",
    "rollback": "publish an older version again under the next number",
    "keys": "make or show the keys that sign policy versions",
}
_WIDTH = max(map(len, COMMANDS))
_HELP = f"""usage: rl-hotswap COMMAND [FLAGS]

Train reinforcement-learning policies and replace them while actors run.

commands:
{chr(10).join(f"  {name:<{_WIDTH}}  {summary}" for name, summary in COMMANDS.items())}

rl-hotswap COMMAND --help lists the flags of a command; rl-hotswap --version prints the version.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand that ``arguments`` (``sys.argv[1:]`` if None) begin with and return its exit code."""
    name, *flags = [*(sys.argv[1:] if arguments is None else arguments)] or ["--help"]
    if name in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if name == "--version":
        from rl_hotswap import __version__

        print(f"rl-hotswap {__version__}")
        return 0
    if name not in COMMANDS:
        nearest = get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(COMMANDS)}"
        print(f"rl-hotswap: there is no command {name!r}: {hint}", file=sys.stderr)
        return CANNOT
    exit_code: int = import_module(f"rl_hotswap.cli.{name}").command(flags)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
