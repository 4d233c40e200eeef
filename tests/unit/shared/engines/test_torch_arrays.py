"""Tensors and arrays share their memory, whatever their dtype."""

import numpy as np
import pytest
import torch

from shared.engines.torch_arrays import array_of, copies_of, tensor_of, weight_array
from shared.policy.weights import decode_weights, dtype_named, encode_weights

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.bool)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3, 2)], ids=str)
def test_memory_is_shared(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.ones(shape, dtype=dtype)
    array = array_of(tensor)
    assert array.dtype == dtype_named(str(dtype).removeprefix("torch."))
    array[...] = 0
    assert tensor.sum() == 0
    tensor_of(array)[...] = 1
    assert tensor.all()
    (copy,) = copies_of([tensor])
    array[...] = 0
    assert copy.all()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.bfloat16, torch.float16], ids=str)
def test_a_weights_file_holds_it(dtype: torch.dtype) -> None:
    tensor = torch.randn(4, 3, dtype=torch.complex64 if dtype.is_complex else torch.float32).to(dtype)
    array = weight_array(tensor)
    assert np.shares_memory(array.view(np.uint8), array_of(tensor.view(torch.uint8)))
    found = decode_weights(encode_weights({"w": array}))["w"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
