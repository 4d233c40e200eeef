"""The policy contract: tensors in a fixed order, with unique names, checked before a program runs."""

from typing import Any

import msgspec
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import ConfigurationError, SignatureMismatch
from shared.policy.nested_values import TensorNode
from shared.policy.signature import ArgumentSpec, ModuleSignature, PolicySignature, acting_signature
from shared.policy.spaces import action_spec, observation_leaves
from shared.policy.tensor_limits import NamedSize
from tests.unit.shared.policy.test_spaces import nested_spaces

_actions = st.sampled_from(
    [spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,), np.float32)]
)
_states = st.lists(st.integers(1, 3), max_size=2).map(lambda sizes: [(("lstm", i), (n,)) for i, n in enumerate(sizes)])


@st.composite
def signatures(draw: st.DrawFn) -> PolicySignature:
    observation, action = observation_leaves(draw(nested_spaces)), action_spec(draw(_actions))
    return acting_signature(observation, action, state=draw(_states), masked=draw(st.booleans()))


def example_signature(space: spaces.Space[Any] | None = None) -> PolicySignature:
    space = space or spaces.Dict({"camera": spaces.Box(0, 255, (2, 2, 1), np.uint8), "speed": spaces.Box(-1, 1, (1,))})
    state = [(("lstm", "h"), (4,)), (("lstm", "c"), (4,))]
    return acting_signature(
        observation_leaves(space), action_spec(spaces.Discrete(3, start=1)), state=state, masked=True
    )


def arrays(specs: tuple[Any, ...], batch_size: int) -> list[np.ndarray]:
    return [np.zeros((batch_size, *spec.shape), spec.dtype) for spec in specs]


@given(signatures())
def test_a_signature_travels_as_json(signature: PolicySignature) -> None:
    assert msgspec.json.decode(msgspec.json.encode(signature), type=PolicySignature) == signature


@given(signatures())
def test_names_are_unique(signature: PolicySignature) -> None:
    for names in (signature.input_names, signature.output_names):
        assert len(set(names)) == len(names)


@given(signatures(), st.integers(1, 3))
def test_tensors_as_the_signature_says_pass(signature: PolicySignature, batch_size: int) -> None:
    signature.check_inputs(arrays(signature.inputs, batch_size))
    signature.check_outputs(arrays(signature.outputs, batch_size), batch_size)


@given(signatures(), st.data())
def test_one_wrong_tensor_is_found_and_named(signature: PolicySignature, data: st.DataObject) -> None:
    ends = [
        (signature.inputs, signature.check_inputs, signature.input_names),
        (signature.outputs, lambda tensors: signature.check_outputs(tensors, 2), signature.output_names),
    ]
    specs, check, names = data.draw(st.sampled_from(ends))
    tensors = arrays(specs, 2)
    which = data.draw(st.integers(1 if specs is signature.inputs else 0, len(tensors) - 1))
    spec, right = specs[which], tensors[which]
    rows = np.zeros((3, *spec.shape), spec.dtype)
    tensors[which] = data.draw(st.sampled_from([rows, right[..., None], right.astype(np.complex64)]))
    with pytest.raises(SignatureMismatch) as caught:
        check(tensors)
    assert names[which] in str(caught.value)


@pytest.mark.parametrize("change", [lambda tensors: tensors[:-1], lambda tensors: [*tensors, tensors[0]]])
def test_a_wrong_number_of_tensors_is_a_mismatch(change: Any) -> None:
    signature = example_signature()
    with pytest.raises(
        SignatureMismatch, match=r"expected 6 inputs \(observation\.camera, observation\.speed, .*, noise\), found [57]"
    ):
        signature.check_inputs(change(arrays(signature.inputs, 1)))


def test_tensors_stand_in_the_contracts_order() -> None:
    signature = example_signature()
    names = "observation.camera observation.speed state.lstm.h state.lstm.c action_mask noise"
    assert signature.input_names == tuple(names.split())
    assert signature.output_names == ("action", "env_action", "log_prob", "value", "state.lstm.h", "state.lstm.c")
    assert signature.input_position("state") == 2
    assert signature.input_position("action_mask") == 4
    assert signature.output_position("value") == 3
    assert [spec.path for spec in signature.state] == [("lstm", "h"), ("lstm", "c")]


def test_missing_roles_have_no_position() -> None:
    signature = acting_signature(
        observation_leaves(spaces.Box(-1, 1, (2,))), action_spec(spaces.MultiBinary(2)), masked=True
    )
    assert signature.input_position("action_mask") is None  # that kind of action has no masks
    assert signature.output_position("env_action") is None
    assert signature.state == ()


def test_leaves_whose_names_would_be_one_are_refused() -> None:
    box = spaces.Box(-1, 1, (1,))
    space = spaces.Dict({"a.b": box, "a": spaces.Dict({"b": box})})
    with pytest.raises(ConfigurationError, match=r"observation\.a\.b"):
        example_signature(space)


