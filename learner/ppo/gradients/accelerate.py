"""Choice of the fastest passes for a policy: written out, compiled, or by autograd."""

from typing import overload

from loguru import logger

from learner.networks.networks import LstmCell, RecurrentCore, SeparateCore, SharedCore
from learner.ppo.gradients.backprop import AutogradBackprop, Backprop, RowBackprop, RowReference, SequenceReference
from learner.ppo.gradients.flat_parameters import FlatParameters
from learner.ppo.gradients.lstm_backprop import LstmBackprop
from learner.ppo.gradients.mlp_backprop import SeparateCoreBackprop, SharedCoreBackprop
from learner.ppo.gradients.torch_compile_function import torch_compile_policy


@overload
def accelerate(reference: RowReference, parameters: FlatParameters, *, torch_compile: bool = False) -> RowBackprop: ...
@overload
def accelerate(
    reference: SequenceReference, parameters: FlatParameters, *, torch_compile: bool = False
) -> Backprop: ...
def accelerate(
    reference: RowReference | SequenceReference, parameters: FlatParameters, *, torch_compile: bool = False
) -> Backprop:
    """Return the fastest passes of ``reference``; they equal those of autograd within rounding.

    Args:
        reference: differentiable function of the policy.
        parameters: flat buffers of the policy's parameters and gradients.
        torch_compile: compile the function that autograd differentiates; where it cannot be compiled, log why.
    """
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
