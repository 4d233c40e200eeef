"""Bad versions of all kinds among good ones, loaded in the background while an agent with a public key acts.

All are signed, except those about signatures, so that each is refused for its own flaw. No bad version acts, no good
version is refused, and every step is answered.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from loguru import logger
from torch import nn

from actor.agent import Agent
from actor.agent_options import AgentOptions, TrustOptions
from actor.sandbox.program_sandbox import SandboxLimits
from shared.policy.manifest import Manifest
from shared.store.policy_store import LocalPolicyStore, Retention
from tests.support.agent_policies import TouchyPolicy, eager, exporter, make_policy, publish, quiet_noise
from tests.support.bad_versions import BAD_KINDS, SIGNATURE_KINDS, SLOW_KINDS, BadKind, publish_bad
from tests.support.signature_attacks import KEY

ROWS = 3
NEAR = np.random.default_rng(0).standard_normal((ROWS, 4)).astype(np.float32)
FAR = NEAR + np.array([1e5, 0, 0, 0], np.float32)
NOISE = quiet_noise(make_policy(), ROWS)
LIMITS = SandboxLimits(timeout_s=60.0, cpu_s=2.0, memory_bytes=2**29)  # CPU time: the machine may be busy
KINDS = BAD_KINDS + SIGNATURE_KINDS
PATIENCE = 2_000_000  # steps: minutes of them
_SETTLED = re.compile(r"policy version (\d+) (?:quarantined|refused|will be retried)")


class Acting:
    """Steps an agent; each action is computed again from the version that acted."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.policies: dict[int, nn.Module] = {}
        self.steps = 0
        self._expected: dict[tuple[int, bool], np.ndarray] = {}

    def step(self, *, far: bool = False) -> int:
        """Take one step and return the version that acted."""
        self.agent.adopt()
        action = self.agent.act(FAR if far else NEAR)
        version = self.agent.policy.version
        assert version in self.policies, f"version {version} must never act"
        if (version, far) not in self._expected:
            self._expected[version, far] = eager(self.policies[version], FAR if far else NEAR, NOISE)[0]
        np.testing.assert_array_equal(action, self._expected[version, far])
        self.steps += 1
        return version

    def step_until(self, is_so: Callable[[], bool], what: str) -> None:
        for _ in range(PATIENCE):
            if is_so():
                return
            self.step()
        raise AssertionError(f"{what}: not after {PATIENCE} steps")


@pytest.fixture
def settled() -> Iterator[dict[int, str]]:
    """The versions that the log reports as refused, for now or permanently, with the first line of each."""
    versions: dict[int, str] = {}

    def take(message: object) -> None:
        if (found := _SETTLED.match(str(message))) is not None:
            versions.setdefault(int(found[1]), str(message))

    sink = logger.add(take, format="{message}")
    yield versions
    logger.remove(sink)


def _publish_good(store: LocalPolicyStore, seed: int) -> Manifest:
    return publish(store, make_policy(seed=seed), exporter(), sign=KEY.sign)


def _bad_one(store: LocalPolicyStore, acting: Acting, settled: dict[int, str], kind: BadKind, seed: int) -> None:
    before = acting.agent.policy.version
    touchy = TouchyPolicy(seed=seed)
    if kind.outcome == "quarantined while acting":
        acting.policies[before + 1] = touchy  # it acts well until it gets certain inputs
    bad = publish_bad(store, kind, seed, KEY)
    assert bad > before
    if kind.outcome == "not seen":
        for _ in range(100):
            assert acting.step() == before
    elif kind.outcome == "quarantined while acting":
        acting.step_until(lambda: acting.agent.policy.version == bad, f"version {bad} ({kind.name}) acts")
        assert acting.step(far=True) == before, "the last good version answers the same step"
        del acting.policies[bad]
    else:
        acting.step_until(lambda: bad in settled, f"version {bad} ({kind.name}) is refused")
        assert acting.step() == before
        if kind.name not in SLOW_KINDS:  # on a busy machine the sandbox may end these for another reason
            assert kind.reason in settled[bad], f"{kind.name}: {settled[bad]}"


@pytest.mark.parametrize(
    "pairs", [pytest.param(60, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(3600)
def test_nothing_bad_acts_nothing_good_is_refused_no_step_is_lost(
    store: LocalPolicyStore, settled: dict[int, str], pairs: int
) -> None:
    generator = np.random.default_rng(0)
    kinds = [KINDS[int(i)] for i in generator.permutation(np.arange(pairs) % len(KINDS))]
    _publish_good(store, 0)
    trust = TrustOptions(public_keys=[KEY.public])
    options = AgentOptions(num_envs=ROWS, deterministic=True, sandbox=LIMITS, deadline_s=60.0, trust=trust)
    with Agent(store, options) as agent:
        acting = Acting(agent)
        acting.policies[0] = make_policy(seed=0)
        agent.reset()
        for i, kind in enumerate(kinds):
            seed = i + 1
            _bad_one(store, acting, settled, kind, seed)
            version = store.newest()
            assert version is not None
            good = _publish_good(store, seed)
            acting.policies[good.version] = make_policy(seed=seed)
            acting.step_until(
                lambda wanted=good.version: agent.policy.version == wanted,  # type: ignore[misc]
                f"version {good.version}, a good one after {kind.name}, acts",
            )
            store.sweep(Retention(keep_newest=20))
    assert acting.steps > 2 * pairs
