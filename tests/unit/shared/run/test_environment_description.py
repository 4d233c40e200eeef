import sys
import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from shared.errors import ConfigurationError
from shared.run.environment_description import describe_environment, find_environment


class _Nested(gymnasium.Env[object, object]):
    observation_space = spaces.Dict(
        camera=spaces.Box(0, 255, (2, 2, 3), np.uint8), pose=spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (2,))))
    )
    action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, **_: object) -> tuple[object, dict[str, object]]:  # type: ignore[override]
        return self.observation_space.sample(), {"action_mask": np.ones(5, np.int8)}


class _Composite(_Nested):
    action_space = spaces.Dict({"a": spaces.Discrete(2)})  # type: ignore[assignment]


class _Faulty(_Nested):
    def __init__(self) -> None:
        raise RuntimeError("the simulator's licence has run out")


@pytest.fixture
def registered() -> Iterator[None]:
    entries = {"probe/Nested-v0": _Nested, "probe/Composite-v0": _Composite, "probe/Faulty-v0": _Faulty}
    for env_id, entry_point in entries.items():
        gymnasium.register(env_id, entry_point, disable_env_checker=True)
    yield
    for env_id in entries:
        del gymnasium.registry[env_id]


def test_environments_of_gymnasium() -> None:
    leaves, action, masked, reward_threshold = describe_environment("CartPole-v1")
    assert [(leaf.path, leaf.kind, leaf.dtype, leaf.shape) for leaf in leaves] == [((), "box", "float32", (4,))]
    assert (action.kind, action.cardinalities) == ("discrete", (2,))
    assert not masked
    assert reward_threshold == 475
    taxi = describe_environment("Taxi-v4")
    assert taxi.masked
    assert taxi.action.mask_shape == (6,)
    leaves, *_ = describe_environment("FrozenLake-v1", {"map_name": "8x8"})  # which reach the environment
    assert leaves[0].cardinalities == (64,)


@pytest.mark.usefixtures("registered")
def test_nested_observations_become_leaves() -> None:
    description = describe_environment("probe/Nested-v0")
    assert [leaf.path for leaf in description.leaves] == [("camera",), ("pose", 0), ("pose", 1)]
    assert description.masked


@pytest.mark.parametrize(
    ("env_id", "text"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("CartPole-v7", "CartPole-v1 or CartPole-v0"),
        ("CartPole", "CartPole-v1"),
        ("Taxi-v3", "Taxi-v4"),
        ("ALE/Pong-v5", "ale_py:ALE/Pong-v5"),
        ("Zzyzx-v0", "module:EnvId-v0"),
        ("", "module:EnvId-v0"),
        ("no_such_module:Foo-v0", "PYTHONPATH"),
    ],
)
def test_an_unknown_id_is_an_error_with_similar_ids(env_id: str, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigurationError, match=r"no environment|cannot import") as caught:
            describe_environment(env_id)
    assert text in str(caught.value)


def test_a_missing_dependency_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(ConfigurationError, match=r'pip install "rl-hotswap\[box2d\]"'):
        describe_environment("LunarLander-v3")


@pytest.mark.usefixtures("registered")
def test_errors_of_the_environment_are_mapped_and_chained() -> None:
    with pytest.raises(ConfigurationError, match="licence has run out") as caught:
        describe_environment("probe/Faulty-v0")
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ConfigurationError, match="composite action space"):
        describe_environment("probe/Composite-v0")
    with pytest.raises(ConfigurationError, match="no_such_argument"):
        describe_environment("CartPole-v1", {"no_such_argument": 1})


def test_a_module_is_imported_before_the_id_is_looked_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("environments")
    (directory / "my_environments.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control.cartpole:CartPoleEnv', reward_threshold=7)\n"
    )
    monkeypatch.syspath_prepend(str(directory))
    try:
        assert describe_environment("my_environments:Mine-v0").reward_threshold == 7
        assert find_environment("my_environments:Mine-v0").id == "Mine-v0"
    finally:
        gymnasium.registry.pop("Mine-v0", None)
