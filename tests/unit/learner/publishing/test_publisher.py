"""``Publisher``: versions of a module that the user's own loop trains."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from learner.publishing.publisher import Publisher
from shared.errors import ConfigurationError, ExportError, StoreUnavailable, WeightsError
from shared.policy.manifest import TrainingProgress
from shared.policy.weights import decode_weights
from shared.store.policy_store import LocalPolicyStore, Retention
from tests.support.captured_logs import CapturedLogs
from tests.support.policies import make_policy
from tests.support.waiting import PATIENCE_S, until

VECTOR = spaces.Box(-1, 1, (4,), np.float32)
ACTIONS = spaces.Discrete(3)


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.critic = nn.Linear(4, 1)
        self.temperature = 1.0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.actor(x) / self.temperature, "value": self.critic(x)}


def publisher_of(store: Any, module: nn.Module, **options: Any) -> Publisher:
    return Publisher(store, module, VECTOR, ACTIONS, onnx=False, **options)


def bias_in(store: LocalPolicyStore, version: int) -> float:
    opened = store.open(version)
    return float(decode_weights(opened.read(opened.manifest.weights))["module.critic.bias"][0])


def fill(module: Policy, value: float) -> None:
    with torch.no_grad():
        module.critic.bias.fill_(value)


def test_each_version_has_the_weights_of_its_request_and_the_same_programs(tmp_path: Path) -> None:
    module, store = Policy(), LocalPolicyStore(tmp_path, fsync=False)
    with publisher_of(tmp_path, module, run_id="mine", env_id="Env-v0") as publisher:
        for number in range(3):
            fill(module, number)
            publisher.publish(number * 100, {"mean_return": np.float64(number), "train_s": 1.0})
            fill(module, -1)
            assert publisher.wait(PATIENCE_S) == publisher.latest_version == number
    assert [bias_in(store, version) for version in store.versions()] == [0, 1, 2]
    manifests = [store.open(version).manifest for version in store.versions()]
    assert [manifest.training for manifest in manifests] == [
        TrainingProgress(update=n, env_steps=100 * n, train_s=1.0, mean_return=n) for n in range(3)
    ]
    assert {(manifest.run_id, manifest.env_id) for manifest in manifests} == {("mine", "Env-v0")}
    assert len({manifest.programs for manifest in manifests}) == 1
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_close_commits_the_last_request(tmp_path: Path) -> None:
    with publisher_of(tmp_path, Policy()) as publisher:
        publisher.publish(7)
    publisher.close()
    store = LocalPolicyStore(tmp_path)
    assert store.open(store.versions()[-1]).manifest.training.env_steps == 7
    with pytest.raises(ConfigurationError, match="this one is closed"):
        publisher.publish(8)


def test_old_versions_are_removed(tmp_path: Path) -> None:
    with publisher_of(tmp_path, Policy(), synchronous=True, retention=Retention(keep_newest=1)) as publisher:
        for step in range(3):
            publisher.publish(step)
        until(lambda: LocalPolicyStore(tmp_path).versions() == [2])


def test_a_changed_program_is_exported_again(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    module, store = Policy(), LocalPolicyStore(tmp_path, fsync=False)
    with publisher_of(store, module, synchronous=True) as publisher:
        publisher.publish(0)
        module.temperature = 0.5
        publisher.publish(1)
        module.actor[1] = nn.ReLU()
        module.critic = nn.Linear(4, 1, bias=False)
        publisher.publish(2)
        publisher.publish(3)
    contents = [store.open(version) for version in range(4)]
    programs = [opened.read(opened.manifest.programs[0].file) for opened in contents]
    assert len(set(programs)) >= 3
    assert "module.critic.bias" not in decode_weights(contents[2].read(contents[2].manifest.weights))
    exports = [line for line in captured_logs.messages("INFO") if line.startswith("program changed, exporting again")]
    assert exports[0] == "program changed, exporting again changes='self.temperature'"
    assert len(exports) == 2


def test_a_changed_program_that_cannot_be_exported_is_refused_until_it_is_corrected(tmp_path: Path) -> None:
    module, store = Policy(), LocalPolicyStore(tmp_path, fsync=False)
    with publisher_of(store, module, synchronous=True) as publisher:
        module.actor[0] = nn.Linear(5, 8)
        for _ in range(2):
            with pytest.raises(ExportError, match="called with inputs of its spaces"):
                publisher.publish(0)
        module.actor[0] = nn.Linear(4, 8)
        publisher.publish(1)
        assert store.versions() == [0]


def test_an_error_of_the_thread_is_raised_once_by_the_next_call(tmp_path: Path) -> None:
    module = Policy()
    publisher = publisher_of(tmp_path, module)
    fill(module, float("nan"))
    publisher.publish(0)
    with pytest.raises(WeightsError, match=r"module\.critic\.bias holds values that are not finite"):
        publisher.wait(PATIENCE_S)
    publisher.publish(1)
    assert publisher._publisher.flush(PATIENCE_S)
    fill(module, 1.0)
    with pytest.raises(WeightsError):
        publisher.publish(2)
    assert publisher.wait(PATIENCE_S) == 0  # the call that raised was a request as well
    publisher.close()


class RefusingStore(LocalPolicyStore):
    is_refusing = True

    def publish(self, *args: Any, **options: Any) -> Any:
        if self.is_refusing:
            raise StoreUnavailable("the mount went away")
        return super().publish(*args, **options)


def test_a_version_that_the_store_refused_is_tried_again(tmp_path: Path) -> None:
    store = RefusingStore(tmp_path, fsync=False)
    publisher = publisher_of(store, Policy())
    publisher.publish(0)
    with pytest.raises(StoreUnavailable, match="the mount went away"):
        publisher.wait(PATIENCE_S)
    store.is_refusing = False
    until(lambda: publisher.latest_version == 0)
    publisher.close()  # a retry that succeeded leaves no error


def test_an_exception_of_the_loop_is_not_replaced_by_an_error_of_publishing(tmp_path: Path) -> None:
    module = Policy()

    def train() -> None:
        with publisher_of(tmp_path, module) as publisher:
            fill(module, float("nan"))
            publisher.publish(0)
            raise KeyError

    with pytest.raises(KeyError):
        train()


def test_a_policy_under_the_contract_needs_no_spaces(tmp_path: Path) -> None:
    policy = make_policy("vector, discrete")
    with Publisher(tmp_path, policy, onnx=False, synchronous=True) as publisher:
        publisher.publish()
    assert LocalPolicyStore(tmp_path).open(0).manifest.signature == policy.signature
    with pytest.raises(ConfigurationError, match="pass the environment's observation_space"):
        Publisher(tmp_path, Policy())


def test_numbers_that_no_version_records_are_refused(tmp_path: Path) -> None:
    with publisher_of(tmp_path, Policy()) as publisher:
        with pytest.raises(ConfigurationError, match="leave loss out of metrics: a version records update, train_s"):
            publisher.publish(0, {"loss": 1.0})  # type: ignore[typeddict-unknown-key]
        for step, update in ((-1, 0), (0, -1)):
            with pytest.raises(ConfigurationError, match="count step and update from 0"):
                publisher.publish(step, {"update": update})
    assert LocalPolicyStore(tmp_path).versions() == []
