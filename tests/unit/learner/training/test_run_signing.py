from pathlib import Path

import pytest
from loguru import logger

from learner.training.run_signing import signing_key_for
from shared.errors import ConfigurationError
from shared.policy.signing import SigningKey
from shared.run.run_config import RunConfig
from shared.run.run_directory import RunDirectory
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


def test_a_new_run_is_signed_or_not_as_it_is_asked(tmp_path: Path) -> None:
    path, key = key_file(tmp_path / "key.pem")
    run = RunDirectory(tmp_path / "run")
    assert signing_key_for(run, None) is None
    assert signing_key_for(run, path).public == key.public  # type: ignore[union-attr]


def test_a_run_that_signs_does_not_stop_to_unnoticed(tmp_path: Path) -> None:
    path, key = key_file(tmp_path / "key.pem")
    run = run_signed_with(tmp_path / "run", str(key.public))
    with pytest.raises(ConfigurationError, match="name the private key again by --signing-key FILE"):
        signing_key_for(run, None)
    assert signing_key_for(run, path).public == key.public  # type: ignore[union-attr]
    assert str(path) not in (run.path / "run.json").read_text()


def test_a_run_that_did_not_sign_may_begin_to(tmp_path: Path) -> None:
    path, _ = key_file(tmp_path / "key.pem")
    run = run_signed_with(tmp_path / "run", None)
    assert signing_key_for(run, None) is None
    assert signing_key_for(run, path) is not None


def test_another_key_is_taken_and_said(tmp_path: Path) -> None:
    path, key = key_file(tmp_path / "key.pem")
    before = SigningKey.generate().public
    said: list[str] = []
    sink = logger.add(said.append, level="WARNING", format="{message}")
    signing_key_for(run_signed_with(tmp_path / "run", str(before)), path)
    logger.remove(sink)
    assert f"before={before} now={key.public}" in said[0]
