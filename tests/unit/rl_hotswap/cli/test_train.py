"""What can be told without starting a training; ``tests/integration/test_train.py`` starts them."""

import errno
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import tyro

from actor.session.actor_settings import ActorSettings
from learner.ppo.learner_config import LearnerConfig
from learner.training.run_options import LearnerRun, RunOptions, to_flags
from rl_hotswap.cli import train
from rl_hotswap.cli.train import TrainOptions, _keep_options, actor_command, conclusion, learner_command
from rl_hotswap.cli.train import command as main
from rl_hotswap.launcher.acting_options import SingleProcessRun
from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.rollouts.rollout import RolloutAccounts
from shared.run.progress import Summary
from shared.run.run_directory import RunDirectory

_LEARNER = LearnerConfig(network="lstm", hidden_sizes=(16, 8), learning_rate=3e-4)
_ACTING = {"env": "Acrobot-v1", "env_kwargs": '{"max_episode_steps": 100}', "actors": 3, "envs_per_actor": 4}
_OPTIONS = TrainOptions(**_ACTING, seed=5, engine="onnx", target_return=-100.5, learner=_LEARNER)
_NUMBERS = (True, 61_440, 6.0, 5.25, 487.25, 1e4, 31, 60, 0, RolloutAccounts(), 0)
_SUMMARY = Summary(**dict(zip(Summary.__struct_fields__, _NUMBERS, strict=False)))


def _flags(command: list[str], module: str) -> list[str]:
    assert command[1:4] == ["-P", "-m", module]
    return command[4:]


def test_the_learner_is_told_everything(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    told = tyro.cli(LearnerRun, args=_flags(learner_command(_OPTIONS, run, 0, 0.0), "learner.run"))
    assert told.supervised
    assert told.run_dir == tmp_path
    for name in RunOptions.__dataclass_fields__:
        if name != "run_dir":
            assert getattr(told, name) == getattr(_OPTIONS, name), name


@pytest.mark.parametrize(("flags", "deadline_s"), [([], 10.0), (["--call-deadline-s=0"], 0.0)])
def test_actors_get_the_deadline_of_their_calls(flags: list[str], deadline_s: float, tmp_path: Path) -> None:
    options = tyro.cli(TrainOptions, args=flags)
    command = actor_command(options, RunDirectory(tmp_path), 0, 0)
    assert tyro.cli(ActorSettings, args=_flags(command, "actor.run")).call_deadline_s == deadline_s


@pytest.mark.parametrize(
    ("flags", "passed"),
    [
        ([], []),
        (["--engine=aot", "--programs", "aot", "--trust-native"], ["--trust-native"]),
        (["--engine=compile", "--programs", "aot", "importable"], ["--trust-module=learner"]),
    ],
)
def test_actors_may_run_what_the_training_publishes(flags: list[str], passed: list[str], tmp_path: Path) -> None:
    options = tyro.cli(TrainOptions, args=flags)
    command = actor_command(options, RunDirectory(tmp_path), 0, 0)
    assert [flag for flag in command if flag.startswith("--trust")] == passed
    assert tyro.cli(ActorSettings, args=_flags(command, "actor.run")).engine == options.engine
    assert tyro.cli(TrainOptions, args=to_flags(options)) == options


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--engine=aot", "--programs", "aot"], "--trust-native"),
        (["--engine=aot", "--trust-native"], "add --programs aot"),
        (["--engine=eager"], "add --programs importable"),
    ],
)
def test_an_engine_that_could_never_act_is_a_mistake(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tyro.cli(TrainOptions, args=flags)


def test_a_learner_that_is_started_again_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path).create()
    assert "--no-resume" in learner_command(_OPTIONS, run, 1, 0.0)
    (run.checkpoints / "checkpoint-000000001.pt").touch()
    assert "--resume" in learner_command(_OPTIONS, run, 1, 0.0)
    assert "--resume" in learner_command(replace(_OPTIONS, resume=True), run, 0, 0.0)


@pytest.mark.parametrize(
    ("limit_s", "starts", "elapsed_s", "left_s"),
    [(60.0, 0, 2.5, 60.0), (60.0, 1, 22.5, 37.5), (60.0, 4, 61.0, 0.001), (None, 1, 22.5, None)],
)
def test_a_learner_that_is_started_again_has_what_is_left_of_the_time(
    limit_s: float | None, starts: int, elapsed_s: float, left_s: float | None, tmp_path: Path
) -> None:
    command = learner_command(replace(_OPTIONS, max_seconds=limit_s), RunDirectory(tmp_path), starts, elapsed_s)
    assert tyro.cli(LearnerRun, args=_flags(command, "learner.run")).max_seconds == left_s


def test_without_actors_one_process_acts_and_learns(tmp_path: Path) -> None:
    command = learner_command(replace(_OPTIONS, actors=0), RunDirectory(tmp_path), 0, 0.0)
    assert tyro.cli(SingleProcessRun, args=_flags(command, "rl_hotswap.launcher.single_process")).env == "Acrobot-v1"


def test_an_actor_is_told_what_it_needs(tmp_path: Path) -> None:
    command = actor_command(_OPTIONS, RunDirectory(tmp_path), 2, 0)
    told = tyro.cli(ActorSettings, args=_flags(command, "actor.run"))
    assert (told.env, told.run_dir, told.envs, told.engine) == ("Acrobot-v1", tmp_path, 4, "onnx")
    assert (told.name, told.supervised, told.send, told.follow) == ("actor-2", True, True, "newest")
    assert (told.canary, told.prefetch) == (None, True)
    command = actor_command(replace(_OPTIONS, canary=0.125, prefetch=False), RunDirectory(tmp_path), 2, 0)
    told = tyro.cli(ActorSettings, args=_flags(command, "actor.run"))
    assert (told.canary, told.prefetch) == (0.125, False)