def test_a_deterministic_policy_may_leave_out_noise_and_both_estimates() -> None:
    observation, action = observation_leaves(spaces.Box(-1, 1, (2,))), action_spec(spaces.Box(-1, 1, (1,)))
    signature = acting_signature(observation, action, noise=False, log_prob=False, value=False)
    assert signature.input_names == ("observation",)
    assert signature.output_names == ("action", "env_action")


X, FIXED, Z = (
    ArgumentSpec("x", "float32", (None, 2)),
    ArgumentSpec("fixed", "int64", (3,)),
    ArgumentSpec("z", "float32", (4, None)),
)


def module(*specs: ArgumentSpec) -> ModuleSignature:
    return ModuleSignature(specs, specs, TensorNode(), TensorNode())


def fitting(rows: int = 5) -> list[np.ndarray]:
    return [np.zeros((rows, 2), np.float32), np.zeros(3, np.int64), np.zeros((4, rows), np.float32)]


def test_the_arguments_of_a_module_have_one_batch_size() -> None:
    signature = module(X, FIXED, Z)
    assert signature.input_names == signature.output_names == ("x", "fixed", "z")
    assert [signature.check_inputs(fitting(rows)) for rows in (1, 5)] == [{}, {}]
    assert module(FIXED).check_inputs([np.zeros(3, np.int64)]) == {}


@pytest.mark.parametrize(
    ("which", "array", "said"),
    [
        (0, np.zeros((5, 3), np.float32), "x: expected float32 (5, 2), found float32 (5, 3)"),
        (0, np.zeros((5, 2)), "x: expected float32 (5, 2), found float64 (5, 2)"),
        (0, np.zeros(5, np.float32), "x: expected float32 (5, 2), found float32 (5,)"),
        (0, np.zeros((), np.float32), "x: expected float32 ('batch', 2), found float32 ()"),
        (0, np.zeros((0, 2), np.float32), "x: expected float32 ('batch', 2), found float32 (0, 2)"),
        (1, np.zeros(4, np.int64), "fixed: expected int64 (3,), found int64 (4,)"),
        (2, np.zeros((4, 6), np.float32), "z: expected float32 (4, 5), found float32 (4, 6)"),
        (2, np.zeros((4, 5, 1), np.float32), "z: expected float32 (4, 5), found float32 (4, 5, 1)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(which: int, array: np.ndarray, said: str) -> None:
    arrays = fitting()
    arrays[which] = array
    with pytest.raises(SignatureMismatch) as caught:
        module(X, FIXED, Z).check_inputs(arrays)
    assert str(caught.value) == f"input {said}"


def test_named_sizes_are_equal_and_within_their_ranges() -> None:
    x, y = ArgumentSpec("x", "float32", (None, "n")), ArgumentSpec("y", "float32", ("n", "m"))
    specs = (x, y, ArgumentSpec("z", "bool", ("m+1",)))
    sizes = NamedSize("n", 1, 4), NamedSize("m", 0, 2)
    signature = ModuleSignature(specs, specs, TensorNode(), TensorNode(), sizes)

    def arrays(n: int, also_n: int, m: int, m_and_1: int) -> list[np.ndarray]:
        return [np.zeros((5, n), np.float32), np.zeros((also_n, m), np.float32), np.zeros(m_and_1, np.bool_)]

    assert signature.check_inputs(arrays(4, 4, 0, 1)) == {"n": 4, "m": 0}
    for found, said in (
        (arrays(4, 3, 0, 1), r"input y: expected float32 \(4, 0\), found float32 \(3, 0\)"),
        (arrays(4, 4, 1, 1), r"input z: expected bool \(2,\), found bool \(1,\)"),
        (arrays(5, 5, 1, 2), "call it with n from 1 to 4, or export again with another range in dynamic: found n = 5"),
        (arrays(0, 0, 1, 2), "call it with n from 1 to 4, .*: found n = 0"),
        (arrays(1, 1, 3, 4), "call it with m from 0 to 2, .*: found m = 3"),
    ):
        with pytest.raises(SignatureMismatch, match=f"^{said}$"):
            signature.check_inputs(found)
    signature.check_outputs(arrays(4, 4, 1, 2), {"n": 4, "m": 1})
    with pytest.raises(SignatureMismatch, match=r"output x: expected float32 \('batch', 4\), found float32 \(5, 3\)"):
        signature.check_outputs(arrays(3, 3, 1, 2), {"n": 4, "m": 1})


def test_results_of_a_module_may_have_sizes_of_their_own() -> None:
    signature = module(X, Z)
    signature.check_outputs([np.zeros((0, 2), np.float32), np.zeros((4, 7), np.float32)], {})
    with pytest.raises(SignatureMismatch, match=r"^output z: expected float32 \(4, 'batch'\), found float32 \(3, 7\)$"):
        signature.check_outputs([np.zeros((0, 2), np.float32), np.zeros((3, 7), np.float32)], {})
    with pytest.raises(SignatureMismatch, match=r"^expected 2 outputs \(x, z\), found 1$"):
        signature.check_outputs([np.zeros((0, 2), np.float32)], {})
    with pytest.raises(SignatureMismatch, match=r"^expected 2 inputs \(x, z\), found 3$"):
        signature.check_inputs(fitting())
