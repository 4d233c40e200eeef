from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from shared.errors import ExportError, ProbeMismatch
from shared.policy.nested_values import describe
from shared.policy.noise import NoiseStream
from shared.policy.probe import Probe, compare, compare_outputs, compute_probe, decode_probe, encode_probe, make_inputs
from shared.policy.signature import ArgumentSpec, ModuleSignature, PolicySignature, acting_signature
from shared.policy.spaces import ActionSpec, action_spec, observation_leaves
from tests.support.policies import NESTED, VECTOR
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy

ACTIONS = [spaces.Discrete(3), spaces.MultiDiscrete([3, 4]), spaces.MultiBinary([2, 2]), spaces.Box(-1, 1, (2,))]


def first_nan_in_row_2(observation: Tensor) -> Tensor:
    return torch.where(torch.arange(len(observation)) < 2, observation[:, 0], torch.nan)


def signature_of(action: spaces.Space, *, masked: bool = False) -> PolicySignature:
    return acting_signature(observation_leaves(NESTED), action_spec(action), state=[(("h",), (3,))], masked=masked)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda space: type(space).__name__)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_inputs_fit_their_signature_and_lie_in_their_spaces(action: spaces.Space, batch_size: int) -> None:
    signature = signature_of(action, masked=True)
    inputs = make_inputs(signature, batch_size, seed=3)
    signature.check_inputs(inputs)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in inputs)
    for leaf, array in zip(signature.observation, inputs, strict=False):
        if leaf.cardinalities:
            low = np.array(leaf.start).reshape(leaf.shape)
            assert (array >= low).all()
            assert (array < low + np.array(leaf.cardinalities).reshape(leaf.shape)).all()


@pytest.mark.parametrize(
    ("space", "values"),
    [
        (spaces.Discrete(3, start=-1), {-1, 0, 1}),
        (spaces.MultiDiscrete([[2, 2], [2, 2]], start=[[4, 4], [4, 4]]), {4, 5}),
        (spaces.MultiBinary(2), {0, 1}),
        (spaces.Box(0, 1, (2,), bool), {False, True}),
        (spaces.Box(-100, 100, (2,), np.int8), set(range(128))),
        (spaces.Box(0, 255, (2,), np.uint8), set(range(256))),
        (spaces.Box(-1000, 1000, (2,), np.int32), set(range(256))),
    ],
    ids=str,
)
def test_whole_numbers_take_every_value(space: spaces.Space, values: set[int]) -> None:
    signature = acting_signature(observation_leaves(space), action_spec(spaces.Discrete(2)))
    observation = make_inputs(signature, 4000, seed=0)[0]
    assert set(observation.ravel().tolist()) == values
    assert str(observation.dtype) == signature.observation[0].dtype
    assert (observation != observation[:1]).any(axis=0).all(), "rows differ"


def test_floats_noise_and_states_have_their_distributions() -> None:
    observation, state, noise = make_inputs(state_signature(), 4000, seed=3)
    assert abs(observation.mean()) < 0.1
    assert observation.std() == pytest.approx(1, abs=0.05)
    assert -1 <= state.min() < -0.99 < 0.99 < state.max() <= 1
    np.testing.assert_array_equal(noise, NoiseStream(state_signature().action, 4000, 3).at(0))


def state_signature() -> PolicySignature:
    vector = observation_leaves(spaces.Box(-1, 1, (2,)))
    return acting_signature(vector, action_spec(spaces.Discrete(2)), state=[(("h",), (3,))])


