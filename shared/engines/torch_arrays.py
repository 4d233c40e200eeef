"""Tensors of torch as arrays of numpy that share their memory, and back, for every dtype that a version can hold."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shared.policy.weights import dtype_named, is_bfloat16


def array_of(tensor: Tensor) -> np.ndarray:
    """Return the memory of ``tensor``, which is on the CPU and detached. numpy has no bfloat16: ml_dtypes has."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(dtype_named("bfloat16"))
    array: np.ndarray = tensor.numpy()
    return array


def tensor_of(array: np.ndarray) -> Tensor:
    """Return the memory of ``array``."""
    if is_bfloat16(array.dtype):
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def copies_of(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Return new arrays. A call of a policy takes a microsecond or more, so that every check counts."""
    try:
        return [tensor.numpy().copy() for tensor in tensors]
    except TypeError:  # torch makes no array of a bfloat16
        return [array_of(tensor).copy() for tensor in tensors]


def weight_array(tensor: Tensor) -> np.ndarray:
    """Return a parameter's memory as a weights file has it: a complex number is a pair, in one more dimension."""
    return array_of(torch.view_as_real(tensor) if tensor.is_complex() else tensor)
