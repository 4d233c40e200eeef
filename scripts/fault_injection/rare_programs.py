"""An actor that trusts all programs, and versions of its store that hang or crash for rare inputs.

The actor has a store and an environment of its own, whose every 200th observation is such an input. Each content may
end the actor twice; after its third start the actor acts with the version before.
"""

import io
import signal
import time
import warnings

import msgspec
import torch
from torch import Tensor, nn

from actor.guard.call_deadline import EXCEEDED
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from rl_hotswap.launcher.child_process import python_module
from scripts.fault_injection.faulty_environment import RARE_ENV_ID
from scripts.fault_injection.invariants import Invariant, Invariants
from scripts.fault_injection.processes import TestEnvironment, start
from scripts.fault_injection.published import Tail
from shared.engines.eager import module_tensors
from shared.policy.manifest import TORCHSCRIPT_FILE, WEIGHTS_FILE, Manifest, ProgramEntry
from shared.policy.program_digest import program_digest
from shared.policy.weights import encode_weights
from shared.run.environment_description import describe_environment
from shared.store.policy_store import LocalPolicyStore

NAME = "trusting-0"

_PROMISE: Invariant = "a program that fails for rare inputs is quarantined"
_ENDS = 2
_WITHIN_S = 180.0
_ENDED = {"hang": (EXCEEDED,), "crash": (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS)}
_KINDS = tuple(_ENDED)


class _HangsRarely(nn.Module):
    def __init__(self, policy: ActingPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        first = inputs[0][:, 0].max()
        while bool(first > 1e4):
            first = first + 1
        outputs: list[Tensor] = self.policy(inputs)
        return outputs


class BakedState(nn.Module):
    """LSTM with a state for one row; traced, it writes beyond the end for more rows."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 512)

    def forward(self, observation: Tensor) -> Tensor:
        state = torch.zeros(1, 1, 512)
        output: Tensor = self.lstm(observation.unsqueeze(0), (state, state))[0].sum()
        return output


class _CrashesRarely(nn.Module):
    def __init__(self, policy: ActingPolicy) -> None:
        super().__init__()
        self.policy = policy
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns about constants
            example = torch.zeros(1, 4)
            self.native = torch.jit.trace(BakedState(), example, check_trace=False)  # type: ignore[no-untyped-call]

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        observation = inputs[0]
        if bool(observation[:, 0].max() > 1e4):
            observation = observation + 0 * self.native(observation.repeat(1000, 1))
        outputs: list[Tensor] = self.policy([observation, inputs[1]])
        return outputs


class _Episode(msgspec.Struct):
    version: int


class RarePrograms:
    """``inject`` publishes a program that hangs or crashes for rare inputs; ``check`` restarts the actor as it should.

    Args:
        environment: The directories of the chaos run.
        invariants: Where checks are counted.
    """

    def __init__(self, environment: TestEnvironment, invariants: Invariants) -> None:
        self._environment = environment
        self._invariants = invariants
        self._store = LocalPolicyStore(environment.path / "trusted-policies")
        description = describe_environment(RARE_ENV_ID, {})
        network = NetworkConfig(hidden_sizes=(8,), shared_trunk=True)
        self._policy = ActingPolicy(description.leaves, description.action, network).eval()
        self._exporter = PolicyExporter(self._policy, self._policy.signature, onnx=False)
        self._published = 0
        self._starts = 0
        self._acts = False
        self._bad: tuple[str, int] | None = None
        self._bad_since_s = 0.0
        self._ends = 0
        self._publish(None)
        self._start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_settled(self) -> bool:
        """True when the actor acts, and not with a bad version."""
        return self._bad is None and self._acts

    def inject(self) -> bool:
        """Publish a bad version if the actor acts with a good one."""
        if self._bad is not None or not self._acts:
            return False
        kind = _KINDS[self._published % len(_KINDS)]
        self._bad, self._ends, self._bad_since_s = (kind, self._publish(kind).version), 0, time.monotonic()
        self._invariants.count_fault(f"program: {kind} for rare inputs", f"version {self._bad[1]} of its own store")
        return True

    def check(self) -> None:
        """Check the actor's end or its episodes since the last call."""
        code = self.process.poll()
        if code is not None:
            self._note_end(code)
            self._episodes.close()
            self._start()
            return
        for line in self._episodes.lines():
            version = msgspec.json.decode(line, type=_Episode).version
            self._acts = True
            if self._bad is not None and self._ends == _ENDS:
                acts_again = version != self._bad[1]
                self._invariants.check(_PROMISE, acts_again, f"version {version} acts after {_ENDS} ends")
                self._invariants.measured(_PROMISE, time.monotonic() - self._bad_since_s)
                self._bad = None
        if self._bad is not None and time.monotonic() - self._bad_since_s > _WITHIN_S:
            late = f"{NAME} did not act again within {_WITHIN_S:g} s after {self._ends} ends: {self._bad}"
            self._invariants.violated(_PROMISE, late)
            self._bad = None

    def close(self) -> None:
        """Kill the actor."""
        self.process.kill()
        self.process.wait()
        self._episodes.close()

    def _note_end(self, code: int) -> None:
        expected = () if self._bad is None or self._ends == _ENDS else _ENDED[self._bad[0]]
        found = f"{NAME} ended with exit code {code}, expected {[int(one) for one in expected] or 'no end'}"
        self._invariants.check(_PROMISE, code in expected, found)
        self._ends += 1
        self._acts = False

    def _start(self) -> None:
        self._starts += 1
        outputs = self._environment.outputs
        log = outputs / f"{NAME}-{self._starts}.jsonl"
        self._episodes = Tail(log)
        flags = (
            f"--env={RARE_ENV_ID} --store={self._store.path} --name={NAME} --trust-program --call-deadline-s=2 "
            f"--engine=torchscript --episode-log={log}"
        )
        command = python_module("actor.run", flags.split())
        self.process = start(command, self._environment, outputs / f"{NAME}-{self._starts}.txt")

    def _publish(self, kind: str | None) -> Manifest:
        """Publish new weights with the policy's own program, or with one that fails as ``kind`` says."""
        self._published += 1
        with torch.no_grad():
            self._policy.core.value_parameters()[0].add_(0.01)
        files, programs, probe = self._exporter.files(module_tensors(self._policy))
        if kind is not None:
            module = (_HangsRarely if kind == "hang" else _CrashesRarely)(self._policy).eval()
            buffer = io.BytesIO()
            torch.jit.save(torch.jit.script(module), buffer)
            weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
            files |= {TORCHSCRIPT_FILE: buffer.getvalue(), WEIGHTS_FILE: encode_weights(weights)}
            digest = program_digest("torchscript", buffer.getvalue())
            programs = (ProgramEntry("torchscript", TORCHSCRIPT_FILE, digest),)
        return self._store.publish(
            files,
            lambda version, entries: Manifest(
                version=version,
                run_id="chaos",
                env_id=None,
                created_unix_s=time.time(),
                signature=self._policy.signature,
                programs=programs,
                files=entries,
                weights=WEIGHTS_FILE,
                probe=probe,
            ),
        )
