"""Choice of the fastest passes for a policy: written out, compiled, or by autograd."""

import warnings
from collections.abc import Sequence
from typing import overload

import torch
from loguru import logger
from torch import Tensor

from learner.networks.networks import LstmCell, RecurrentCore, SeparateCore, SharedCore
from learner.ppo.gradients.backprop import (
    AutogradBackprop,
    Backprop,
    FlatParameters,
    Function,
    RowBackprop,
    RowReference,
    SequenceReference,
)
from learner.ppo.gradients.handwritten import LstmBackprop, SeparateCoreBackprop, SharedCoreBackprop
from shared.policy.probe import make_inputs


@overload
def accelerate(reference: RowReference, parameters: FlatParameters, *, torch_compile: bool = False) -> RowBackprop: ...
@overload
def accelerate(
    reference: SequenceReference, parameters: FlatParameters, *, torch_compile: bool = False
) -> Backprop: ...
def accelerate(
    reference: RowReference | SequenceReference, parameters: FlatParameters, *, torch_compile: bool = False
) -> Backprop:
    """Return the fastest passes of ``reference``: written out, or by autograd, compiled if ``torch_compile``."""
    written_out = _written_out(reference)
    if isinstance(reference, SequenceReference):
        if torch_compile:
            logger.warning(
                "the update is not compiled: sequences are cut where episodes end, so no two are one program"
            )
        return written_out or AutogradBackprop(reference.run, parameters)
    if written_out is not None:
        if torch_compile:
            logger.warning("the update is not compiled: the gradients of this network are written out, not recorded")
        return written_out
    return AutogradBackprop(torch_compile_policy(reference) if torch_compile else reference.run, parameters)


def _written_out(reference: RowReference | SequenceReference) -> Backprop | None:
    """Return hand-written passes. They begin at the features, so the encoder must have no parameters."""
    core = reference.policy.core
    if not reference.encodes_once:
        return None
    if isinstance(core, SharedCore):
        return SharedCoreBackprop(core)
    if isinstance(core, SeparateCore):
        return SeparateCoreBackprop(core)
    if isinstance(core, RecurrentCore) and isinstance(core.cell, LstmCell):
        return LstmBackprop(core, core.cell)
    return None


_RTOL, _ATOL = 1e-4, 1e-5  # rounding errors: sums are computed in another order
_EXAMPLE_ROWS = 8


def torch_compile_policy(reference: RowReference) -> Function:
    """Return ``reference.run``, compiled if possible. It must take observations, not features."""
    policy = reference.policy
    n = len(policy.signature.observation)
    example = [torch.from_numpy(leaf) for leaf in make_inputs(policy.signature, _EXAMPLE_ROWS, seed=0)[:n]]
    return torch_compile_function(reference.run, [*policy.encoder.parameters(), *policy.core.parameters()], example)


def torch_compile_function(function: Function, parameters: Sequence[Tensor], example: list[Tensor]) -> Function:
    """Return ``function`` compiled for batches of any size, or itself, with one log line that gives the reason.

    The compiled function runs here on ``example`` (several rows), forward and backward; outputs and gradients of
    ``parameters`` have to equal those of ``function``. Takes about 30 s; writes no gradient.
    """
    for tensor in example:
        torch._dynamo.mark_dynamic(tensor, 0)  # one program serves minibatches of all sizes
    compiled = torch.compile(function, fullgraph=True)  # with graph breaks it would be no faster than eager
    try:
        with warnings.catch_warnings():  # torch warns of its own deprecations while it compiles
            warnings.simplefilter("ignore")
            found = _outputs_and_gradients(compiled, parameters, example)
    except Exception as error:  # noqa: BLE001 - compilers raise anything; eager execution works
        reason = str(error).strip().split("\n")[0]
        logger.warning("the update is not compiled: {}: {}", type(error).__name__, reason)
        return function
    expected = _outputs_and_gradients(function, parameters, example)
    if not all(torch.allclose(a, b, _RTOL, _ATOL) for a, b in zip(found, expected, strict=True)):
        logger.warning("the update is not compiled: compiled, it does not give the same outputs and gradients")
        return function
    logger.info("the update is compiled")
    return compiled


def _outputs_and_gradients(function: Function, parameters: Sequence[Tensor], example: list[Tensor]) -> list[Tensor]:
    with torch.enable_grad():
        outputs = function(example)
        loss = sum((output.square().sum() for output in outputs), torch.zeros(()))
        gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return [*(output.detach() for output in outputs), *(gradient for gradient in gradients if gradient is not None)]