@pytest.mark.parametrize("flags", [["--canary=0"], ["--canary=1"], ["--canary=nan"], ["--canary=0.5", "--actors=0"]])
def test_a_canary_needs_a_share_and_actors(flags: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="--canary must be above 0"):
        tyro.cli(TrainOptions, args=flags)


def test_actors_are_told_the_public_key_of_what_the_learner_signs_with(tmp_path: Path) -> None:
    run, key = RunDirectory(tmp_path), SigningKey.generate()
    signed = replace(_OPTIONS, signing_key=tmp_path / "key.pem")
    assert f"--signing-key={tmp_path / 'key.pem'}" in learner_command(signed, run, 0, 0.0)
    command = actor_command(signed, run, 0, 0, public_key=key.public)
    assert tyro.cli(ActorSettings, args=_flags(command, "actor.run")).public_key == (str(key.public),)
    assert not any("key.pem" in word for word in command)
    assert tyro.cli(ActorSettings, args=_flags(actor_command(_OPTIONS, run, 0, 0), "actor.run")).public_key == ()


def test_no_two_actors_share_a_seed_nor_does_one_with_itself_before(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    seeds = {
        tyro.cli(ActorSettings, args=_flags(actor_command(options, run, index, starts), "actor.run")).seed
        for options in (_OPTIONS, replace(_OPTIONS, seed=6))
        for index in range(4)
        for starts in range(4)
    }
    assert len(seeds) == 32


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env=CartPol-v1"], "did you mean CartPole-v1"),
        (["--env-kwargs=[1]"], "--env-kwargs must be a JSON object"),
        (['--env-kwargs={"wings": 2}'], "wings"),
        (["--actors=-1"], "--actors must be at least 0"),
        (["--actors=some"], "--actors"),
        (["--network=cnn"], "'cnn'"),
        (["--learning-rate=0"], "learning_rate must be above 0"),
        (["--total-steps=0"], "--total-steps must be above 0"),
        (["--resume"], "nothing to resume: no checkpoint of CartPole-v1"),
        (["--resume", "--run-dir=empty"], "nothing to resume"),
        (["--run-dir=full"], "already holds a training"),
        (["--run-dir=file"], "cannot write into the run directory"),
        (["--run-dir=full", "--resume"], "expected a list of strings as flags"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_starts_nothing(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    full = RunDirectory(tmp_path / "full").create()
    (full.checkpoints / "checkpoint-000000001.pt").touch()
    full.write_options({"env": "CartPole-v1", "flags": "wrong"})
    (tmp_path / "file").touch()
    assert main(flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("rl-hotswap train: ")
    assert said in err
    assert err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"full", "file"}


def test_resuming_takes_the_flags_of_the_run_but_for_those_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run").create()
    (run.checkpoints / "checkpoint-000000001.pt").touch()
    stored = ["--env=Acrobot-v1", "--seed=7", "--network=lstm", "--target-return=-90.0", "--total-steps=100"]
    run.write_options({"env": "Acrobot-v1", "flags": stored})
    begun: list[TrainOptions] = []
    monkeypatch.setattr(train, "train", lambda options, _run: begun.append(options) or 0)
    assert main(["--resume", f"--run-dir={run.path}", "--total-steps", "200"]) == 0
    (options,) = begun
    assert (options.env, options.seed, options.learner.network) == ("Acrobot-v1", 7, "lstm")
    assert (options.target_return, options.total_steps, options.resume) == (-90.0, 200, True)


def test_the_environments_own_threshold_is_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun: list[TrainOptions] = []
    monkeypatch.setattr(train, "train", lambda options, _run: begun.append(options) or 0)
    for flags in (["--env=CartPole-v1"], ["--env=Pendulum-v1"], ["--target-return=9"]):
        assert main(flags) == 0
    assert [options.target_return for options in begun] == [475.0, None, 9.0]


def test_the_conclusion_says_what_came_of_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert conclusion(_OPTIONS, run).startswith("no summary: the learner ended before it could write one; nothing was")
    run.write_summary(_SUMMARY)
    assert conclusion(_OPTIONS, run) == (
        f"solved in 5.2 s: mean return 487.2, target -100.5, 61,440 steps, 31 versions. The run is in {tmp_path}"
    )
    unsolved = msgspec.structs.replace(_SUMMARY, solved=False, time_to_target_s=None, mean_return=None)
    run.write_summary(unsolved)
    assert conclusion(_OPTIONS, run).startswith("not solved: no episode ended, 61,440 steps")
    assert conclusion(replace(_OPTIONS, target_return=None), run).startswith("ended: no episode ended")


def test_whoever_goes_on_as_before_writes_no_flags_and_a_full_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunDirectory(tmp_path).create()
    _keep_options(TrainOptions(), run)
    monkeypatch.setattr(RunDirectory, "write_options", no_room)
    _keep_options(TrainOptions(resume=True), run)
    with pytest.raises(ConfigurationError, match=r"cannot write the flags of this run to .*: No space left on device"):
        _keep_options(TrainOptions(resume=True, total_steps=7), run)


def test_actors_are_given_the_allowed_operators(tmp_path: Path) -> None:
    allowed = replace(_OPTIONS, allow_operator=("rand", "ops::own"), trust_program=True)
    for options in (_OPTIONS, allowed):
        settings = tyro.cli(
            ActorSettings, args=_flags(actor_command(options, RunDirectory(tmp_path), 0, 0), "actor.run")
        )
        assert (settings.allow_operator, settings.trust_program) == (options.allow_operator, options.trust_program)
    assert tyro.cli(TrainOptions, args=to_flags(allowed)) == allowed
