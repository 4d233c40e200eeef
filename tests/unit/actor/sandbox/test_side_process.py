"""The socket to a sandbox process that a program has taken over."""

import sys
from pathlib import Path

import msgspec
import pytest

from actor.sandbox.confinement import ProgramLimits
from actor.sandbox.program_sandbox import ProgramSandbox, SandboxLimits
from actor.sandbox.sandbox_process import SandboxReply, SandboxRequest
from actor.sandbox.side_process import SandboxClient, SandboxEnded
from shared.errors import TransientLoadError
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import publish_seed

_IMPOSTOR = """#!{python}
import socket, sys
channel = socket.socket(fileno=int(sys.argv[4]))
channel.recv(1)
channel.sendall({reply!r})
channel.recv(1)
"""


def _reply_with(reply: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next sandbox process be one that sends ``reply``."""
    impostor = tmp_path / "python"
    impostor.write_text(_IMPOSTOR.format(python=sys.executable, reply=b"b" + reply))
    impostor.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(impostor))


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
    _reply_with(reply, tmp_path, monkeypatch)
    client = SandboxClient("onnx")
    limits = ProgramLimits(memory_bytes=2**20, cpu_s=1.0, file_bytes=0)
    with pytest.raises(SandboxEnded, match=said) as caught:
        client.request(SandboxRequest("onnx", b"", {}, 1, limits), 60.0)
    client.close()
    assert caught.value.is_crash


def test_a_library_that_is_missing_there_condemns_no_version(
    store: LocalPolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files outside the usual places cannot be read after the confinement."""
    files = store.open(publish_seed(store, 0).version)
    reply = SandboxReply(error="ModuleNotFoundError", message="No module named 'torch.rare'")
    _reply_with(_framed(msgspec.msgpack.encode(reply)), tmp_path, monkeypatch)
    sandbox = ProgramSandbox(SandboxLimits(), batch_size=3)
    with pytest.raises(TransientLoadError, match=r"repair the installation.*torch\.rare"):
        sandbox.verify("torchscript", files)
    sandbox.close()
