"""The acting policy: every kind of observation and action, in the signature's order, scripted like eager."""

import json

import msgspec
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from learner.networks.networks import GruCell, LstmCell
from shared.engines.importable import ImportablePolicy, encode_importable, load_importable
from shared.policy.probe import make_inputs
from shared.policy.spaces import action_spec, observation_leaves
from shared.scripting.scripting import script_or_trace

OBSERVATION = spaces.Dict(
    {
        "speed": spaces.Box(-1, 1, (3,)),
        "gear": spaces.Discrete(4, start=1),
        "rest": spaces.Tuple([spaces.MultiBinary(3), spaces.MultiDiscrete([3, 2]), spaces.Box(0, 9, (2,), np.int32)]),
        "camera": spaces.Box(0, 255, (16, 16, 3), np.uint8),
    }
)
ACTIONS = [
    spaces.Discrete(3),
    spaces.Discrete(3, start=2),
    spaces.MultiDiscrete([3, 2], start=[1, 0]),
    spaces.MultiBinary((2, 2)),
    spaces.Box(-1, 1, (2,)),
    spaces.Box(-np.inf, np.inf, (2, 1), np.float64),
]
NETWORKS = [
    NetworkConfig(hidden_sizes=(16,), shared_trunk=True),
    NetworkConfig(hidden_sizes=(16, 8), activation="relu", normalize_observations=True),
    NetworkConfig(kind="lstm", hidden_sizes=(16,), recurrent_size=8),
    NetworkConfig(kind="lstm", hidden_sizes=(), recurrent_size=8),
    NetworkConfig(kind="gru", hidden_sizes=(16,), recurrent_size=8, normalize_observations=True),
]


def policy_for(action: spaces.Space, network: NetworkConfig, seed: int = 0) -> ActingPolicy:
    masked = isinstance(action, spaces.Discrete | spaces.MultiDiscrete)
    generator = torch.Generator().manual_seed(seed)
    return ActingPolicy(observation_leaves(OBSERVATION), action_spec(action), network, masked, generator).eval()


def tensors(policy: ActingPolicy, rows: int, seed: int = 0) -> list[torch.Tensor]:
    return [torch.from_numpy(array.copy()) for array in make_inputs(policy.signature, rows, seed)]


@pytest.mark.parametrize("network", NETWORKS, ids=["shared", "separate", "lstm", "bare lstm", "gru"])
@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_outputs_fit_the_signature_and_scripting_changes_nothing(action: spaces.Space, network: NetworkConfig) -> None:
    policy = policy_for(action, network)
    scripted, failures = script_or_trace(policy, tensors(policy, 4), lambda program: None)
    assert scripted is not None
    assert scripted.method == "script", failures
    with torch.no_grad():
        for rows in (1, 3, 7):
            inputs = tensors(policy, rows)
            policy.signature.check_inputs([tensor.numpy() for tensor in inputs])
            outputs = policy(inputs)
            policy.signature.check_outputs([tensor.numpy() for tensor in outputs], rows)
            for expected, found in zip(outputs, scripted.module(inputs), strict=True):
                torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("network", NETWORKS, ids=["shared", "separate", "lstm", "bare lstm", "gru"])
def test_it_can_be_built_again_from_plain_data_and_weights(network: NetworkConfig) -> None:
    policy = policy_for(spaces.Box(-1, 1, (2,)), network)
    arguments = json.loads(json.dumps(policy.arguments))
    rebuilt = ActingPolicy(**arguments)
    rebuilt.load_state_dict(policy.state_dict())
    with torch.no_grad():
        for expected, found in zip(policy(tensors(policy, 5)), rebuilt(tensors(policy, 5)), strict=True):
            assert torch.equal(expected, found)


def test_arguments_that_are_no_policy_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        ActingPolicy([], {"kind": "teleport", "dtype": "int64", "shape": []}, {})


