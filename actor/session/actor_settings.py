"""The flags of ``python -m actor.run``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, UseAppendAction, arg, configure

from actor.environments.vector_choice import VectorChoice
from actor.loading.engine_choice import check_trusted
from actor.versions.staleness import STALE_AFTER_S
from shared.engines.engine import EngineChoice
from shared.errors import ConfigurationError

_Directory = Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")]
_File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
_Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
_Switch = Annotated[bool, arg(help_behavior_hint="")]
_Text = Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")]


@configure(FlagCreatePairsOff)
@dataclass(frozen=True, kw_only=True)
class ActorSettings:
    """Act with the newest policy that can be trusted, and follow it as it changes.

    Where the run's learner is alive at the start, what is acted is learned from: this joins a training. Otherwise it
    just acts, and goes on so though a learner comes later.
    Each episode's return is printed with the version that acted, and a line for each new version.
    """

    env: Annotated[str, arg(metavar="ID")]
    """The environment's id as Gymnasium knows it, such as CartPole-v1; module:EnvId-v0 imports the module first."""
    run_dir: _Directory = None
    """A training's directory. Left out: the run of this environment under runs/ that is live, else the newest."""
    store: Annotated[str | None, arg(metavar="DIR|URL", help_behavior_hint="")] = None
    """A policy store instead of a run: a directory that is there, or a URL. What is acted from it is sent to nobody."""
    episodes: _Count = None
    """Stop after so many episodes. Left out: go on until stopped (Ctrl-C)."""
    envs: Annotated[int, arg(metavar="B")] = 1
    """How many environments to step together. Their episodes count, and are printed, in the order in which they end."""
    vector: VectorChoice = "auto"
    """How to step several: entry_point (the environment's own vector form), sync (one after another), async (in a
    process each: pays where a step takes about a millisecond or more), envpool (extra envpool; other programs under the
    same names, so only where asked for). auto: entry_point where there is one, else sync or async, by measuring."""
    engine: EngineChoice = "auto"
    """What runs the policy. auto: llvm where the policy is plain enough, else onnx; where a call takes over 1 ms, the
    next (onnx, torchscript) if it measures clearly faster.
    aot needs --trust-native; compile and eager need --trust-module. Where a version has no program for it, the others
    are tried."""
    trust_native: _Switch = False
    """Run native code out of the store (policy.pt2), which nothing holds back: trust who published it."""
    trust_module: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PREFIX", help_behavior_hint="")] = ()
    """Import policies' classes from this module and those below it, from what is installed here. May be repeated."""
    public_key: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="KEY", help_behavior_hint="")] = ()
    """Act only with what was signed with this key: the file that scripts/keys.py made, or ed25519:HEX. May be repeated,
    while keys change. Versions that are not signed, or of another run than this one, are refused."""
    stale_after_s: Annotated[float, arg(metavar="S")] = STALE_AFTER_S
    """Say in the log how old the policy is once nothing newer has come for this long, and as often: whoever hides
    versions can only freeze an actor. With --public-key it is a warning. inf: never."""
    try_first: _Switch = True
    """Load programs never seen before straight away, instead of trying each in a process of its own first, which it may
    hang, crash or fill. Spares that process where whoever publishes is trusted. What has passed is remembered for
    later actors of this user, as is what failed while it acted (below XDG_CACHE_HOME, or ~/.cache)."""
    follow: Annotated[str, arg(metavar="RULE")] = "newest"
    """newest, pinned:VERSION (no other ever acts), or history:P (with probability P an older version acts an episode).
    Only what follows the newest is learned from."""
    canary: Annotated[float | None, arg(metavar="P", help_behavior_hint="")] = None
    """Let a new version act only a share P of the episodes (0 < P < 1) until 20 of them have ended; then it is adopted,
    or quarantined where its returns are worse (one-sided rank-sum test, 1%). All actors of a store with this flag
    rank_sum_test
    together; give them the same P. Episodes must end. Left out: every new version acts at once."""
    deterministic: _Switch = False
    """Act without noise: the most probable action. Nothing is sent to the learner."""
    seed: Annotated[int | None, arg(metavar="K", help_behavior_hint="")] = None
    """For the environments and the noise; drawn afresh if left out."""
    deadline_s: Annotated[float, arg(metavar="S")] = 60.0
    """How long to wait for something to act with, in seconds; then the exit code is 2."""
    episode_log: _File = None
    """Write each episode to this file as one line of JSON: episode, return, length, version, versions, digest.
    What was in the file is overwritten."""
    send: _Switch = True
    """Keep what is acted here from the run's learner."""
    transport_key: _File = None
    """The key for sending rollouts to a learner on another machine: a copy of actor.key in its run's directory. Left
    out, the one in the run's directory is used, where it can be read."""
    name: _Text = None
    """What the learner and the logs call this actor; made up if left out. No two at a time may have the same."""
    supervised: _Switch = False
    """Set by a supervisor: print no episodes, stop when the learner says so, end when the supervisor ends."""

    def __post_init__(self) -> None:
        check_trusted(self.engine, trust_native=self.trust_native, trusted_modules=self.trust_module)
        if self.run_dir is not None and self.store is not None:
            raise ConfigurationError("--run-dir and --store both say where policies are; give one of them")
        for flag, value in (("--envs", self.envs), ("--episodes", self.episodes)):
            if value is not None and value < 1:
                raise ConfigurationError(f"expected at least 1 for {flag}, found {value}")
        if not 0 <= self.deadline_s < float("inf"):
            raise ConfigurationError(f"expected seconds, 0 or more, for --deadline-s; found {self.deadline_s}")
        if not self.stale_after_s > 0:
            raise ConfigurationError(f"expected seconds, above 0, for --stale-after-s; found {self.stale_after_s}")
        if self.seed is not None and self.seed < 0:
            raise ConfigurationError(f"expected 0 or more for --seed, found {self.seed}")
