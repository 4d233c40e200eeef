"""The probe and the purity of programs, on the engines that run them."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from torch import nn

from actor.verification.probe_verifier import ProbeVerifier
from shared.engines.eager import EagerEngine, module_tensors
from shared.engines.engine import Engine
from shared.errors import ProbeMismatch, ProgramImpure
from shared.policy.probe import Probe, compute_probe, run_policy
from tests.support.agent_policies import exporter, make_policy
from tests.support.impure_policies import REASONS, AroundPolicy, MixesRowsByWeights
from tests.support.policies import make_version
from tests.support.script_archives import script_engine

ENGINES: dict[str, Callable[[nn.Module], Engine]] = {
    "torchscript": script_engine,
    "eager": lambda module: EagerEngine(module, ""),
}


def _weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in module_tensors(module).items()}


def _verifier(module: AroundPolicy, batch_size: int) -> ProbeVerifier:
    manifest = make_version(exporter(network=module.network), module.policy.state_dict()).manifest
    return ProbeVerifier(manifest, compute_probe(module, module.signature), batch_size)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", REASONS)
def test_a_program_that_reproduces_its_own_probe_is_refused_if_impure(kind: type[AroundPolicy], engine: str) -> None:
    """The batch is the probe's, so that the probe alone shows little."""
    with pytest.raises(ProgramImpure, match=REASONS[kind]):
        _verifier(kind().eval(), 8).verify_purity(ENGINES[engine](kind()), _weights(kind()))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 9, 16, 64])
@pytest.mark.parametrize("is_uniform", [False, True], ids=["own probe", "a probe of equal rows"])
def test_each_content_is_refused_whose_weights_let_rows_influence_each_other(batch_size: int, is_uniform: bool) -> None:
    """Purity is verified once per program: an earlier content of this one was pure."""
    for share in (0.0, 1.0):
        module = MixesRowsByWeights(share=share).eval()
        probe = compute_probe(module, module.signature)
        if is_uniform:
            inputs = [array[:1].repeat(8, 0) for array in probe.inputs]
            probe = Probe(tuple(inputs), tuple(run_policy(module, module.signature, inputs)))
        manifest = make_version(exporter(), module.policy.state_dict()).manifest
        verifier, run = ProbeVerifier(manifest, probe, batch_size), EagerEngine(module, "").run
        if share == 0 or (is_uniform and batch_size == 1):  # a row alone is as good as equal ones
            assert verifier.verify(run) < 1e-5
        else:
            with pytest.raises(ProbeMismatch, match="differ by more than"):
                verifier.verify(run)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 8, 9, 16, 64])
def test_every_row_of_the_probe_is_compared(batch_size: int) -> None:
    policy = make_policy()
    probe, rows = compute_probe(policy, policy.signature), []
    manifest = make_version(exporter(), policy.state_dict()).manifest
    verifier, engine = ProbeVerifier(manifest, probe, batch_size), EagerEngine(policy, "")

    def run(inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        rows.append(len(inputs[0]))
        return engine.run(inputs)

    verifier.verify(run)
    assert rows == ([batch_size] if batch_size > 8 else [8, batch_size])
    for row in range(8):
        outputs = [output.copy() for output in probe.outputs]
        outputs[1][row] += 1
        wrong = ProbeVerifier(manifest, Probe(probe.inputs, tuple(outputs)), batch_size)
        with pytest.raises(ProbeMismatch, match="log_prob"):
            wrong.verify(run)


def test_a_batch_of_another_number_of_rows_is_refused() -> None:
    policy = make_policy()
    manifest = make_version(exporter(), policy.state_dict()).manifest
    verifier, engine = ProbeVerifier(manifest, compute_probe(policy, policy.signature), 16), EagerEngine(policy, "")
    for change in (slice(None, -1), [*range(16), 0]):
        with pytest.raises(ProbeMismatch, match="does not return what its signature promises"):
            verifier.verify(lambda inputs, change=change: [output[change] for output in engine.run(inputs)])
