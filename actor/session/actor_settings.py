"""The flags of ``python -m actor.run``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg

from actor.environments.vector_choice import VectorChoice
from actor.guard.call_deadline import CALL_DEADLINE_S, check_call_deadline
from actor.loading.engine_choice import check_trusted
from actor.versions.staleness import STALE_AFTER_S
from shared.engines.engine import EngineChoice
from shared.errors import ConfigurationError
from shared.operators.program_trust import ProgramTrust

_Directory = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
_File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
_Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
_Flag = Annotated[bool, arg(help_behavior_hint=""), FlagCreatePairsOff]
_Pair = Annotated[bool, arg(help_behavior_hint="")]
_Text = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class ActorSettings:
    """Act with the newest verified policy of a run, and follow it as it changes.

    If the run's learner is alive at the start, the actor joins the training: its rollouts are sent to the learner.
    Otherwise it only acts, even if a learner starts later. A line is printed for each episode, with its return and the
    version that acted, and for each new version.
    """

    env: Annotated[str, arg(metavar="ID")]
    """The environment's Gymnasium id, such as CartPole-v1; module:EnvId-v0 imports the module first."""
    run_dir: _Directory = None
    """The directory of a training. Default: the run of this environment under runs/ that is live, else the newest."""
    store: Annotated[str | None, arg(metavar="DIR|URL", help_behavior_hint="")] = None
    """A policy store instead of a run: an existing directory or a URL. No rollouts are sent."""
    episodes: _Count = None
    """Stop after this many episodes. Default: act until stopped (Ctrl-C)."""
    envs: Annotated[int, arg(metavar="B")] = 1
    """The number of environments to step together. Episodes are counted and printed in the order of their ends."""
    vector: VectorChoice = "auto"
    """How to step several environments: entry_point (the environment's own vector form), sync (one after another),
    async (a process each; pays if a step takes about a millisecond or more), envpool (extra envpool; its environments
    are other programs under the same names). auto: entry_point if there is one, else sync or async, by measuring."""
    engine: EngineChoice = "auto"
    """The engine that runs the policy. auto: llvm if it supports the policy, else onnx; if a call takes over 1 ms, the
    next ones (onnx, torchscript, executorch) if one is clearly faster. executorch and aot need --trust-native; compile
    and eager need --trust-module. If a version has no program for the engine, the others are tried."""
    trust_native: _Flag = False
    """Run native code from the store (policy.pt2), and ExecuTorch programs (policy.pte), which can do the same, with
    all rights of this user: trust its publisher."""
    trust_module: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PREFIX", help_behavior_hint="")] = ()
    """Import policy classes from this installed module and those below it. May be repeated."""
    allow_operator: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME", help_behavior_hint="")] = ()
    """Permit this operator in programs, although it is not on the list of pure ones. May be repeated."""
    trust_program: _Flag = False
    """Permit any operators in programs, also those that read and write files: trust their publisher."""
    public_key: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY", help_behavior_hint="")] = ()
    """Act only with versions signed with this key: a file from scripts/keys.py, or ed25519:HEX. May be repeated, while
    keys change. Unsigned versions and versions of another run are refused."""
    stale_after_s: Annotated[float, arg(metavar="S")] = STALE_AFTER_S
    """Log the policy's age when no newer version came for this long, and again at this interval: an attacker who hides
    versions can only freeze an actor. With --public-key it is a warning. inf: never."""
    sandbox: _Pair = True
    """Run unknown programs in a sandbox process first, which they may hang, crash or fill. --no-sandbox loads them
    directly, for trusted publishers, and saves the process. Programs that passed and versions that failed while acting
    are recorded for later actors of this user (below XDG_CACHE_HOME, or ~/.cache)."""
    call_deadline_s: Annotated[float, arg(metavar="S")] = CALL_DEADLINE_S
    """End this process with exit code 5 when a call of the policy has not returned for this long; 0: never. A version
    that ends two processes in a call, by this or by a crash, is quarantined on this machine."""
    follow: Annotated[str, arg(metavar="RULE")] = "newest"
    """newest, pinned:VERSION (no other version acts), or history:P (an older version acts an episode with probability
    P). Rollouts are sent only with newest."""
    canary: Annotated[float | None, arg(metavar="P", help_behavior_hint="")] = None
    """Let a new version act only a share P of the episodes (0 < P < 1) until 20 of them have ended; then adopt it, or
    quarantine it if its returns are worse (one-sided rank-sum test, 1%). All actors of a store evaluate together; give
    them the same P. Episodes must end. Default: every new version acts at once."""
    prefetch: _Pair = True
    """Verify new versions in a process beside this one once that pays off. It applies to --follow newest of a store in
    a directory of this machine, on Linux, without --canary."""
    deterministic: _Flag = False
    """Act without noise: the most probable action. No rollouts are sent."""
    seed: Annotated[int | None, arg(metavar="K", help_behavior_hint="")] = None
    """The seed of the environments and the noise. Default: random."""
    deadline_s: Annotated[float, arg(metavar="S")] = 60.0
    """Seconds to wait for a first policy; then the exit code is 2."""
    episode_log: _File = None
    """Write each episode to this file as one line of JSON: episode, return, length, version, versions, digest. An
    existing file is overwritten."""
    send: _Flag = True
    """Send no rollouts to the run's learner."""
    transport_key: _File = None
    """The key for sending rollouts to a learner on another machine: a copy of actor.key in its run's directory.
    Default: the one in the run's directory, if it can be read."""
    name: _Text = None
    """The name of this actor at the learner and in the logs, different from those of all other actors. Default: host
    and process id."""
    supervised: _Flag = False
    """Set by a supervisor: print no episodes, stop when the learner requests it, end when the supervisor ends."""

    def __post_init__(self) -> None:
        check_trusted(self.engine, ProgramTrust(native=self.trust_native, modules=self.trust_module))
        if self.run_dir is not None and self.store is not None:
            raise ConfigurationError("give only one of --run-dir and --store: both name the source of policies")
        for flag, value in (("--envs", self.envs), ("--episodes", self.episodes)):
            if value is not None and value < 1:
                raise ConfigurationError(f"expected at least 1 for {flag}, found {value}")
        if not 0 <= self.deadline_s < float("inf"):
            raise ConfigurationError(f"expected 0 or more seconds for --deadline-s, found {self.deadline_s}")
        check_call_deadline(self.call_deadline_s)
        if not self.stale_after_s > 0:
            raise ConfigurationError(f"expected more than 0 seconds for --stale-after-s, found {self.stale_after_s}")
        if self.seed is not None and self.seed < 0:
            raise ConfigurationError(f"expected 0 or more for --seed, found {self.seed}")
