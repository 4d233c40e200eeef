"""``rl-hotswap export``: export a policy that was trained elsewhere."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from shared.errors import ConfigurationError
from shared.policy.manifest import ProgramKind
from shared.policy.signing import signing_key_of
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.process.terminal import print_line

if TYPE_CHECKING:
    from torch import nn

    from shared.policy.manifest import Manifest

COMMAND = "rl-hotswap export"

_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Export a policy that was trained elsewhere: by another library, or as any torch module.

    --from SOURCE --store DIR publishes a policy of Stable-Baselines3, RLlib or CleanRL. Pickles in its files are read
    only with --trust-pickle. Without that flag, a policy of Stable-Baselines3 is rebuilt for --env with the weights of
    the file.

    --module pkg.mod:Class --weights w.pt exports your own class: with --env and --store as an acting policy (the module
    learner.export.spaces_policy describes its inputs and outputs; a module of TorchRL acts, too), with --example and
    --directory as any module.
    """

    source: Annotated[str | None, tyro.conf.arg(name="from", aliases=("--sb3",), metavar="SOURCE")] = None
    """model.zip of Stable-Baselines3 or sb3-contrib, a checkpoint directory of RLlib, or agent_file.py:Class of CleanRL
    with --weights and --env."""
    vec_normalize: Path | None = None
    """File of VecNormalize.save, which becomes part of the policy. It is a pickle and needs --trust-pickle."""
    algorithm: str | None = None
    """Name of a Stable-Baselines3 algorithm, such as PPO or TQC, if the file does not name it."""
    policy: str = "MlpPolicy"
    """Policy class of a Stable-Baselines3 model, for a policy that is rebuilt."""

    module: str | None = None
    """Class path of a torch.nn.Module, or of a function that returns one, imported from the working directory or
    PYTHONPATH."""
    arguments: str = "{}"
    """Keyword arguments of the constructor, as a JSON object."""
    weights: Path | None = None
    """State dict of torch.save, also of a CleanRL agent; or a whole pickled module, with --trust-pickle alone."""
    example: tuple[str, ...] = ()
    """Arguments of forward: "float32[3,4]" for each tensor, or one .pt file with a tuple of tensors."""
    how: str | None = None
    """With --example: use only this export method (such as trace) instead of the first that equals the module."""
    directory: Path | None = None
    """With --example: the new directory of the exported module."""
    programs: tuple[ProgramKind, ...] = ()
    """Programs to make. torchscript and onnx: both, unless one of them is named. executorch (extra executorch) and aot
    (native code, 15 to 40 s): actors run them only with --trust-native."""
    aot: bool = False
    """Short form of --programs aot."""

    store: Annotated[str | None, tyro.conf.arg(metavar="DIR|URL")] = None
    """Policy store to publish into."""
    env: str | None = None
    """Gymnasium id of the policy's environment, which defines its observation and action spaces."""
    signing_key: Path | None = None
    """Sign the version with this private key (rl-hotswap keys make DIR makes one)."""
    trust_pickle: bool = False
    """Read pickles, which can run any code. Use it only for files of a trusted origin."""


def main(options: ExportOptions) -> int:
    """Export, print the result and return 0. Raises ConfigurationError for conflicting flags, and NotTrusted."""
    set_up_logging("export", None, terminal_level="WARNING")
    has_module = options.module is not None or (options.source is None and options.weights is not None)
    if (options.source is not None) == has_module:
        raise ConfigurationError("give either --from SOURCE, or --module pkg.mod:Class with --weights FILE")
    _check_destination(options)
    if options.source is None and options.example:
        _export_module(options)
        return 0
    manifest = _publish_saved(options, options.source) if options.source is not None else _publish_module(options)
    taken = ", ".join(report.method for report in manifest.export if report.taken)
    print_line(f"published version {manifest.version} into {options.store}: {taken}")
    return 0


