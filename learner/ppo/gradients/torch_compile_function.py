"""The autograd path of the update, compiled: one kernel where eager calls many, for as long as it gives the same.

Compiled code is kept in torch's own cache on disk: the next learner finds it there.
"""

import warnings
from collections.abc import Callable, Sequence

import torch
from loguru import logger
from torch import Tensor

Function = Callable[[list[Tensor]], tuple[Tensor, Tensor]]

_RTOL, _ATOL = 1e-4, 1e-5  # rounding, of sums in another order


def compile_function(function: Function, parameters: Sequence[Tensor], example: list[Tensor]) -> Function:
    """``function`` compiled for batches of any size, or as it is, with one line in the log that says why.

    It is tried here, forwards and backwards, with ``example`` (several rows): outputs and the gradients of
    ``parameters`` must be those of the function itself. Takes half a minute; writes no gradient.
    """
    for tensor in example:
        torch._dynamo.mark_dynamic(tensor, 0)  # minibatches are of nearly equal size: one program serves them all
    compiled = torch.compile(function, fullgraph=True)  # in pieces it would be no faster than eager
    try:
        with warnings.catch_warnings():  # of torch's own deprecations, while it compiles
            warnings.simplefilter("ignore")
            found = _outputs_and_gradients(compiled, parameters, example)
    except Exception as error:  # noqa: BLE001 - compilers, and what torch makes of them, raise anything; eager works
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
