"""The options of an agent: frozen dataclasses, validated once."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actor.guard.call_deadline import check_call_deadline
from actor.loading.engine_choice import check_trusted
from actor.sandbox.program_sandbox import DEFAULT_LIMITS, SandboxLimits
from actor.versions.follow_rules import Follow, check_canary, parse_follow
from actor.versions.staleness import STALE_AFTER_S
from shared.engines.engine import EngineChoice
from shared.errors import ConfigurationError
from shared.operators.program_trust import ProgramTrust
from shared.policy.signature import PolicySignature
from shared.policy.signing import PublicKey

_RENAMED = {"trial": "sandbox", "remember_in": "cache_directory"}


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """The publishers and the code that an agent trusts.

    Args:
        public_keys: With any, only versions that one of these keys signed may act.
        run_id: With ``public_keys``, the run that versions must come from. None: the run of the first version.
        trusted_modules: Prefixes of module paths that importable policies may come from (engines ``compile`` and
            ``eager``).
        trust_native: Permit native code from the store (engine ``aot``), and programs that can do the same
            (``executorch``).
        allowed_operators: Names of operators that programs may use beyond the pure and deterministic ones.
        trust_programs: Permit programs with any operators.
    """

    public_keys: Sequence[PublicKey] = ()
    run_id: str | None = None
    trusted_modules: tuple[str, ...] = ()
    trust_native: bool = False
    allowed_operators: tuple[str, ...] = ()
    trust_programs: bool = False

    @property
    def for_programs(self) -> ProgramTrust:
        """The permissions for programs."""
        return ProgramTrust(
            native=self.trust_native,
            modules=self.trusted_modules,
            allowed_operators=self.allowed_operators,
            programs=self.trust_programs,
        )


@dataclass(frozen=True, kw_only=True)
class AgentOptions:
    """The options of an ``Agent``.

    Args:
        num_envs: The number of environments B of a batch; None for one environment without a batch dimension.
        engine: ``auto`` measures the engines. Any other engine is tried first; the rest are its fallback.
        follow: ``newest``, ``pinned:VERSION`` or ``history:PROBABILITY``.
        deterministic: Act without noise.
        seed: The seed of the noise, and of the draws of ``history`` and ``canary``.
        deadline_s: Seconds to wait while no version can act.
        synchronous: Load inside ``reset`` and ``adopt`` instead of on a thread, in a fixed order: the same seed gives
            the same bits.
        values: Compute the policy's value too, which takes many networks as long as the action.
        signature: The signature of the environment. Versions made for another one are refused. None: that of the
            first version.
        stale_after_s: Seconds after which, and at which intervals, the log reports that no newer version came.
        canary: The share of the episodes, in (0, 1), in which a new version acts until it is adopted or found worse
            (``actor/canary``). Needs ``Agent.episodes_ended``. None: a new version acts at once.
        prefetch: Verify new versions in a process beside this one once that pays off (``actor/prefetch``). It applies
            to agents that follow the newest version of a local store on Linux, without ``canary`` or ``synchronous``.
        name: The agent's name in the log and in the store's quarantine.
        trust: The publishers and the code to trust.
        sandbox: The limits of the process in which unknown programs run first. Its start takes about a second of CPU
            time, for each agent without ``cache_directory``. None: programs are loaded directly.
        cache_directory: A directory of this user that keeps which programs passed the sandbox, which versions failed
            while acting, and which ended their process in a call. None: nothing is kept.
        call_deadline_s: Seconds after which a call that does not return ends this process with exit code 5. 0: never.

    Raises:
        ConfigurationError: An option is out of its range, or lacks the permission or the option that it needs.
    """

    num_envs: int | None = None
    engine: EngineChoice = "auto"
    follow: str | Follow = "newest"
    deterministic: bool = False
    seed: int = 0
    deadline_s: float = 60.0
    synchronous: bool = False
    values: bool = False
    signature: PolicySignature | None = None
    stale_after_s: float = STALE_AFTER_S
    canary: float | None = None
    prefetch: bool = True
    name: str = "agent"
    trust: TrustOptions = TrustOptions()
    sandbox: SandboxLimits | None = DEFAULT_LIMITS
    cache_directory: Path | None = None
    call_deadline_s: float = 0.0

    def __post_init__(self) -> None:
        if self.num_envs is not None and self.num_envs < 1:
            raise ConfigurationError(f"expected num_envs to be None or at least 1, found {self.num_envs}")
        if not self.deadline_s >= 0:
            raise ConfigurationError(f"expected deadline_s to be at least 0, found {self.deadline_s}")
        check_call_deadline(self.call_deadline_s)
        if not self.stale_after_s > 0:
            raise ConfigurationError(f"expected stale_after_s to be above 0, found {self.stale_after_s}")
        check_trusted(self.engine, self.trust.for_programs)
        check_canary(self.canary, self.followed)

    @property
    def followed(self) -> Follow:
        """The rule that ``follow`` describes."""
        return parse_follow(self.follow) if isinstance(self.follow, str) else self.follow

    @property
    def batch_size(self) -> int:
        """The number of rows B of every array."""
        return 1 if self.num_envs is None else self.num_envs


def with_deprecated_keywords(options: AgentOptions | None, keywords: Mapping[str, Any]) -> AgentOptions:
    """Return ``options`` changed by the keywords that ``Agent`` took before it took options, with a warning.

    Raises TypeError for a keyword that the last release did not have.
    """
    fields = {_RENAMED.get(name, name): value for name, value in keywords.items()}
    trust = {field.name: fields.pop(field.name) for field in dataclasses.fields(TrustOptions) if field.name in fields}
    unknown = fields.keys() - {field.name for field in dataclasses.fields(AgentOptions)}
    if unknown:
        raise TypeError(f"Agent() got an unexpected keyword argument {min(unknown)!r}")
    names = ", ".join(keywords)
    warnings.warn(f"pass AgentOptions to Agent instead of keywords ({names})", DeprecationWarning, stacklevel=3)
    options = options or AgentOptions()
    return dataclasses.replace(options, **fields, trust=dataclasses.replace(options.trust, **trust))
