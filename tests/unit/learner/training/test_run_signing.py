from pathlib import Path

import pytest

from learner.training.run_signing import signing_key_for
from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
from tests.support.captured_logs import CapturedLogs
from tests.support.sample_versions import SIGNATURE


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
