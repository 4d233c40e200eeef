"""The flags of a training that say how its policies act: the same with actors and without."""

from dataclasses import dataclass
from typing import get_args

from actor.environments.vector_choice import VectorChoice
from actor.loading.engine_choice import check_trusted
from learner.training.run_options import ExtraProgram, RunOptions
from shared.engines.engine import EngineChoice
from shared.engines.load import PROGRAM_OF
from shared.errors import ConfigurationError

# The class that trains here is one of this checkout's own.
OWN_MODULES = ("learner",)


@dataclass(frozen=True, kw_only=True)
class ActingOptions(RunOptions):
    """What acts with the policies that a training publishes, and in what environments."""

    vector: VectorChoice = "auto"
    """How environments are stepped: entry_point, sync, async (a process each), envpool (extra envpool); auto takes the
    entry point where there is one, else measures sync against async; with --actors 0 no clock decides: sync."""
    engine: EngineChoice = "auto"
    """What runs policies. auto: llvm where the policy is plain enough, else onnx; where a call takes over 1 ms, the
    next (onnx, torchscript) if it measures clearly faster here (with --actors 0 no clock decides). aot needs --programs
    aot --trust-native; compile and eager need --programs importable."""
    trust_native: bool = False
    """Run the native code that --programs aot publishes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_trusted(self.engine, trust_native=self.trust_native, trusted_modules=OWN_MODULES)
        needed = None if self.engine == "auto" else PROGRAM_OF[self.engine]
        if needed in get_args(ExtraProgram) and needed not in self.programs:
            raise ConfigurationError(f"--engine {self.engine} needs versions to have more: add --programs {needed}")

    @property
    def trusted_modules(self) -> tuple[str, ...]:
        """Where policies' classes may be imported from."""
        return OWN_MODULES if "importable" in self.programs else ()
