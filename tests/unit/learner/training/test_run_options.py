import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from learner.ppo.learner_config import LearnerConfig
from learner.training.run_options import LearnerRun, signing_key_for, to_flags
from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from tests.support.captured_logs import CapturedLogs
from tests.support.paths import REPOSITORY
from tests.support.sample_versions import SIGNATURE


def test_flags_without_any_give_the_defaults() -> None:
    assert tyro.cli(LearnerRun, args=[]) == LearnerRun()


@given(
    st.builds(
        LearnerRun,
        env=st.sampled_from(["CartPole-v1", "ALE/Pong-v5", "my.package:Mine-v0"]),
        env_kwargs=st.sampled_from(["{}", '{"render_mode": null, "a b": [1, -2.5, "--x"]}']),
        run_dir=st.none() | st.just(Path("runs/with a space")),
        resume=st.booleans(),
        seed=st.integers(0, 2**31),
        target_return=st.none() | st.floats(allow_nan=False),
        total_steps=st.none() | st.integers(1, 10**12),
        max_seconds=st.none() | st.floats(1e-9, 1e9),
        learner=st.builds(
            LearnerConfig,
            network=st.sampled_from(["mlp", "lstm", "gru"]),
            hidden_sizes=st.lists(st.integers(1, 512), max_size=3).map(tuple),
            initial_log_std=st.floats(-5, 5),
            learning_rate=st.floats(1e-9, 1.0),
            max_grad_norm=st.none() | st.just(0.5),
        ),
        programs=st.sampled_from([(), ("aot",), ("importable", "aot")]),
        supervised=st.booleans(),
    )
)
def test_options_survive_the_way_through_a_command_line(options: LearnerRun) -> None:
    assert tyro.cli(LearnerRun, args=to_flags(options)) == options


def test_a_later_flag_wins_over_an_earlier_one() -> None:
    """Resuming relies on it: the flags of the run, then those that were given now."""
    stored = to_flags(LearnerRun(seed=3, total_steps=10, learner=LearnerConfig(hidden_sizes=(8, 8))))
    again = tyro.cli(LearnerRun, args=[*stored, "--total-steps", "20", "--hidden-sizes", "4"])
    assert (again.seed, again.total_steps, again.learner.hidden_sizes) == (3, 20, (4,))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"env_kwargs": "[1]"}, "--env-kwargs must be a JSON object"),
        ({"env_kwargs": "{"}, "--env-kwargs must be a JSON object"),
        ({"total_steps": 0}, "--total-steps must be above 0; found 0"),
        ({"max_seconds": -1.0}, "--max-seconds must be above 0"),
        ({"publish_every_s": float("nan")}, "--publish-every-s must be above 0"),
        ({"target_return": float("nan")}, "--target-return must be a number"),
        ({"seed": -1}, "--seed must be at least 0"),
        ({"seed": 2**63}, "--seed must be at least 0 and below 2**63; found 9223372036854775808"),
    ],
)
def test_a_bad_value_is_refused_by_its_flag(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        LearnerRun(**wrong)
    assert said in str(refusal.value)


def test_reading_flags_does_not_import_torch() -> None:
    program = "import sys, learner.training.run_options; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def key_file(path: Path) -> tuple[Path, SigningKey]:
    key = SigningKey.generate()
    path.write_bytes(key.pem())
    path.chmod(0o600)
    return path, key


def run_signed_with(path: Path, public_key: str | None) -> RunDirectory:
    run = RunDirectory(path).create()
    run.write_run_config(
        RunConfig("run", "CartPole-v1", {}, 0, 16, SIGNATURE, "ipc://@run", policy_public_key=public_key)
    )
    return run


def test_a_new_run_is_signed_if_a_key_is_given(tmp_path: Path) -> None:
    path, key = key_file(tmp_path / "key.pem")
    run = RunDirectory(tmp_path / "run")
    assert signing_key_for(run, None) is None
    assert signing_key_for(run, path).public == key.public  # type: ignore[union-attr]


def test_a_signed_run_cannot_continue_unsigned(tmp_path: Path) -> None:
    path, key = key_file(tmp_path / "key.pem")
    run = run_signed_with(tmp_path / "run", str(key.public))
    with pytest.raises(ConfigurationError, match="name the private key again by --signing-key FILE"):
        signing_key_for(run, None)
    assert signing_key_for(run, path).public == key.public  # type: ignore[union-attr]
    assert str(path) not in (run.path / "run.json").read_text()


def test_an_unsigned_run_may_begin_to_sign(tmp_path: Path) -> None:
    path, _ = key_file(tmp_path / "key.pem")
    run = run_signed_with(tmp_path / "run", None)
    assert signing_key_for(run, None) is None
    assert signing_key_for(run, path) is not None


def test_another_key_is_accepted_and_logged(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    path, key = key_file(tmp_path / "key.pem")
    before = SigningKey.generate().public
    signing_key_for(run_signed_with(tmp_path / "run", str(before)), path)
    assert f"before={before} now={key.public}" in captured_logs.messages("WARNING")[0]
