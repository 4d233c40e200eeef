"""The sandbox process: it loads and runs programs that may hang, crash or exhaust its memory.

Over its socket a request is one byte and the descriptor of a file that holds a SandboxRequest. The process replies with
one byte when the engine's library is imported, and with a SandboxReply at the end.
"""

import gc
import importlib
import os
import resource
import socket
import sys
import timeit
from pathlib import Path

import msgspec

from actor.verification.probe_verifier import ProbeVerifier
from shared.engines.engine import EngineKind
from shared.engines.load import load_program
from shared.policy.manifest import decode_manifest
from shared.policy.probe import decode_probe
from shared.process.process_guard import die_with_parent

BEGUN = b"b"  # the reply once the engine's library is imported: the program's time limit starts
_MESSAGE = b"t"
_CALLS = 5
_PAGE_BYTES = resource.getpagesize()


class SandboxRequest(msgspec.Struct, frozen=True):
    """One program: ``files`` by their names in the manifest; ``memory_bytes`` beyond those that the process has."""

    kind: EngineKind
    manifest_bytes: bytes
    files: dict[str, bytes]
    batch_size: int
    memory_bytes: int


class SandboxReply(msgspec.Struct, frozen=True):
    """The result: ``call_s``, the fastest call at the batch size in use, or the class name and text of an error."""

    call_s: float = 0.0
    error: str | None = None
    message: str = ""


def main() -> None:
    """Run the requested programs, one after another, until the actor closes the socket."""
    die_with_parent()
    channel = socket.socket(fileno=int(sys.argv[1]))
    if sys.argv[2] in ("llvm", "onnx"):
        _import_engine(sys.argv[2])  # before the first request, which is expected to need it
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not message or not descriptors:
            return
        with os.fdopen(descriptors[0], "rb") as file:
            request = msgspec.msgpack.decode(file.read(), type=SandboxRequest)
        _import_engine(request.kind)
        channel.sendall(BEGUN)
        reply = msgspec.msgpack.encode(_run_program(request))
        channel.sendall(len(reply).to_bytes(4, "little") + reply)
        del request
        gc.collect()


def send_request(channel: socket.socket, descriptor: int) -> None:
    """Send an open file that holds a SandboxRequest to the process."""
    socket.send_fds(channel, [_MESSAGE], [descriptor])


def _run_program(request: SandboxRequest) -> SandboxReply:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + request.memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        return SandboxReply(call_s=_call_s(request))
    except Exception as error:  # noqa: BLE001 - the actor decides by the type and the message
        return SandboxReply(error=type(error).__name__, message=str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _call_s(request: SandboxRequest) -> float:
    """Verify the program and return the seconds of its fastest call."""
    manifest = decode_manifest(request.manifest_bytes)
    probe = decode_probe(request.files[manifest.probe.file], manifest.signature)
    verifier = ProbeVerifier(manifest, probe, request.batch_size)
    # The actor requests native code only with the user's permission.
    engine = load_program(request.kind, request.files.__getitem__, manifest, trust_native=True)
    verifier.verify(engine.run)
    return min(timeit.repeat(lambda: engine.run(verifier.inputs), number=1, repeat=_CALLS))


def _import_engine(kind: str) -> None:
    """Import the engine's library before the limits apply: an import may take seconds and hundreds of megabytes."""
    importlib.import_module(f"shared.engines.{kind}")


def _data_bytes() -> int:
    """Return the size of this process's data segment, or 0 without /proc (only Linux limits it by RLIMIT_DATA)."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[5]) * _PAGE_BYTES if status.exists() else 0


if __name__ == "__main__":
    main()
