import io
import os
import pickle
import subprocess
import sys
import zipfile
import zlib

import pytest
import torch

from shared.errors import ProgramError
from shared.policy import torchscript_archive
from shared.policy.program_digest import program_digest
from shared.scripting.scripting import save_archive, script
from tests.support.tiny_policy import TinyPolicy


def archive(seed: int = 0, hidden: int = 8) -> bytes:
    torch.manual_seed(seed)
    return save_archive(script(TinyPolicy(hidden).eval()))


def rewritten(data: bytes, change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return the archive with the entries whose names end as in ``change`` replaced, or added."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        left = dict(change)
        for info in old.infolist():
            ending = next((ending for ending in left if info.filename.endswith(ending)), None)
            new.writestr(info.filename, old.read(info) if ending is None else left.pop(ending))
        for name, content in left.items():
            new.writestr(f"archive/{name}", content)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return program_digest("torchscript", data)


def test_other_weights_same_program_and_another_network_another() -> None:
    assert archive(seed=0) != archive(seed=1)
    assert digest(archive(seed=0)) == digest(archive(seed=1)) != digest(archive(hidden=9))


def test_two_saves_of_one_module_with_other_weights() -> None:
    policy = TinyPolicy().eval()
    scripted = script(policy)
    before = save_archive(scripted)
    with torch.no_grad():
        policy.body.weight.add_(1.0)
    after = save_archive(scripted)
    assert before != after
    assert digest(before) == digest(after)


@pytest.mark.parametrize("method", ["script", "trace"])
def test_a_learner_that_starts_again_makes_the_same_program(method: str) -> None:
    code = (
        "import torch\n"
        "from shared.policy.program_digest import program_digest\n"
        "from shared.scripting.scripting import save_archive, script_or_trace\n"
        "from tests.support.tiny_policy import TinyPolicy\n"
        f"refused = [] if {method!r} == 'script' else ['script']\n"
        "def check(program):\n"
        "    if refused: raise RuntimeError(refused.pop())\n"
        "    return 0.0\n"
        "scripted, _ = script_or_trace(TinyPolicy().eval(), [torch.zeros(3, 4), torch.zeros(3, 3)], check)\n"
        f"assert scripted.method == {method!r}\n"
        "print(program_digest('torchscript', save_archive(scripted.module)))\n"
    )
    digests = set()
    for hash_seed in "12":  # torch's output depends on it
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        digests.add(subprocess.check_output([sys.executable, "-c", code], text=True, env=env).strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


_PROGRAM = ("data.pkl", "/linear.py", "constants.pkl", "code/__torch__/new.py", "constants/0")
_IGNORED = ("data/0", ".data/serialization_id", "linear.py.debug_pkl", "traced_inputs/0")


@pytest.mark.parametrize("entry", [*_PROGRAM, *_IGNORED])
def test_digest_covers_every_entry_but_weights_and_metadata(entry: str) -> None:
    original = archive()
    other = pickle.dumps("something else", protocol=2) if entry == "data.pkl" else b"something else"
    assert (digest(rewritten(original, {entry: other})) == digest(original)) is (entry in _IGNORED)


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip file", archive()[:-30], archive()[-500:]])
def test_files_that_are_not_archives_are_refused(data: bytes) -> None:
    with pytest.raises(ProgramError, match="archive"):
        program_digest("torchscript", data)


def test_a_flipped_bit_in_the_program_is_refused() -> None:
    data = bytearray(archive())
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        info = next(info for info in opened.infolist() if info.filename.endswith("data.pkl"))
        inside = opened.read(info)
    data[data.index(inside) + 40] ^= 1
    with pytest.raises(ProgramError, match="CRC"):
        program_digest("torchscript", bytes(data))


def test_an_archive_that_unpacks_to_too_much_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = rewritten(archive(), {"code/__torch__/new.py": bytes(10 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**20
    program_digest("torchscript", bomb)
    monkeypatch.setattr(torchscript_archive, "MAX_PROGRAM_BYTES", 2**20)
    with pytest.raises(ProgramError, match="bytes unpacked"):
        program_digest("torchscript", bomb)


def test_two_entries_of_one_name_are_refused() -> None:
    buffer = io.BytesIO(archive())
    with zipfile.ZipFile(buffer, "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        opened.writestr(opened.namelist()[0], b"twice")
    with pytest.raises(ProgramError, match="unique entries"):
        program_digest("torchscript", buffer.getvalue())


def test_zlib_errors_are_mapped() -> None:
    data = bytearray(rewritten(archive(), {"constants.pkl": b"x" * 1000}, zipfile.ZIP_DEFLATED))
    compressed = zlib.compress(b"x" * 1000, wbits=-15)
    at = data.index(compressed)
    data[at : at + 4] = b"\xff\xff\xff\xff"
    with pytest.raises(ProgramError):
        program_digest("torchscript", bytes(data))