def test_the_same_seed_gives_the_same_inputs_and_another_gives_others() -> None:
    signature = signature_of(spaces.Discrete(3))
    first, again, other = (make_inputs(signature, 8, seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()


@pytest.mark.parametrize("action", [spaces.Discrete(5), spaces.MultiDiscrete([2, 7])], ids=["discrete", "multi"])
def test_every_choice_has_a_legal_action(action: spaces.Space) -> None:
    signature = signature_of(action, masked=True)
    mask = make_inputs(signature, 200, seed=0)[signature.input_position("action_mask") or 0]
    parts = np.split(mask, np.cumsum(signature.action.cardinalities)[:-1], axis=1)
    assert all(part.any(axis=1).all() for part in parts)
    assert not mask.all()
    assert not mask.all(axis=0).any(), "no choice is legal in every row"


def choosing(spec: ActionSpec, logits: Callable[[Tensor], Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """A policy whose logits are a function of its first input."""

    def policy(inputs: list[Tensor]) -> list[Tensor]:
        noisy = logits(inputs[0]) + inputs[-1]
        if spec.kind == "multi_binary":
            action = (noisy > 0).to(torch.int64)
        elif spec.kind == "multi_discrete":
            action = torch.stack([p.argmax(-1) for p in noisy.split(list(spec.cardinalities), -1)], -1)
        else:
            action = noisy.argmax(-1)
        return [action, noisy.flatten(1).sum(-1), noisy.flatten(1).sum(-1)]

    return policy


def lead(spec: ActionSpec, noise: np.ndarray) -> np.ndarray:
    """Return the lead of each row's closest choice when all logits are zero."""
    if spec.kind == "multi_binary":
        return np.abs(noise).reshape(len(noise), -1).min(axis=1)
    parts = np.split(noise, np.cumsum(spec.cardinalities)[:-1], axis=1)
    best_two = [np.sort(part, axis=1)[:, -2:] for part in parts]
    return np.min([two[:, 1] - two[:, 0] for two in best_two], axis=0)


@pytest.mark.parametrize("action", ACTIONS[:3], ids=lambda space: type(space).__name__)
def test_rounding_errors_do_not_change_a_choice_of_a_probe(action: spaces.Space) -> None:
    signature = acting_signature(observation_leaves(VECTOR), action_spec(action))
    spec = signature.action
    close = lead(spec, make_inputs(signature, 400, seed=0)[-1]) < 1e-2
    assert close.any(), "the test means nothing unless some rows have to be replaced"
    probe = compute_probe(
        choosing(spec, lambda x: torch.zeros((len(x), *spec.noise_shape))), signature, batch_size=400, seed=0
    )
    assert (lead(spec, probe.inputs[-1]) > 1e-3).all()
    first = make_inputs(signature, 400, seed=0)[-1]
    np.testing.assert_array_equal(probe.inputs[-1][~close], first[~close])
    assert (probe.inputs[-1][close] != first[close]).reshape(close.sum(), -1).any(axis=1).all(), "each is replaced"


def test_a_policy_may_take_its_noise_before_other_inputs() -> None:
    base = acting_signature(
        observation_leaves(VECTOR), action_spec(spaces.Discrete(3)), log_prob=False, value=False, state=[(("h",), (3,))]
    )
    signature = PolicySignature(base.observation, base.action, base.inputs[::-1], base.outputs)
    seen = []

    def policy(inputs: list[Tensor]) -> list[Tensor]:
        seen.append([tuple(tensor.shape) for tensor in inputs])
        return [(inputs[0] + inputs[1]).argmax(-1), inputs[1]]

    compute_probe(policy, signature)
    assert {tuple(shapes) for shapes in seen} == {((8, 3), (8, 3), (8, 4))}


def vector_signature(size: int) -> PolicySignature:
    """A policy without noise: vectors in, one of three actions out."""
    observation = observation_leaves(spaces.Box(-np.inf, np.inf, (size,)))
    return acting_signature(observation, action_spec(spaces.Discrete(3)), noise=False, log_prob=False, value=False)


def making(*batches: list) -> tuple[Callable[..., list[np.ndarray]], list[int]]:
    """Return a function that makes these observations one after the other, and the seeds that it was called with."""
    seeds: list[int] = []

    def make(signature: PolicySignature, batch_size: int, seed: int) -> list[np.ndarray]:
        seeds.append(seed)
        return [np.array(batches[min(len(seeds), len(batches)) - 1], np.float32)]

    return make, seeds


def test_a_policy_without_noise_is_probed_away_from_its_boundaries() -> None:
    """The distance is 1e-4, absolute or relative: here from 0.5 and from 50."""
    close, far = [0.5 - 3e-5, 0.5 + 3e-5, 50 - 2e-3, 50 + 2e-3], [0.5 - 1.5e-4, 0.5 + 1.5e-4, 50 - 8e-3, 50 + 8e-3]

    def policy(inputs: list[Tensor]) -> list[Tensor]:
        assert inputs[0].dtype == torch.float32
        return [(inputs[0][:, 0] > 0.5).long() + (inputs[0][:, 0] > 50).long()]

    make, _ = making([[x] for x in close + far], [[7.0]] * 8)
    probe = compute_probe(policy, vector_signature(1), make=make)
    np.testing.assert_array_equal(probe.inputs[0][:, 0], np.float32([7.0] * 4 + far))
    np.testing.assert_array_equal(probe.outputs[0], [1, 1, 1, 1, 0, 1, 1, 2])


def test_numbers_of_an_observation_are_moved_independently() -> None:
    def policy(inputs: list[Tensor]) -> list[Tensor]:
        return [(inputs[0][:, 0] > inputs[0][:, 1]).long()]

    rows = [[x, x + 1e-5] for x in np.linspace(-0.5, 0.5, 64)]
    make, _ = making(rows, [[0.0, 9.0]] * 64)
    replaced = compute_probe(policy, vector_signature(2), batch_size=64, make=make).inputs[0][:, 1] == 9
    assert 16 < replaced.sum() < 48, "those whose numbers move apart"


def test_inputs_that_are_no_floats_are_not_moved() -> None:
    observation = observation_leaves(spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Box(0, 255, (2,), np.uint8)}))
    signature = acting_signature(observation, action_spec(spaces.Discrete(3)), noise=False, log_prob=False, value=False)
    probe = compute_probe(lambda inputs: [inputs[0] % 3], signature)
    assert [array.dtype for array in probe.inputs] == [np.int64, np.uint8]


def test_rows_are_drawn_sixteen_times_with_other_seeds() -> None:
    make, seeds = making([[0.0]] * 8)
    with pytest.raises(ExportError, match="found no 8 probe inputs in which the best two actions differ"):
        compute_probe(lambda inputs: [(inputs[0][:, 0] > 0).long()], vector_signature(1), seed=5, make=make)
    assert seeds == [5 + attempt * 1_000_003 for attempt in range(17)]


def test_probes_have_eight_rows_of_seed_zero_by_default() -> None:
    for given, expected in zip(tiny_probe().inputs, make_inputs(TINY_SIGNATURE, 8, 0), strict=True):
        np.testing.assert_array_equal(given, expected)


@pytest.mark.parametrize(("lead", "draws"), [(1e-2, 1), (0.99e-2, 2), (1e-3, 5)])
def test_a_lead_of_its_own_is_compared_with_a_margin_that_halves(lead: float, draws: int) -> None:
    class Leading:
        def choice_lead(self, inputs: list[Tensor]) -> Tensor:
            return torch.full((len(inputs[0]),), lead, dtype=torch.float64)

        def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
            return [(inputs[0][:, 0] > 0).long()]

    make, seeds = making([[1.0]] * 8)
    compute_probe(Leading(), vector_signature(1), make=make)
    assert len(seeds) == draws


class _Greedy:
    """Chooses by values without noise, which are nearly equal for half of all observations."""

    def values(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack([inputs[0][:, 0].relu(), torch.full((len(inputs[0]),), 1e-9)], -1)

    def choice_lead(self, inputs: list[Tensor]) -> Tensor:
        best, second = self.values(inputs).topk(2, -1).values.unbind(-1)
        return best - second

    def __call__(self, inputs: list[Tensor]) -> list[Tensor]:
        return [self.values(inputs).argmax(-1), inputs[0][:, 0]]


def test_probes_have_no_nearly_equal_values() -> None:
    signature = acting_signature(observation_leaves(spaces.Box(-1, 1, (1,))), action_spec(spaces.Discrete(2)))
    signature = PolicySignature(signature.observation, signature.action, signature.inputs, signature.outputs[:2])
    assert (make_inputs(signature, 64, seed=0)[0] < 0).any(), "the test means nothing unless some rows are replaced"
    probe = compute_probe(_Greedy(), signature, batch_size=64)
    assert (probe.inputs[0] > 1e-7).all()


def test_policy_with_choices_within_rounding_cannot_be_probed() -> None:
    def random(inputs: list[Tensor]) -> list[Tensor]:
        value = inputs[0].sum(-1)
        return [(inputs[1].sum(-1) * 1e9).to(torch.int64) % 3, value, value]

    with pytest.raises(ExportError, match="best two actions"):
        compute_probe(random, TINY_SIGNATURE, batch_size=64)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda inputs: [inputs[1].argmax(-1)], "expected 3 outputs"),
        (lambda inputs: [inputs[1].argmax(-1), inputs[0][:, :2], inputs[0][:, 0]], "output log_prob: expected float32"),
        (
            lambda inputs: [inputs[1].argmax(-1), first_nan_in_row_2(inputs[0]), inputs[0][:, 0]],
            "output log_prob is not finite: row 2 is nan",
        ),
    ],
    ids=["count", "shape", "NaN"],
)
def test_outputs_that_differ_from_the_signature_are_refused(policy: Callable, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        compute_probe(policy, TINY_SIGNATURE)


def tiny_probe() -> Probe:
    torch.manual_seed(0)
    return compute_probe(TinyPolicy().eval(), TINY_SIGNATURE)


def test_probes_survive_encoding() -> None:
    probe = tiny_probe()
    again = decode_probe(encode_probe(probe, TINY_SIGNATURE), TINY_SIGNATURE)
    for mine, theirs in zip((*probe.inputs, *probe.outputs), (*again.inputs, *again.outputs), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype


def test_a_probe_of_another_signature_is_refused() -> None:
    data = encode_probe(tiny_probe(), TINY_SIGNATURE)
    other = acting_signature(TINY_SIGNATURE.observation, ActionSpec("discrete", "int64", (), (5,), (0,)))
    with pytest.raises(ProbeMismatch, match="noise"):
        decode_probe(data, other)
    with pytest.raises(ProbeMismatch, match=r"input\.state\.h"):
        decode_probe(data, acting_signature(TINY_SIGNATURE.observation, TINY_SIGNATURE.action, state=[(("h",), (2,))]))
    with pytest.raises(ProbeMismatch):
        decode_probe(data[:-1], TINY_SIGNATURE)


def test_comparing_gives_the_largest_difference() -> None:
    probe = tiny_probe()
    found = [output.copy() for output in probe.outputs]
    assert compare(probe.outputs, found, TINY_SIGNATURE, 0, 0) == 0
    found[2][3] += 1e-3
    assert compare(probe.outputs, found, TINY_SIGNATURE, 1e-2, 0) == pytest.approx(1e-3, rel=1e-2)


def test_a_mismatch_names_the_tensor_the_worst_row_and_both_values() -> None:
    probe = tiny_probe()
    found = [output.copy() for output in probe.outputs]
    found[1][2] -= 0.5
    found[1][6] -= 1.5
    with pytest.raises(ProbeMismatch, match=r"log_prob, row 6: expected -?\d.*, found -?\d.*; 2 of 8 rows"):
        compare(probe.outputs, found, TINY_SIGNATURE, 1e-5, 1e-5)


@pytest.mark.parametrize(("output", "added", "name"), [(2, np.nan, "value"), (2, np.inf, "value"), (0, 1, "action")])
def test_values_that_are_not_finite_and_other_choices_never_match(output: int, added: float, name: str) -> None:
    probe = tiny_probe()
    found = [output.copy() for output in probe.outputs]
    found[output][5] = (found[output][5] + added) % 3 if output == 0 else added
    with pytest.raises(ProbeMismatch, match=f"{name}, row 5"):
        compare(probe.outputs, found, TINY_SIGNATURE, 1e3, 1e3)


def test_outputs_of_the_wrong_shape_or_number_never_match() -> None:
    probe = tiny_probe()
    for found in (probe.outputs[:2], [output[:4] for output in probe.outputs]):
        with pytest.raises(ProbeMismatch, match="does not return what its signature promises"):
            compare(probe.outputs, found, TINY_SIGNATURE, 1e3, 1e3)


def test_a_choice_of_one_is_always_legal() -> None:
    signature = signature_of(spaces.MultiDiscrete([1, 2]), masked=True)
    mask = make_inputs(signature, 50, seed=0)[signature.input_position("action_mask") or 0]
    assert mask[:, 0].all()
    assert mask[:, 1:].any(axis=1).all()


def test_a_probe_with_missing_tensors_is_not_encoded() -> None:
    probe = tiny_probe()
    for short in (Probe(probe.inputs[:1], probe.outputs), Probe(probe.inputs, probe.outputs[:1])):
        with pytest.raises(ValueError, match="shorter"):
            encode_probe(short, TINY_SIGNATURE)


def test_a_probe_of_one_input_is_decoded() -> None:
    signature = acting_signature(TINY_SIGNATURE.observation, TINY_SIGNATURE.action, noise=False)
    probe = Probe(tiny_probe().inputs[:1], tiny_probe().outputs)
    assert len(decode_probe(encode_probe(probe, signature), signature).inputs) == 1


def module_signature() -> ModuleSignature:
    vector, total = ArgumentSpec("x", "float32", (None, 2)), ArgumentSpec("total", "float32", (None,))
    structure = describe(np.zeros(1))[0]
    return ModuleSignature((vector,), (total,), structure, structure)


def test_only_the_probe_of_a_module_may_have_infinities() -> None:
    signature = module_signature()
    probe = Probe((np.ones((3, 2), np.float32),), (np.float32([1, np.inf, np.nan]),))
    np.testing.assert_array_equal(decode_probe(encode_probe(probe, signature), signature).outputs[0], probe.outputs[0])
    outputs = [output.copy() for output in tiny_probe().outputs]
    outputs[1][0] = np.inf
    with pytest.raises(ProbeMismatch, match=r"output\.log_prob holds values that are not finite"):
        decode_probe(encode_probe(Probe(tiny_probe().inputs, tuple(outputs)), TINY_SIGNATURE), TINY_SIGNATURE)


def test_a_probe_of_another_module_is_refused() -> None:
    signature = module_signature()
    other = Probe((np.ones((3, 2), np.float32),), (np.ones((3, 1), np.float32),))
    with pytest.raises(ProbeMismatch, match="output total: expected float32"):
        decode_probe(encode_probe(other, signature), signature)


def mismatch(wanted: np.ndarray, got: np.ndarray, atol: float = 0.0, rtol: float = 0.0) -> str:
    with pytest.raises(ProbeMismatch) as caught:
        compare_outputs(["y"], [wanted], [got], atol, rtol)
    return str(caught.value)


def test_a_mismatch_counts_rows_and_shows_the_worst_one() -> None:
    wanted = np.zeros((4, 3))
    got = np.array([[0, 0, 0], [1, 0, 0], [0, 5, 7], [0, 0, 0.0]])
    said = "y, row 2: expected [0. 0. 0.], found [0. 5. 7.]; 2 of 4 rows differ by more than 0 + 0 * |expected|"
    assert mismatch(wanted, got) == said
    assert mismatch(wanted, got, 0.5, 0.25).endswith("; 2 of 4 rows differ by more than 0.5 + 0.25 * |expected|")
    assert mismatch(np.array([1, 2, 3]), np.array([1, 2, 4])).startswith(
        "y, row 2: expected 3, found 4; 1 of 3 rows differ"
    )
    assert mismatch(np.float32(1), np.float32(2)).startswith("y, row 0: expected 1., found 2.; 1 of 1 rows")


def test_a_mismatch_shortens_long_rows_and_takes_one_line() -> None:
    long = np.arange(9.0)[None] / 7
    assert "expected [0. 0.1428571 0.2857143 ... 0.8571429 1. 1.1428571], found" in mismatch(long, long + 1)
    assert "found [[1. 1.] [1. 1.]]; 1 of 1 rows" in mismatch(np.zeros((1, 2, 2)), np.ones((1, 2, 2)))


def test_outputs_of_modules_are_compared_in_number_shape_and_dtype() -> None:
    one = np.ones(2, np.float32)
    assert compare_outputs(["a", "b"], [one, one], [one, one + 1e-3], 1e-2, 0) == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(ProbeMismatch, match="expected 2 outputs, found 1"):
        compare_outputs(["a", "b"], [one, one], [one], 1, 1)
    for other in (np.ones(3, np.float32), np.ones(2), np.ones((2, 1), np.float32)):
        with pytest.raises(ProbeMismatch, match=r"b: expected float32 \(2,\), found float"):
            compare_outputs(["a", "b"], [one, one], [one, other], 1, 1)


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_infinities_and_nan_of_modules_have_to_be_the_same(special: float) -> None:
    wanted = np.array([special, 1.0])
    assert compare_outputs(["y"], [wanted], [np.array([special, 1.5])], 1.0, 0.0) == 0.5
    for other in {0.0, np.inf, -np.inf, np.nan} - {special}:
        if not (np.isnan(other) and np.isnan(special)):
            assert mismatch(wanted, np.array([other, 1.0]), 1e9, 1e9).startswith("y, row 0: expected ")


def test_integers_that_no_float_can_tell_apart_are_different() -> None:
    assert mismatch(np.array([2**53]), np.array([2**53 + 1])).startswith("y, row 0: expected 9007199254740992, found")
    assert compare_outputs(["y"], [np.array([True])], [np.array([True])], 0, 0) == 0


def test_float32_is_compared_in_double_precision() -> None:
    largest = np.finfo(np.float32).max
    assert compare_outputs(["y"], [np.array([-largest])], [np.array([largest])], 1e39, 0) == 2 * float(largest)
    one, other = np.ones(1, np.float32), np.array([0.10000001], np.float32)
    assert 0.8999999 < compare_outputs(["y"], [one], [other], 0, 0.9) < 0.9, "the tolerance is no float32 either"
    assert mismatch(np.array([1.7e308]), np.array([-1.7e308]), 1e308, 0).startswith("y, row 0")


def test_tolerances_add_up_and_include_their_limit() -> None:
    wanted = np.array([4.0, 0.0])
    assert compare_outputs(["y"], [wanted], [wanted + np.array([1.5, 1.0])], 1.0, 0.125) == 1.5
    assert "row 1" in mismatch(wanted, wanted + 1.5, 1.0, 0.125)
    assert "row 0" in mismatch(wanted, wanted + np.array([1.75, 0.0]), 1.0, 0.125)
    assert compare_outputs(["y"], [np.zeros((0, 2))], [np.zeros((0, 2))], 0, 0) == 0
    assert compare_outputs(["x", "y"], [wanted, wanted], [wanted + 0.5, wanted], 1, 0) == 0.5, "the largest of all"


def test_a_policy_with_one_output_is_compared() -> None:
    signature = acting_signature(TINY_SIGNATURE.observation, TINY_SIGNATURE.action, log_prob=False, value=False)
    assert compare(tiny_probe().outputs[:1], tiny_probe().outputs[:1], signature, 0, 0) == 0


def test_a_continuous_action_is_never_close_to_another() -> None:
    signature = acting_signature(
        observation_leaves(spaces.Box(-1, 1, (2,))), action_spec(spaces.Box(-np.inf, np.inf, (2,), np.float32))
    )
    probe = compute_probe(lambda inputs: [inputs[0] + inputs[1], inputs[0][:, 0], inputs[0][:, 1]], signature)
    np.testing.assert_array_equal(probe.inputs[1], make_inputs(signature, 8, 0)[1])
