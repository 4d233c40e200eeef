"""Acting loops of this project, the environment alone, hand-written loops without a library, and other libraries."""

import logging
import warnings
from contextlib import ExitStack
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

from actor.agent import Agent
from actor.agent_options import AgentOptions
from actor.environments.environment_creation import make_environments
from actor.rollouts.rollout_worker import RolloutOptions, RolloutWorker
from actor.session.process_state import short_switch_interval
from learner.networks.acting_policy import ActingPolicy
from learner.networks.network_config import NetworkConfig
from learner.publishing.policy_publisher import publish_once
from scripts.benchmarks.common.rounds import Piece
from shared.engines.torchscript import load_script_module
from shared.policy.noise import NoiseStream
from shared.policy.weights import decode_weights
from shared.rollouts.rollout import RolloutLayout
from shared.run.environment_description import describe_environment
from shared.store.policy_store import LocalPolicyStore

ENV_ID = "CartPole-v1"
HIDDEN_SIZES = (64, 64)

PIECE_STEPS = 500
_WARM_UP_STEPS = 200


def make_environment() -> gymnasium.Env[np.ndarray, int]:
    return gymnasium.make(ENV_ID, disable_env_checker=True)


def publish_policy(directory: Path, *, onnx: bool = True) -> LocalPolicyStore:
    """Publish one untrained version with a policy and a value network of ``HIDDEN_SIZES``, as in PPO."""
    description, store = describe_environment(ENV_ID), LocalPolicyStore(directory)
    network = NetworkConfig(hidden_sizes=HIDDEN_SIZES)
    generator = torch.Generator().manual_seed(0)
    policy = ActingPolicy(description.leaves, description.action, network, generator=generator).eval()
    publish_once(policy, policy.signature, store, env_id=ENV_ID, onnx=onnx)
    return store


def environment_alone() -> Piece:
    """Step one environment with random actions that are drawn beforehand: the upper bound for acting."""
    environment = make_environment()
    environment.reset(seed=0)
    actions = cycle(np.random.default_rng(0).integers(2, size=10_007).tolist())

    def piece() -> int:
        for action in islice(actions, PIECE_STEPS):
            _, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                environment.reset()
        return PIECE_STEPS

    return piece


def agent_loop(store: LocalPolicyStore, resources: ExitStack) -> Piece:
    """Act in one environment with an ``Agent``, as README does."""
    environment = make_environment()
    resources.enter_context(short_switch_interval())
    agent = resources.enter_context(Agent(store))
    observation, _ = environment.reset(seed=0)
    agent.reset()
    for _ in range(_WARM_UP_STEPS):
        agent.act(observation)

    def piece() -> int:
        nonlocal observation
        for _ in range(PIECE_STEPS):
            observation, _, terminated, truncated, _ = environment.step(agent.act(observation))
            if terminated or truncated:
                observation, _ = environment.reset()
                agent.reset()
        return PIECE_STEPS

    return piece


