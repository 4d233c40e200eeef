"""Faults of the training's environments, which fail as files in a directory request (see ``faulty_environment``)."""

from pathlib import Path

import numpy as np

from scripts.fault_injection.faulty_environment import FAULTS, REWARDS
from scripts.fault_injection.run_state import RunState

# The rollout with the value, and the one in which its episode ends.
_REJECTED_AT_MOST = dict.fromkeys(REWARDS, 2) | {"large reward": 0, "nan observation": 1}
_LETTERS = list("abcdefghijklmnopqrstuvwxyz")


class EnvironmentFaults:
    """``inject`` requests one fault of an environment; ``undo`` withdraws requests that no environment has met."""

    def __init__(self, requests: Path, state: RunState, generator: np.random.Generator) -> None:
        self._requests = requests
        self._state = state
        self._generator = generator

    def inject(self) -> bool:
        kind = str(self._generator.choice(np.array(FAULTS)))
        path = self._requests / kind
        if path.exists():
            return False
        word = self._word(kind)
        hidden = path.with_name(f".{kind}")
        hidden.write_text(word)
        hidden.rename(path)
        self._state.invalid_rollouts.sent += _REJECTED_AT_MOST.get(kind, 0)
        self._state.invariants.count_fault(f"environment: {kind}", word)
        return True

    def undo(self) -> None:
        for path in self._requests.iterdir():
            path.unlink(missing_ok=True)

    def _word(self, kind: str) -> str:
        """Return words that differ from failure to failure: five identical ones in a row rightly end a training."""
        if kind == "nan observation":
            return str(self._generator.choice(np.array(["nan", "inf", "-inf"])))
        return "".join(self._generator.choice(np.array(_LETTERS), 8)) if kind == "raise" else ""
