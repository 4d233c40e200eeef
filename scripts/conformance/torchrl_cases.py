"""Policies of TorchRL, compared with their own deterministic actions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule, TensorDictSequential, set_interaction_type
from torch import Tensor, nn
from torchrl.modules import (
    MLP,
    ActorValueOperator,
    DistributionalQValueActor,
    EGreedyModule,
    IndependentNormal,
    LSTMModule,
    MaskedCategorical,
    NormalParamExtractor,
    OneHotCategorical,
    ProbabilisticActor,
    QValueActor,
    QValueModule,
    TanhDelta,
    TanhModule,
    TanhNormal,
    ValueOperator,
)

from learner.importers.torchrl import from_torchrl
from scripts.conformance.agreement import Predict, Subject, made

VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
PARTS = spaces.Dict({"speed": spaces.Box(-1, 1, (2,), np.float32), "place": VECTOR})
DISCRETE = spaces.Discrete(4)
BOX = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 5], np.float32), dtype=np.float32)
BOUNDS = {"low": torch.from_numpy(BOX.low), "high": torch.from_numpy(BOX.high)}


def network(outputs: int, inputs: int = 5) -> MLP:
    return MLP(in_features=inputs, out_features=outputs, num_cells=[32, 32])


def gaussian(**distribution: Any) -> ProbabilisticActor:
    layers = nn.Sequential(network(4), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(layers, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        return_log_prob=True,
        **distribution,
    )


def categorical(distribution: type, *, mask: bool = False) -> ProbabilisticActor:
    keys = {"logits": "logits", "mask": "action_mask"} if mask else ["logits"]
    module = TensorDictModule(network(4), in_keys=["observation"], out_keys=["logits"])
    return ProbabilisticActor(module, in_keys=keys, distribution_class=distribution)


def actor_and_value() -> ActorValueOperator:
    common = TensorDictModule(network(32), in_keys=["observation"], out_keys=["hidden"])
    policy = ProbabilisticActor(
        TensorDictModule(nn.Linear(32, 4), in_keys=["hidden"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
    )
    return ActorValueOperator(common, policy, ValueOperator(nn.Linear(32, 1), in_keys=["hidden"]))


def recurrent() -> TensorDictSequential:
    lstm = LSTMModule(input_size=32, hidden_size=16, in_key="embedding", out_key="memory")
    return TensorDictSequential(
        TensorDictModule(network(32), in_keys=["observation"], out_keys=["embedding"]),
        lstm,
        TensorDictModule(nn.Linear(16, 4, bias=False), in_keys=["memory"], out_keys=["action_value"]),
        QValueModule(action_space="categorical"),
    )


class TwoParts(nn.Module):
    """A network of two observations."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network(4, 7)

    def forward(self, speed: Tensor, place: Tensor) -> Any:
        return self.layers(torch.cat([speed, place], -1))


class Atoms(nn.Module):
    """The logarithms of probabilities ``[B, atoms, actions]``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network(4 * 11)

    def forward(self, observation: Tensor) -> Any:
        return torch.log_softmax(self.layers(observation).unflatten(-1, (11, 4)), -2)


@dataclass(frozen=True)
class TorchRLCase:
    title: str
    make: Callable[[], Any]
    action: spaces.Space[Any] = field(default_factory=lambda: DISCRETE)
    observation: spaces.Space[Any] = field(default_factory=lambda: VECTOR)

    @property
    def name(self) -> str:
        return f"TorchRL {self.title}"

    def subject(self, seed: int) -> Subject:
        actor = made(self.make, seed)

        def predictor() -> Predict:
            memory: dict[str, Tensor] = {}

            def predict(observation: Any, mask: np.ndarray | None, starts: np.ndarray) -> np.ndarray:
                arrays = observation if isinstance(observation, dict) else {"observation": observation}
                data = TensorDict({key: torch.from_numpy(array) for key, array in arrays.items()}, [len(starts)])
                if mask is not None:
                    data["action_mask"] = torch.from_numpy(mask)
                if "recurrent_state_h" in actor.in_keys:
                    data.update(memory)
                    data["is_init"] = torch.from_numpy(starts)[:, None]
                with torch.no_grad(), set_interaction_type(InteractionType.DETERMINISTIC):
                    actor(data)
                memory.update(data["next"].to_dict() if "next" in data else {})
                action = data["action"]
                if isinstance(self.action, spaces.Discrete):
                    return np.asarray((action.argmax(-1) if action.ndim > 1 else action).numpy())
                return np.asarray(action.numpy()).clip(BOX.low, BOX.high)

            return predict

        return Subject(from_torchrl(actor, self.observation, self.action), predictor)


def cases() -> Iterator[TorchRLCase]:
    """Yield each distribution, then actors with values, memory, several observations and exploration."""
    yield TorchRLCase("Categorical", lambda: categorical(torch.distributions.Categorical))
    yield TorchRLCase("OneHotCategorical", lambda: categorical(OneHotCategorical))
    yield TorchRLCase("MaskedCategorical", lambda: categorical(MaskedCategorical, mask=True))
    yield TorchRLCase("TanhNormal", lambda: gaussian(distribution_class=TanhNormal, distribution_kwargs=BOUNDS), BOX)
    yield TorchRLCase("IndependentNormal", lambda: gaussian(distribution_class=IndependentNormal), BOX)
    yield TorchRLCase("TanhDelta", _tanh_delta, BOX)
    yield TorchRLCase("TanhModule", _tanh_module, BOX)
    yield TorchRLCase("ActorValueOperator", actor_and_value)
    yield TorchRLCase("QValueActor", lambda: QValueActor(network(4), in_keys=["observation"], action_space="one_hot"))
    yield TorchRLCase("DistributionalQValueActor", _distributional)
    yield TorchRLCase("QValueActor with EGreedyModule", _exploring)
    yield TorchRLCase("LSTMModule", recurrent)
    yield TorchRLCase("TensorDictModule of two observations", _two_parts, DISCRETE, PARTS)


def _tanh_delta() -> ProbabilisticActor:
    module = TensorDictModule(network(2), in_keys=["observation"], out_keys=["param"])
    return ProbabilisticActor(module, in_keys=["param"], distribution_class=TanhDelta, distribution_kwargs=BOUNDS)


def _tanh_module() -> TensorDictSequential:
    module = TensorDictModule(network(2), in_keys=["observation"], out_keys=["action"])
    return TensorDictSequential(module, TanhModule(in_keys=["action"], **BOUNDS))


def _distributional() -> DistributionalQValueActor:
    module = TensorDictModule(Atoms(), in_keys=["observation"], out_keys=["action_value"])
    support = torch.linspace(-10, 10, 11)
    return DistributionalQValueActor(module, support, in_keys=["observation"], action_space="categorical")


def _exploring() -> TensorDictSequential:
    from torchrl.data import Categorical

    actor = QValueActor(network(4), in_keys=["observation"], action_space="categorical", spec=Categorical(4))
    return TensorDictSequential(actor, EGreedyModule(spec=Categorical(4)))


def _two_parts() -> ProbabilisticActor:
    module = TensorDictModule(TwoParts(), in_keys=["speed", "place"], out_keys=["logits"])
    return ProbabilisticActor(module, in_keys=["logits"], distribution_class=OneHotCategorical)
