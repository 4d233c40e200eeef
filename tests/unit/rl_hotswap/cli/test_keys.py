import stat
from pathlib import Path

import pytest

from rl_hotswap.cli.keys import COMMAND, KeysOptions, main
from shared.policy.signing import PublicKey, SigningKey
from shared.process.command_line import run_command


def keys(*arguments: object) -> int:
    return run_command(COMMAND, KeysOptions, main, [str(argument) for argument in arguments])


def test_a_pair_is_made_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "new" / "keys"
    assert keys("make", directory) == 0
    said = capsys.readouterr().out
    private, public = directory / "signing_key.pem", directory / "public_key.pem"
    key = SigningKey.read(private)
    assert PublicKey.read(public) == key.public
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert str(key.public) in said
    assert private.read_text().splitlines()[1] not in said
    for file in (private, public):
        assert keys("show", file) == 0
        assert capsys.readouterr().out == f"{key.public}\n"


@pytest.mark.parametrize("there", ["signing_key.pem", "public_key.pem"])
def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    (tmp_path / there).write_text("a key of yesterday")
    assert keys("make", tmp_path) == 2
    assert f"{there} exists, and keys are never overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "a key of yesterday"


def test_what_cannot_be_done_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("no key")
    for arguments, said in (
        (("make", tmp_path / "file"), "exists, and keys are never overwritten"),
        (("show", tmp_path / "file"), "is not a public key in PEM"),
        (("show", tmp_path / "nowhere"), "cannot read the key"),
        (("lose", tmp_path), "invalid choice"),
    ):
        assert keys(*arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("rl-hotswap keys: ")
        assert said in line
