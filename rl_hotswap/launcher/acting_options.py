"""Flags of a training that configure its acting. Without torch, so that commands start fast."""

from dataclasses import dataclass

from tyro.conf import UseAppendAction

from actor.environments.vector_choice import VectorChoice
from actor.guard.call_deadline import CALL_DEADLINE_S, check_call_deadline
from actor.loading.engine_choice import check_trusted
from learner.export.program_choice import programs_of
from learner.training.run_options import LearnerRun, RunOptions
from shared.engines.engine import EngineChoice
from shared.engines.load import PROGRAM_OF
from shared.errors import ConfigurationError
from shared.operators.program_trust import ProgramTrust

# Importable policies of a training are classes of this project.
OWN_MODULES = ("learner",)


@dataclass(frozen=True, kw_only=True)
class ActingOptions(RunOptions):
    """Options of the acting of a training: engine and environments."""

    vector: VectorChoice = "auto"
    """How environments are stepped: entry_point (the environment's own vector form), sync, async (one process each),
    envpool (extra envpool). auto takes the entry point if there is one, else the faster of sync and async as measured;
    with --actors 0 nothing is measured and auto means sync."""
    engine: EngineChoice = "auto"
    """Engine that runs policies. auto takes llvm if it supports the policy, else onnx; if a call takes over 1 ms, it
    measures the next engines and takes a clearly faster one (not with --actors 0). aot needs --programs aot
    --trust-native, executorch likewise; compile and eager need --programs importable."""
    trust_native: bool = False
    """Permit the programs that --programs aot and executorch publish."""
    allow_operator: UseAppendAction[tuple[str, ...]] = ()
    """Permit this operator in programs, although it is not on the list of pure ones. May be repeated."""
    trust_program: bool = False
    """Permit programs to use any operators."""
    call_deadline_s: float = CALL_DEADLINE_S
    """End a process with exit code 5 when a call of its policy has not returned for this long, and start it again; 0:
    never. A version that ends two actors in a call, by this or by a crash, is quarantined on this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trusted(self.engine, ProgramTrust(native=self.trust_native, modules=OWN_MODULES))
        check_call_deadline(self.call_deadline_s)
        needed = None if self.engine == "auto" else PROGRAM_OF[self.engine]
        if needed is not None and needed not in programs_of(self.programs):
            raise ConfigurationError(f"add --programs {needed}: --engine {self.engine} runs no other program")

    @property
    def trusted_modules(self) -> tuple[str, ...]:
        """Modules that policies' classes may be imported from."""
        return OWN_MODULES if "importable" in self.programs else ()


@dataclass(frozen=True, kw_only=True)
class SingleProcessRun(ActingOptions, LearnerRun):
    """Act and learn alternately in this process. ``rl-hotswap train --actors 0`` starts it."""
