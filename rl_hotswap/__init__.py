"""The public API of rl-hotswap: train policies, publish them, and act with them while they are replaced.

    from rl_hotswap import Agent, open_store

Names are imported when they are first used, so that ``import rl_hotswap`` is fast and does not import torch.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actor.acting.module_call import load_policy
    from actor.agent import Agent
    from actor.agent_options import AgentOptions, TrustOptions
    from actor.sandbox.program_sandbox import SandboxLimits
    from learner.export.module_export import export_module
    from learner.importers.cleanrl import from_cleanrl
    from learner.importers.rllib import from_rllib
    from learner.importers.torchrl import from_torchrl
    from learner.publishing.policy_publisher import publish_policy
    from learner.publishing.publisher import Publisher
    from learner.sb3.adapter import from_sb3
    from learner.sb3.publish_callback import PublishCallback
    from rl_hotswap.evaluation import Evaluation, evaluate
    from rl_hotswap.training import TrainingResult, train
    from shared.store.policy_store import open_store

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentOptions",
    "Evaluation",
    "PublishCallback",
    "Publisher",
    "SandboxLimits",
    "TrainingResult",
    "TrustOptions",
    "__version__",
    "evaluate",
    "export_module",
    "from_cleanrl",
    "from_rllib",
    "from_sb3",
    "from_torchrl",
    "load_policy",
    "open_store",
    "publish_policy",
    "train",
]

_MODULES = {
    "Agent": "actor.agent",
    "AgentOptions": "actor.agent_options",
    "Evaluation": "rl_hotswap.evaluation",
    "PublishCallback": "learner.sb3.publish_callback",
    "Publisher": "learner.publishing.publisher",
    "SandboxLimits": "actor.sandbox.program_sandbox",
    "TrainingResult": "rl_hotswap.training",
    "TrustOptions": "actor.agent_options",
    "evaluate": "rl_hotswap.evaluation",
    "export_module": "learner.export.module_export",
    "from_cleanrl": "learner.importers.cleanrl",
    "from_rllib": "learner.importers.rllib",
    "from_sb3": "learner.sb3.adapter",
    "from_torchrl": "learner.importers.torchrl",
    "load_policy": "actor.acting.module_call",
    "open_store": "shared.store.policy_store",
    "publish_policy": "learner.publishing.policy_publisher",
    "train": "rl_hotswap.training",
}


_EXTRAS = {
    "stable_baselines3": "sb3",
    "sb3_contrib": "sb3",
    "torchrl": "torchrl",
    "tensordict": "torchrl",
    "ray": "rllib",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value: object = getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ImportError(f'{name} needs {error.name}: pip install "rl-hotswap[{extra}]"', name=error.name) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _check_not_shadowed() -> None:
    """Raise ImportError when another package named ``actor``, ``learner`` or ``shared`` precedes this project's."""
    expected = Path(__file__).resolve().parents[1]
    for package in ("actor", "learner", "shared"):
        spec = find_spec(package)
        places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
        if expected / package not in places:
            found = "none is on the import path" if not places else f"{places[0]} is found first"
            raise ImportError(
                f"rl-hotswap needs its own package {package!r} in {expected}, but {found}: rename or remove the other "
                "one, or start Python elsewhere"
            )


_check_not_shadowed()
