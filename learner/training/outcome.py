"""Outcomes of a training and their exit codes."""

from enum import Enum


class Outcome(Enum):
    """Reason for the end of a training; ``exit_code`` is that of the commands that train."""

    def __new__(cls, sentence: str, exit_code: int) -> "Outcome":
        member = object.__new__(cls)
        member._value_ = sentence
        member.exit_code = exit_code
        return member

    exit_code: int

    TARGET_REACHED = ("target return reached", 0)
    STEP_LIMIT = ("step limit reached", 0)
    TIME_LIMIT = ("time limit reached first", 1)
    INTERRUPTED = ("interrupted", 130)
