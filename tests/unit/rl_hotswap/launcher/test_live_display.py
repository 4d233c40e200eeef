import io

from rl_hotswap.launcher.live_display import LiveTable, PlainLines, describe, open_display
from rl_hotswap.launcher.supervisor import TrainingStatus
from rl_hotswap.launcher.terminal import Terminal
from shared.rollouts.rollout import RolloutAccounts
from shared.run.progress import Progress

_STANDING = TrainingStatus(
    progress=Progress(
        **{"phase": "training", "env_steps": 61_440, "steps_per_s": 10_240.4, "episodes": 311, "mean_return": 212.34},
        **{"updates": 120, "version": 31, "lag": 0.84, "reloads": 60, "train_s": 6.0, "skipped_updates": 2},
        rollouts=RolloutAccounts(invalid=4),
    ),
    actors=2,
    actors_alive=1,
    actor_deaths=3,
)
_SHOWN = {"steps": "61,440", "steps/s": "10,240", "episodes": "311", "mean return": "212.3", "version": "31"}
_SHOWN |= {"lag": "0.8", "reloads": "60", "rejected": "4", "skipped": "2", "actors": "1/2", "actor deaths": "3"}


def test_every_number_is_described() -> None:
    assert dict(describe(_STANDING)) == _SHOWN
    before = dict(describe(TrainingStatus(actors=2)))
    assert (before["mean return"], before["version"], before["steps"]) == ("-", "-", "0")


def test_plain_lines_where_the_output_is_no_terminal() -> None:
    out = io.StringIO()
    with open_display(Terminal(file=out), "CartPole-v1") as display:
        assert isinstance(display, PlainLines)
        display.show(TrainingStatus(actors=2))
        display.show(_STANDING)
        display.show(_STANDING)  # too soon after the last for another line
    (line,) = out.getvalue().splitlines()
    assert line.startswith("   6.0 s | steps 61,440 | ")
    for name, value in _SHOWN.items():
        assert f"{name} {value}" in line


def test_a_table_on_a_terminal() -> None:
    out = io.StringIO()
    with open_display(Terminal(file=out, force_terminal=True, width=140), "CartPole-v1 in runs/x") as display:
        assert isinstance(display, LiveTable)
        display.show(TrainingStatus(actors=2))
        assert "CartPole-v1 in runs/x" in out.getvalue()
        assert "starting" in out.getvalue()
        display.show(TrainingStatus(_STANDING.progress, 2, 1, 3, messages=["actor-0 was killed [by] SIGKILL"]))
    said = out.getvalue()
    assert "training" in said
    assert "6.0 s" in said
    for value in _SHOWN.values():
        assert value in said
    assert "actor-0 was killed [by] SIGKILL" in said


def test_messages_are_never_held_back_or_read_as_markup() -> None:
    out = io.StringIO()
    with PlainLines(Terminal(file=out)) as display:
        for message in ("[red]one", "two [/]"):
            display.show(TrainingStatus(messages=[message]))
    assert out.getvalue() == "[red]one\ntwo [/]\n"
