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
from shared.policy.program_digest import program_digest, torchscript_digest
from shared.policy.torchscript_archive import read_archive
from shared.scripting.scripting import save_archive, script
from tests.support.script_archives import small_archive
from tests.support.script_pickles import StorageId, opcodes, pickled, pickled_global, pickled_object
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


@pytest.mark.slow
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

    def in_a_new_process(hash_seed: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}  # torch's output depends on it
        return subprocess.check_output([sys.executable, "-c", code], text=True, env=env).strip()

    # Another test of this process may have compiled the class already, and given its types other names.
    there = in_a_new_process("1")
    assert there == in_a_new_process("2")
    assert len(there) == 64


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


_CODE = b"""\
class Small(Module):
  __parameters__ = ["weight", ]
  __buffers__ = ["count", ]
  weight : Tensor
  count : Tensor
  a : Final[int] = 1
  b : Final[int] = 2
  scale : Tensor
"""
_STATE = {"weight": StorageId("0"), "count": StorageId("1"), "scale": StorageId("2"), "steps": 3}
_ENTRIES = {
    "data.pkl": pickled_object(_STATE),
    "code/__torch__/m.py": _CODE,
    "data/0": b"weight",
    "data/1": b"count",
    "data/2": b"scale",
    ".data/serialization_id": b"1",
    "version": b"3\n",
}


def test_the_digest_of_a_program_never_changes() -> None:
    """Actors compare it with the one that a learner of another release has written."""
    assert torchscript_digest(_ENTRIES) == "ff5820980d67ef1132ecc520b54ee6a3bb0d610af43c2ad941893eec7b4a077b"
    assert program_digest("onnx", b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(("entry", "is_program"), [("data/0", False), ("data/1", False), ("data/2", True)])
def test_only_parameters_and_buffers_are_weights(entry: str, is_program: bool) -> None:
    changed = {**_ENTRIES, entry: b"another"}
    assert (torchscript_digest(changed) != torchscript_digest(_ENTRIES)) is is_program


def test_a_tensor_that_torch_saves_as_an_attribute_belongs_to_the_program() -> None:
    entries = read_archive(small_archive())
    digests = {torchscript_digest({**entries, name: bytes(12)}) for name in ("data/0", "data/1", "data/2")}
    assert len(digests | {torchscript_digest(entries)}) == 2


def test_the_order_of_constants_does_not_matter() -> None:
    lines = _CODE.splitlines(keepends=True)
    swapped = b"".join([*lines[:5], lines[6], lines[5], *lines[7:]])
    assert swapped != _CODE
    assert torchscript_digest({**_ENTRIES, "code/__torch__/m.py": swapped}) == torchscript_digest(_ENTRIES)
    text = {"data.pkl": pickled(None), "constants.txt": _CODE}
    assert torchscript_digest(text) != torchscript_digest({**text, "constants.txt": swapped})


@pytest.mark.parametrize(
    ("path", "module"), [("code/__torch__/m.txt", "__torch__.m.txt"), ("__torch__/m.py", "__torch__.m")]
)
def test_only_code_says_which_tensors_are_weights(path: str, module: str) -> None:
    entries = {**_ENTRIES, "data.pkl": pickled_object(_STATE, module), path: _CODE}
    del entries["code/__torch__/m.py"]
    assert torchscript_digest({**entries, "data/0": b"another"}) != torchscript_digest(entries)


def test_an_object_that_contains_itself_is_visited_once() -> None:
    contained = (
        opcodes(pickled("self")) + b"h\x63s" + opcodes(pickled("weight")) + opcodes(pickled(StorageId("0"))) + b"s"
    )
    data = pickled_global("__torch__.m", "Small", b")\x81q\x63}" + contained + b"b")
    entries = {**_ENTRIES, "data.pkl": data}
    assert torchscript_digest({**entries, "data/0": b"another"}) == torchscript_digest(entries)


def test_a_number_of_the_name_of_a_weight_is_none() -> None:
    assert len(torchscript_digest({**_ENTRIES, "data.pkl": pickled_object({"weight": 3})})) == 64


def test_only_constants_of_a_class_are_put_in_order() -> None:
    """The last item of a dict decides if keys are equal; such lines once looked like constants."""
    code = next(name for name in read_archive(archive()) if name.endswith("tiny_policy.py"))

    def with_lines(*lines: str) -> str:
        return digest(rewritten(archive(), {code: "".join(f"{line}\n" for line in lines).encode()}))

    first, second = "  a : Final[int] = 1", "  b : Final[List[int]] = [2]"
    assert with_lines("class C(Module):", first, second) == with_lines("class C(Module):", second, first)
    first, second = "  a : Final[0],", "  b : Final[1],"
    assert with_lines("    d = {", first, second, "  }") != with_lines("    d = {", second, first, "  }")
    first, second = "  a : Final[0] == c,", "  b : Final[1] == c,"
    assert with_lines("    d = {", first, second, "  }") != with_lines("    d = {", second, first, "  }")
