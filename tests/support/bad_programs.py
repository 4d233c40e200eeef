"""Programs that load and fit the signature but misbehave; each contains a correct policy."""

import functools
import io
import warnings
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from scripts.fault_injection.rare_programs import BakedState
from shared.policy.manifest import TORCHSCRIPT_FILE, WEIGHTS_FILE, Manifest, ProgramEntry
from shared.policy.program_digest import program_digest
from shared.policy.weights import encode_weights
from shared.store.policy_store import PolicyStore
from tests.support.agent_policies import exporter, publish
from tests.support.impure_policies import AroundPolicy


class RunsWhileItLoads(AroundPolicy):
    """Misbehaves in ``__setstate__``, which TorchScript runs while it unpacks an archive."""

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        number = state[0]
        while number > 0:
            number = number % 7 + 1
        self.training = state[1]

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy(inputs)


class Hangs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        total = inputs[0].sum()
        for _ in range(1 << 62):
            total = total * 0.5
        return self.policy([inputs[0] + 0 * total, inputs[1]])


class NeedsAHundredTimes(AroundPolicy):
    """Computes the correct result a thousand times."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = self.policy(inputs)
        for _ in range(1000):
            outputs = self.policy(inputs)
        return outputs


class EatsAllMemory(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = self.policy(inputs)
        eaten = outputs[2].repeat(2_000_000)
        for _ in range(50):
            eaten = torch.cat([eaten, eaten])
        return [outputs[0], outputs[1] + 0 * eaten[0], outputs[2]]


class FewerOutputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return self.policy(inputs)[:2]


class MoreOutputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = self.policy(inputs)
        return [outputs[0], outputs[1], outputs[2], outputs[2]]


class SwappedOutputs(AroundPolicy):
    """Swaps log-probability and value, which have one shape and dtype; only the probe detects it."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = self.policy(inputs)
        return [outputs[0], outputs[2], outputs[1]]


class RightAtOneBatchSize(AroundPolicy):
    """Correct at the probe's batch size only; negated at any other."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        if inputs[0].shape[0] == 8:
            return self.policy(inputs)
        return self.policy([-inputs[0], -inputs[1]])


def _is_far(inputs: list[Tensor]) -> bool:
    return bool((inputs[0][:, 0] > 5e4).any())


class WideLogProbForSomeInputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        if _is_far(inputs):
            log_prob = log_prob.to(torch.float64)
        return [action, log_prob, value]


class FloatActionForSomeInputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        if _is_far(inputs):
            action = action.to(torch.float64) + 0.5
        return [action, log_prob, value]


class ShortActionForSomeInputs(AroundPolicy):
    """Int32: half the bytes of the action that is expected."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        if _is_far(inputs):
            action = action.to(torch.int32)
        return [action, log_prob, value]


class ComplexLogProbForSomeInputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        if _is_far(inputs):
            log_prob = torch.complex(log_prob, log_prob)
        return [action, log_prob, value]


class HalfPreciseLogProbForSomeInputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        if _is_far(inputs):
            log_prob = log_prob.to(torch.bfloat16)
        return [action, log_prob, value]


class FewerRowsForSomeInputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        if _is_far(inputs):
            action = action[:1]
        return [action, log_prob, value]


class ScalarForSomeInputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        if _is_far(inputs):
            log_prob = log_prob.sum()
        return [action, log_prob, value]


class FewerOutputsForSomeInputs(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        outputs = self.policy(inputs)
        return outputs[:1] if _is_far(inputs) else outputs


class ComplexLogProb(AroundPolicy):
    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, log_prob, value = self.policy(inputs)
        return [action, torch.complex(log_prob, log_prob), value]


class ObservationAsLogProb(AroundPolicy):
    """Outputs a view of its observation."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        action, _, value = self.policy(inputs)
        return [action, inputs[0][:, 0], value]


class Crashes(AroundPolicy):
    """Ends the calling process by a write beyond the end of an array, in native code."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns about constants
            self.native = torch.jit.trace(BakedState(), torch.zeros(1, 4), check_trace=False)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        many = inputs[0].repeat(1000, 1)
        return self.policy([inputs[0] + 0 * self.native(many), inputs[1]])


class Steered(AroundPolicy):
    """One program whose weights decide whether it crashes, eats all memory, hangs, or does no harm."""

    def __init__(self, seed: int = 0, *, rows: int = 1, copies: int = 1, laps: int = 1) -> None:
        super().__init__(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing warns about constants
            self.native = torch.jit.trace(BakedState(), torch.zeros(1, 4), check_trace=False)
        self.register_buffer("rows", torch.tensor(rows))
        self.register_buffer("copies", torch.tensor(copies))
        self.register_buffer("laps", torch.tensor(laps))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        lap = 0
        for _ in range(int(self.laps)):
            lap += 1
        eaten = inputs[0].repeat(int(self.copies), 1)
        many = inputs[0][:1].repeat(int(self.rows), 1)
        return self.policy([inputs[0] + 0 * self.native(many) + 0 * eaten[0, 0] + 0 * lap, inputs[1]])


STEERED = {
    "crash": ({"rows": 3000}, "killed the sandbox process"),
    "memory": ({"copies": 2**40}, "GiB of memory"),
    "hang": ({"laps": 2**60}, "no answer within"),
}
"""Weights of ``Steered`` that do harm, with the reason of the refusal."""


def publish_steered(store: PolicyStore, seed: int, harm: str | None = None) -> Manifest:
    """Publish a version of ``Steered`` that acts as ``make_policy(seed=seed)``, or does harm."""
    module = Steered(seed, **({} if harm is None else STEERED[harm][0]))
    return publish_program(store, module, {TORCHSCRIPT_FILE: _steered_archive()})


@functools.cache
def _steered_archive() -> bytes:
    """Return one archive for all weights: traced classes are named differently each time."""
    return _archive(Steered())


class HangsRarely(AroundPolicy):
    """Hangs for the inputs that ``rare_environment`` gives once in an episode, and no probe has."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        first = inputs[0][:, 0].max()
        while bool(first > 1e4):
            first = first + 1
        return self.policy(inputs)


class CrashesRarely(Crashes):
    """Ends its process for the same inputs."""

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        if bool(inputs[0][:, 0].max() > 1e4):
            many = inputs[0].repeat(1000, 1)
            return self.policy([inputs[0] + 0 * self.native(many), inputs[1]])
        return self.policy(inputs)


def _archive(module: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(module.eval()), buffer)
    return buffer.getvalue()


def publish_program(store: PolicyStore, module: AroundPolicy, instead: Mapping[str, bytes] | None = None) -> Manifest:
    """Publish the TorchScript of ``module`` and its weights, with the correct policy's probe or files ``instead``."""
    weights = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    given = {WEIGHTS_FILE: encode_weights(weights), **(instead or {})}
    if TORCHSCRIPT_FILE not in given:
        given[TORCHSCRIPT_FILE] = _archive(module)
    digest = program_digest("torchscript", given[TORCHSCRIPT_FILE])
    return publish(
        store,
        module.policy,
        exporter(network=module.network),
        instead=given,
        programs=(ProgramEntry("torchscript", TORCHSCRIPT_FILE, digest),),
    )


def zip_bomb() -> tuple[bytes, ProgramEntry]:
    """Return a TorchScript archive that unpacks to twice the limit, and its manifest entry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("policy/data.pkl", b"")
        with archive.open("policy/code/bomb.py", "w") as entry:
            for _ in range(8):
                entry.write(bytes(2**24))
    return buffer.getvalue(), ProgramEntry("torchscript", TORCHSCRIPT_FILE, "0" * 64)
