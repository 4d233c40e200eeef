"""The options of an agent, and the keywords that they replace."""

from pathlib import Path
from typing import Any

import pytest

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions, with_deprecated_keywords
from actor.sandbox.program_sandbox import SandboxLimits
from actor.versions.follow_rules import Pinned
from shared.errors import ConfigurationError
from tests.support.agent_policies import local_store
from tests.support.signature_attacks import KEY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"deadline_s": -1.0}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"stale_after_s": 0.0}, "stale_after_s"),
        ({"follow": "oldest"}, "found 'oldest'"),
        ({"canary": 0.0}, "canary"),
        ({"canary": 1.0}, "canary"),
        ({"canary": float("nan")}, "canary"),
        ({"canary": 0.5, "follow": "pinned:0"}, "canary"),
        ({"engine": "aot"}, "--trust-native"),
        ({"engine": "eager"}, "--trust-module"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        AgentOptions(**options)


def test_deprecated_keywords_give_the_options_that_replace_them() -> None:
    with pytest.warns(DeprecationWarning, match=r"pass AgentOptions to Agent instead of keywords \(num_envs, follow, "):
        options = with_deprecated_keywords(
            AgentOptions(seed=3, trust=TrustOptions(trust_native=True)),
            {
                "num_envs": 2,
                "follow": "pinned:7",
                "trial": SandboxLimits(timeout_s=1.0),
                "remember_in": Path("cache"),
                "public_keys": [KEY.public],
                "run_id": "run",
            },
        )
    assert options == AgentOptions(
        num_envs=2,
        follow="pinned:7",
        seed=3,
        sandbox=SandboxLimits(timeout_s=1.0),
        cache_directory=Path("cache"),
        trust=TrustOptions(public_keys=[KEY.public], run_id="run", trust_native=True),
    )
    assert options.followed == Pinned(7)


def test_an_agent_takes_deprecated_keywords_and_refuses_unknown_ones(tmp_path: Path) -> None:
    with (
        pytest.warns(DeprecationWarning, match="AgentOptions") as warned,
        Agent(local_store(tmp_path), num_envs=3, synchronous=True),
    ):
        pass
    assert warned[0].filename == __file__
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        Agent(local_store(tmp_path), speed=3)
