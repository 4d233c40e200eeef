"""The socket to a sandbox process that a program has taken over."""

import sys
from pathlib import Path

import msgspec
import pytest

from actor.sandbox.confinement import ProgramLimits
from actor.sandbox.sandbox_process import SandboxReply, SandboxRequest
from actor.sandbox.side_process import SandboxClient, SandboxEnded

_IMPOSTOR = """#!{python}
import socket, sys
channel = socket.socket(fileno=int(sys.argv[4]))
channel.recv(1)
channel.sendall({reply!r})
channel.recv(1)
"""


def _framed(reply: bytes) -> bytes:
    return len(reply).to_bytes(4, "little") + reply


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (_framed(b"garbage"), "sent no valid reply"),
        (_framed(msgspec.msgpack.encode({"call_s": "fast"})), "sent no valid reply"),
        (_framed(msgspec.msgpack.encode(SandboxReply(call_s=float("nan")))), "measured nan seconds"),
        (_framed(msgspec.msgpack.encode(SandboxReply(call_s=-1.0))), "measured -1.0 seconds"),
        (b"\xff\xff\xff\xff" + bytes(2**17), "sent no valid reply"),
    ],
    ids=["no message", "another message", "NaN", "negative", "4 GB"],
)
def test_a_false_reply_counts_as_a_crash(
    reply: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = tmp_path / "python"
    impostor.write_text(_IMPOSTOR.format(python=sys.executable, reply=b"b" + reply))
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))
    client = SandboxClient("onnx")
    limits = ProgramLimits(memory_bytes=2**20, cpu_s=1.0, file_bytes=0)
    with pytest.raises(SandboxEnded, match=said) as caught:
        client.request(SandboxRequest("onnx", b"", {}, 1, limits), 60.0)
    client.close()
    assert caught.value.is_crash
