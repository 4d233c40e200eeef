"""``python scripts/examples/native_cartpole.py``: training in Python, and an actor in C++ that follows it.

``rl-hotswap train`` publishes a version every 50 ms. ``actor/native/examples/cartpole.cpp`` acts in its own CartPole
and replaces its policy between two steps. It records each step with the version that chose the action. Afterwards every
action is derived again in Python from that version, and from the version before, which shows that the comparison can
fail.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from shared.engines.torchscript import TorchScriptEngine
from shared.policy.manifest import TORCHSCRIPT_FILE, WEIGHTS_FILE
from shared.policy.weights import decode_weights
from shared.store.policy_store import PolicyStore, open_store

REPOSITORY = Path(__file__).resolve().parents[2]
STEP = np.dtype([("version", "<i4"), ("action", "<i4"), ("observation", "<f4", (4,)), ("noise", "<f4", (2,))])
"""One record of ``cartpole --record``."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class Options:
    """Flags of the example."""

    steps: int = 200_000
    """Steps of the C++ actor, of all its environments together."""
    envs: int = 1
    """Environments that it steps as one batch; a divisor of the steps and of 4096."""
    publish_every_s: float = 0.05
    """Seconds between two versions of the training."""
    build: Path = REPOSITORY / "build" / "native"
    """Directory of the C++ build."""
    run_dir: Path | None = None
    """Directory of the run, and of the record; a temporary directory by default."""


@dataclass(frozen=True)
class Derivation:
    """Comparison of recorded actions with derived ones.

    Attributes:
        steps, versions: number of compared steps, and of versions that acted.
        wrong: steps whose action is not that of the version they are stamped with.
        wrong_before: steps whose action is not that of the version that acted before that one.
    """

    steps: int
    versions: int
    wrong: int
    wrong_before: int


def build_native(build: Path) -> None:
    """Configure and compile ``actor/native``. Raises SystemExit without CMake."""
    if shutil.which("cmake") is None:
        raise SystemExit("install CMake, a C++17 compiler, nlohmann-json and OpenSSL: see docs/guides/native-actor.md")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    subprocess.run(
        ["cmake", "-S", REPOSITORY / "actor" / "native", "-B", build, prefix], check=True, stdout=subprocess.DEVNULL
    )
    subprocess.run(["cmake", "--build", build, "--parallel", "2"], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def training(run: Path, publish_every_s: float) -> Iterator[None]:
    """Train for as long as the body runs. Every version is kept."""
    command = [sys.executable, "-m", "rl_hotswap.cli.main", "train", "--env", "CartPole-v1", "--run-dir", str(run)]
    command += ["--target-return", "inf", "--keep-versions", "1000000"]
    command += ["--publish-every-updates", "1000000", "--publish-every-s", str(publish_every_s)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        if process.poll() is not None:
            raise SystemExit(f"the training ended early, with exit code {process.returncode}: see {run}/logs")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def derive(store: PolicyStore, record: Path, envs: int = 1) -> Derivation:
    """Return the comparison of every recorded action with the one that its version's program gives.

    The actor called the program with ``envs`` rows at once.
    """
    steps = np.memmap(record, STEP, mode="r")
    changes = np.flatnonzero(np.diff(steps["version"])) + 1
    policy, wrong, wrong_before = _Policy(store, envs), 0, 0
    previous = int(steps["version"][0])
    versions = {previous}
    for begin, end in zip([0, *changes], [*changes, len(steps)], strict=True):
        span, version = steps[begin:end], int(steps["version"][begin])
        wrong += policy.differing(version, span)
        wrong_before += policy.differing(previous, span) if previous != version else 0
        previous = version
        versions.add(version)
    return Derivation(len(steps), len(versions), wrong, wrong_before)


class _Policy:
    """The program of a store's versions, with the weights of one of them."""

    def __init__(self, store: PolicyStore, envs: int) -> None:
        self._store = store
        self._envs = envs
        self._engine: TorchScriptEngine | None = None

    def differing(self, version: int, steps: np.ndarray) -> int:
        """Return the number of ``steps`` for which ``version`` has another action."""
        files = self._store.open(version)
        weights = decode_weights(files.read(WEIGHTS_FILE))
        if self._engine is None:
            self._engine = TorchScriptEngine.from_bytes(files.read(TORCHSCRIPT_FILE), weights)
        self._engine.load_weights(weights)
        pieces = (steps[at : at + _ROWS_AT_ONCE] for at in range(0, len(steps), _ROWS_AT_ONCE))
        return sum(self._differing(piece) for piece in pieces)

    def _differing(self, steps: np.ndarray) -> int:
        # The sums of a larger batch are rounded differently. So a step counts if the batch of the actor gives another
        # action, too.
        suspects = np.flatnonzero(self._actions(steps) != steps["action"])
        calls = (steps[at : at + self._envs] for at in np.unique(suspects // self._envs) * self._envs)
        return sum(int(np.count_nonzero(self._actions(call) != call["action"])) for call in calls)

    def _actions(self, steps: np.ndarray) -> np.ndarray:
        assert self._engine is not None
        inputs = [np.ascontiguousarray(steps["observation"]), np.ascontiguousarray(steps["noise"])]
        return self._engine.run(inputs)[0]


def run(options: Options, run_dir: Path) -> bool:
    """Train, act and compare. Return True if no action was wrong."""
    build_native(options.build)
    policies, record = run_dir / "policies", run_dir / "native_steps.bin"
    with training(run_dir, options.publish_every_s):
        act: list[str | Path] = [options.build / "examples" / "cartpole", policies, str(options.steps)]
        act += ["--record", record, "--envs", str(options.envs)]
        acted = json.loads(subprocess.run(act, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)
    found = derive(open_store(policies), record, options.envs)
    rate = acted["adopted"] / acted["seconds"]
    print(f"C++ actor: {acted['steps']} steps in {acted['seconds']:.1f} s, {acted['episodes']} episodes")
    print(f"adoptions: {acted['adopted']}, {rate:.1f} per second; refused {acted['refused']}, failed {acted['failed']}")
    print(f"derived again: {found.steps} steps of {found.versions} versions, wrong {found.wrong}")
    print(f"wrong if stamped with the version before: {found.wrong_before}")
    return found.wrong == 0 and found.steps == options.steps and acted["refused"] == acted["failed"] == 0


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    torch.set_num_threads(1)
    if options.run_dir is not None:
        raise SystemExit(0 if run(options, options.run_dir) else 1)
    with tempfile.TemporaryDirectory() as directory:
        raise SystemExit(0 if run(options, Path(directory) / "run") else 1)


if __name__ == "__main__":
    main()