def _check_destination(options: ExportOptions) -> None:
    """Raise ConfigurationError for a flag that would have no effect."""
    surplus: dict[str, object]
    if options.source is None and options.example:
        surplus = {"--env": options.env, "--store": options.store}
        surplus |= {"--aot": options.how and options.aot, "--programs": options.how and options.programs}
        where = (
            "with --example the module goes to --directory, without environment or store, and --how makes one program"
        )
    else:
        surplus = {"--how": options.how, "--directory": options.directory}
        where = "it needs --example; an acting policy goes to --store by all export methods"
    for flag, value in surplus.items():
        if value:
            raise ConfigurationError(f"leave out {flag}: {where}")


def _publish_saved(options: ExportOptions, source: str) -> "Manifest":
    store = _required(options.store, "--store DIR to publish the policy")

    from learner.importers.saved_policy import SavedPolicy, read_policy
    from learner.publishing.policy_publisher import publish_once
    from shared.store.policy_store import open_store

    key = signing_key_of(options.signing_key)
    policy = read_policy(
        SavedPolicy(
            source,
            spaces=None if options.env is None else _spaces(options.env),
            weights=options.weights,
            arguments=_arguments(options),
            trust_pickle=options.trust_pickle,
            algorithm=options.algorithm,
            policy=options.policy,
            vec_normalize=options.vec_normalize,
        )
    )
    return publish_once(
        policy,
        policy.signature,
        open_store(store),
        env_id=options.env,
        programs=_programs(options),
        signing_key=key,
    )


def _publish_module(options: ExportOptions) -> "Manifest":
    store = _required(options.store, "--store DIR for an acting policy, or --example and --directory for any module")
    env_id = _required(options.env, "--env ID, which defines the policy's observation and action spaces")

    from learner.importers.saved_policy import as_policy
    from learner.publishing.policy_publisher import publish_policy

    observation, action = _spaces(env_id)
    module = as_policy(_module(options), (observation, action))
    key = options.signing_key
    programs = _programs(options)
    return publish_policy(module, observation, action, store, env_id=env_id, programs=programs, signing_key=key)


def _export_module(options: ExportOptions) -> None:
    directory = _required(options.directory, "--directory DIR for the exported module")

    from learner.export.export_methods import EXPORT_METHODS
    from learner.export.module_export import export_module
    from learner.export.module_source import example_arguments

    how = next((method for method in EXPORT_METHODS if method == options.how), None)
    if how is None and options.how is not None:
        raise ConfigurationError(f"--how: expected one of {', '.join(EXPORT_METHODS)}; found {options.how!r}")
    example = example_arguments(options.example)
    programs, key = _programs(options), options.signing_key
    report = export_module(_module(options), example, directory, how=how, programs=programs, signing_key=key)
    for line in str(report).splitlines():
        print_line(line)


def _programs(options: ExportOptions) -> tuple[ProgramKind, ...]:
    return (*options.programs, *(("aot",) if options.aot else ()))


def _module(options: ExportOptions) -> "nn.Module":
    if options.module is None:
        from learner.export.module_source import load_pickled_module

        weights = _required(options.weights, "--module pkg.mod:Class, or --weights FILE with a whole pickled module")
        return load_pickled_module(weights, trust_pickle=options.trust_pickle)

    from learner.export.module_source import build_module

    return build_module(options.module, _arguments(options), options.weights)


def _arguments(options: ExportOptions) -> dict[str, Any]:
    try:
        arguments = json.loads(options.arguments)
    except ValueError as error:
        raise ConfigurationError(f"--arguments: expected JSON, found {options.arguments!r}: {error}") from error
    if not isinstance(arguments, dict):
        raise ConfigurationError(f"--arguments: expected a JSON object, found {options.arguments!r}")
    return arguments


def _spaces(env_id: str) -> tuple[Any, Any]:
    import gymnasium

    from shared.run.environment_description import creation_of, find_environment

    find_environment(env_id)
    with creation_of(env_id):
        env = gymnasium.make(env_id)
        env.close()
    return env.observation_space, env.action_space


def _required(value: _Value | None, expected: str) -> _Value:
    if value is None:
        raise ConfigurationError(f"expected {expected}")
    return value


command = partial(run_command, COMMAND, ExportOptions, main)