@pytest.mark.parametrize("network", NETWORKS[:3], ids=["shared", "separate", "lstm"])
def test_rows_do_not_depend_on_each_other(network: NetworkConfig) -> None:
    policy = policy_for(spaces.Discrete(3), network)
    inputs = tensors(policy, 6)
    with torch.no_grad():
        whole = policy(inputs)
        for row in range(6):
            alone = policy([tensor[row : row + 1] for tensor in inputs])
            for expected, found in zip(whole, alone, strict=True):
                torch.testing.assert_close(found, expected[row : row + 1])


def test_an_action_that_is_masked_is_never_chosen() -> None:
    policy = policy_for(spaces.Discrete(3), NETWORKS[0])
    inputs = tensors(policy, 300)
    with torch.no_grad():
        action = policy(inputs)[0]
    assert inputs[-2].gather(1, action[:, None]).all()


def test_the_log_probability_is_that_of_the_raw_sample() -> None:
    """A clipped action's would make an identical policy look different (mean ratio 2.8)."""
    policy = policy_for(spaces.Box(-0.1, 0.1, (2,)), NETWORKS[0])
    inputs = tensors(policy, 50)
    with torch.no_grad():
        action, env_action, log_prob, _ = policy(inputs)
    noise = inputs[-1]
    expected = torch.distributions.Normal(0, 1).log_prob(noise).sum(-1)
    torch.testing.assert_close(log_prob, expected)
    assert (action.abs() > 0.1).any()
    assert (env_action.abs() <= 0.1).all()


def test_the_first_policy_is_nearly_uniform_and_seeded() -> None:
    one, same, other = (policy_for(spaces.Discrete(3), NETWORKS[0], seed) for seed in (1, 1, 2))
    inputs = tensors(one, 20)
    inputs[-2] = torch.ones(20, 3, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(one(inputs)[1], torch.full((20,), -np.log(3)), atol=0.05, rtol=0)  # log_prob
        assert torch.equal(one(inputs)[2], same(inputs)[2])
        assert not torch.equal(one(inputs)[2], other(inputs)[2])


def test_the_cell_is_an_lstm() -> None:
    ours, theirs = LstmCell(3, 5, None), nn.LSTMCell(3, 5)
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.from_input.weight)
        theirs.weight_hh.copy_(ours.from_hidden.weight)
        theirs.bias_ih.copy_(ours.from_input.bias)
        theirs.bias_hh.zero_()
    x, h, c = torch.randn(4, 3), torch.randn(4, 5), torch.randn(4, 5)
    for found, expected in zip(ours(x, [h, c]), theirs(x, (h, c)), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_other_cell_is_a_gru() -> None:
    ours, theirs = GruCell(3, 5, None), nn.GRUCell(3, 5)
    with torch.no_grad():
        ours.from_input.bias.normal_()
        theirs.weight_ih.copy_(ours.from_input.weight)
        theirs.weight_hh.copy_(ours.from_hidden.weight)
        theirs.bias_ih.copy_(ours.from_input.bias)
        theirs.bias_hh.zero_()
    x, h = torch.randn(4, 3), torch.randn(4, 5)
    (found,) = ours(x, [h])
    torch.testing.assert_close(found, theirs(x, h))


@pytest.mark.parametrize(
    ("shape", "features"), [((4, 84, 84), 512), ((84, 84, 3), 512), ((8, 8, 1), 128), ((1, 5, 9), 128)]
)
def test_images_of_any_size_and_layout(shape: tuple[int, ...], features: int) -> None:
    leaves = observation_leaves(spaces.Box(0, 255, shape, np.uint8))
    policy = ActingPolicy(leaves, action_spec(spaces.Discrete(2)), NetworkConfig(hidden_sizes=(8,), shared_trunk=True))
    assert policy.encoder.size == features
    with torch.no_grad():
        assert policy(tensors(policy, 2))[0].shape == (2,)


def test_it_can_be_published_as_an_importable_policy() -> None:
    policy = policy_for(spaces.Discrete(3), NETWORKS[2])
    data = encode_importable(ImportablePolicy("learner.networks.acting_policy:ActingPolicy", policy.arguments))
    rebuilt = load_importable(data, policy.state_dict(), ("learner",))
    with torch.no_grad():
        for expected, found in zip(policy(tensors(policy, 3)), rebuilt(tensors(policy, 3)), strict=True):
            assert torch.equal(expected, found)