def environments_alone(num_envs: int) -> Piece:
    """Step the vector entry point with constant actions; steps that only reset an environment count too."""
    vector = gymnasium.make_vec(ENV_ID, num_envs, "vector_entry_point")
    vector.reset(seed=0)
    actions = np.arange(num_envs) % 2
    calls = max(1, 32_000 // num_envs)

    def piece() -> int:
        for _ in range(calls):
            vector.step(actions)
        return calls * num_envs

    return piece


class RecordedRollouts:
    """A ``RolloutWorker`` that sends nothing. A call records one rollout and counts as ``environments_alone`` does."""

    def __init__(self, store: LocalPolicyStore, num_envs: int, length: int, resources: ExitStack) -> None:
        resources.enter_context(short_switch_interval())
        agent = resources.enter_context(Agent(store, AgentOptions(num_envs=num_envs, sandbox=None)))
        environments = resources.enter_context(make_environments(ENV_ID, num_envs))
        layout = RolloutLayout(store.open(0).manifest.signature, length)
        options = RolloutOptions(run_id="benchmark", actor_id="actor-0", seed=0)
        self._worker = RolloutWorker(agent, environments, layout, options)
        self._worker.begin_epoch(0)
        self._real = self._all = 0
        self()

    @property
    def real_share(self) -> float:
        """Share of steps that did not only reset an environment."""
        return self._real / self._all

    def __call__(self) -> int:
        rollout = self._worker.collect()
        assert rollout is not None
        steps = rollout.length * rollout.batch_size
        self._real += rollout.env_steps
        self._all += steps
        return steps


Variant = Literal["layers", "multinomial", "by hand"]
DESCRIPTION = (
    "the loop: a scripted and frozen module of linear layers that samples its action inside by the Gumbel-max trick, "
    "in inference_mode; no value, no log-probability, no reproducible noise, no checks"
)
SAME_PROGRAM_DESCRIPTION = (
    "the loop: the version's own policy.ts, in inference_mode, with from_numpy; action, "
    "log-probability and value from the observation and noise, drawn in blocks as the agent does; no checks"
)


class _Layers(nn.Module):
    """Maps an observation [4] to an action (int), without a batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_network(4, 2, last_gain=0.01)

    def forward(self, observation: Tensor) -> int:
        # The Gumbel-max trick samples the softmax without computing it, in half the time of multinomial.
        logits = self.network(observation)
        return int((logits - torch.empty_like(logits).exponential_().log_()).argmax())


class _Multinomial(_Layers):
    def forward(self, observation: Tensor) -> int:
        return int(torch.multinomial(torch.softmax(self.network(observation), -1), 1))


class _ByHand(_Layers):
    def __init__(self) -> None:
        super().__init__()
        self.weight_1, self.bias_1, self.weight_2, self.bias_2, self.weight_3, self.bias_3 = self.network.parameters()
        self.register_buffer("noise", torch.empty(2))

    noise: Tensor

    def forward(self, observation: Tensor) -> int:
        hidden = torch.addmv(self.bias_1, self.weight_1, observation).tanh_()
        hidden = torch.addmv(self.bias_2, self.weight_2, hidden).tanh_()
        logits = torch.addmv(self.bias_3, self.weight_3, hidden)
        return int((logits - self.noise.exponential_().log_()).argmax())


_VARIANTS: dict[Variant, type[nn.Module]] = {"layers": _Layers, "multinomial": _Multinomial, "by hand": _ByHand}


def small_network(inputs: int, outputs: int, *, last_gain: float) -> nn.Sequential:
    """Make the network of all baselines: ``HIDDEN_SIZES`` with tanh and orthogonal weights, as usual for PPO."""
    layers: list[nn.Module] = []
    sizes, gains = (inputs, *HIDDEN_SIZES, outputs), (2**0.5, 2**0.5, last_gain)
    for (n_in, n_out), gain in zip(pairwise(sizes), gains, strict=True):
        layer = nn.Linear(n_in, n_out)
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def bare_torchscript(variant: Variant = "layers") -> Piece:
    """Act in one environment with a warm, frozen program, called without ``nn.Module.__call__``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.set_fusion_strategy([("STATIC", 0), ("DYNAMIC", 0)])
        act = torch.jit.freeze(torch.jit.script(_VARIANTS[variant]().eval())).forward
    environment = make_environment()
    observation, _ = environment.reset(seed=0)
    from_numpy = torch.from_numpy

    def piece() -> int:
        nonlocal observation
        with torch.inference_mode():
            for _ in range(PIECE_STEPS):
                observation, _, terminated, truncated, _ = environment.step(act(from_numpy(observation)))
                if terminated or truncated:
                    observation, _ = environment.reset()
        return PIECE_STEPS

    piece()
    return piece


def bare_same_program(store: LocalPolicyStore) -> Piece:
    """Act in one environment with the TorchScript program of the newest version in ``store``."""
    newest = store.newest()
    assert newest is not None
    files = store.open(newest)
    (program,) = (program for program in files.manifest.programs if program.kind == "torchscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        act, _ = load_script_module(files.read(program.file), decode_weights(files.read(files.manifest.weights)))
    noise = NoiseStream(files.manifest.signature.action, 1, seed=0)
    environment = make_environment()
    observation, _ = environment.reset(seed=0)
    from_numpy, offset = torch.from_numpy, 0

    def piece() -> int:
        nonlocal observation, offset
        with torch.inference_mode():
            for _ in range(PIECE_STEPS):
                outputs = act([from_numpy(observation[np.newaxis]), from_numpy(noise.at(offset))])
                offset += 1
                observation, _, terminated, truncated, _ = environment.step(int(outputs[0]))
                if terminated or truncated:
                    observation, _ = environment.reset()
        return PIECE_STEPS

    piece()
    return piece


def sb3_predict_and_step() -> Piece:
    """Act with Stable-Baselines3's PPO in the environment itself, which is faster than a vector of one."""
    from stable_baselines3 import PPO

    environment = make_environment()
    model = PPO("MlpPolicy", environment, policy_kwargs={"net_arch": list(HIDDEN_SIZES)}, device="cpu")
    observation, _ = environment.reset(seed=0)

    def piece() -> int:
        nonlocal observation
        for _ in range(PIECE_STEPS):
            action, _ = model.predict(observation)
            observation, _, terminated, truncated, _ = environment.step(action)  # type: ignore[arg-type]
            if terminated or truncated:
                observation, _ = environment.reset()
        return PIECE_STEPS

    return piece


def sb3_collect_rollouts(num_envs: int, length: int) -> Piece:
    """Call ``PPO.collect_rollouts`` with its own buffer and a DummyVecEnv without monitors."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv

    environments = DummyVecEnv([make_environment] * num_envs)
    arch = {"net_arch": list(HIDDEN_SIZES)}
    model = PPO("MlpPolicy", environments, n_steps=length, batch_size=length, policy_kwargs=arch, device="cpu", seed=0)
    _, callback = model._setup_learn(total_timesteps=1)  # as learn() does before its first rollout

    def piece() -> int:
        assert model.env is not None
        model.collect_rollouts(model.env, callback, model.rollout_buffer, length)
        return num_envs * length

    return piece


class _CleanRLAgent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = small_network(4, 2, last_gain=0.01)
        self.critic = small_network(4, 1, last_gain=1.0)

    def act(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        distribution = Categorical(logits=self.actor(observation))
        action = distribution.sample()  # type: ignore[no-untyped-call]
        return action, distribution.log_prob(action), self.critic(observation)  # type: ignore[no-untyped-call]


def cleanrl_rollouts(num_envs: int, length: int) -> Piece:
    """Run CleanRL's rollout loop: a SyncVectorEnv with statistics, and tensors that are written step by step."""
    wrap = gymnasium.wrappers.RecordEpisodeStatistics
    environments = SyncVectorEnv([lambda: wrap(make_environment())] * num_envs)
    agent = _CleanRLAgent()
    observations = torch.zeros((length, num_envs, 4))
    actions, log_probs, rewards, dones, values = torch.zeros((5, length, num_envs)).unbind()
    first, _ = environments.reset(seed=0)
    observation, done = torch.Tensor(first), torch.zeros(num_envs)

    def piece() -> int:
        nonlocal observation, done
        for step in range(length):
            observations[step], dones[step] = observation, done
            with torch.no_grad():
                action, log_prob, value = agent.act(observation)
            values[step], actions[step], log_probs[step] = value.flatten(), action, log_prob
            following, reward, terminated, truncated, _ = environments.step(action.cpu().numpy())
            rewards[step] = torch.tensor(reward).view(-1)
            observation, done = torch.Tensor(following), torch.Tensor(np.logical_or(terminated, truncated))
        return length * num_envs

    return piece


def torchrl_collector(num_envs: int, length: int) -> Piece:
    """Run TorchRL's collector in this process with its fastest settings; it records what PPO needs."""
    from tensordict.nn import TensorDictModule, TensorDictSequential
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper
    from torchrl.modules import ProbabilisticActor, ValueOperator

    logging.getLogger("torchrl").setLevel(logging.WARNING)
    mode = AutoresetMode.SAME_STEP  # required by the collector
    made = make_environment() if num_envs == 1 else SyncVectorEnv([make_environment] * num_envs, autoreset_mode=mode)
    environment = GymWrapper(made, categorical_action_encoding=True)
    actor = ProbabilisticActor(
        TensorDictModule(small_network(4, 2, last_gain=0.01), in_keys=["observation"], out_keys=["logits"]),
        spec=environment.action_spec,
        in_keys=["logits"],
        distribution_class=Categorical,
        return_log_prob=True,
    )
    value = ValueOperator(small_network(4, 1, last_gain=1.0), in_keys=["observation"])
    collector = Collector(
        environment,
        TensorDictSequential(actor, value),
        frames_per_batch=num_envs * length,
        total_frames=-1,
        track_traj_ids=False,
        trust_policy=True,
        auto_register_policy_transforms=False,
    )
    batches = iter(collector)
    return lambda: int(next(batches).numel())
