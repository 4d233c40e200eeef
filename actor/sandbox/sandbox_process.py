"""The process in which a program that nobody has seen before is tried: it may hang, crash or eat all memory here.

``actor.sandbox.program_sandbox`` starts it, and talks to it over a socket: a request is one byte and a descriptor
of a file with
a SandboxRequest in it; it is answered by one byte once the engine's library is there, and by a SandboxReply at the end.
"""

import gc
import os
import resource
import socket
import sys
import time
from pathlib import Path

import msgspec

from actor.verification.probe_verifier import ProbeVerifier
from shared.engines.engine import Engine, EngineKind
from shared.engines.load import load_program
from shared.policy.manifest import decode_manifest
from shared.policy.probe import decode_probe
from shared.process.process_guard import die_with_parent

BEGUN = b"b"
"""From here on the time that the program takes counts."""
_MESSAGE = b"t"
_CALLS = 5
_PAGE_BYTES = resource.getpagesize()


class SandboxRequest(msgspec.Struct, frozen=True):
    """One program, whose files were verified, and what it is to be held to. ``memory_bytes`` is beside what is there.

    ``files`` are those that the program needs, the weights and the probe, by their names in the manifest.
    """

    kind: EngineKind
    manifest_bytes: bytes
    files: dict[str, bytes]
    batch_size: int
    memory_bytes: int


class SandboxReply(msgspec.Struct, frozen=True):
    """``call_s`` is the least time of a call at the batch size in use. ``error`` names the class of what it raised."""

    call_s: float = 0.0
    error: str | None = None
    message: str = ""


def main() -> None:
    """Try what is asked for, one program after another, until the other side is gone."""
    die_with_parent()
    channel = socket.socket(fileno=int(sys.argv[1]))
    _warm_up(sys.argv[2:])
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not message or not descriptors:
            return
        with os.fdopen(descriptors[0], "rb") as file:
            request = msgspec.msgpack.decode(file.read(), type=SandboxRequest)
        _import_engine(request.kind)
        channel.sendall(BEGUN)
        reply = msgspec.msgpack.encode(_try_program(request))
        channel.sendall(len(reply).to_bytes(4, "little") + reply)
        del request
        gc.collect()


def send_request(channel: socket.socket, descriptor: int) -> None:
    """Hand an open file with a SandboxRequest to the other side."""
    socket.send_fds(channel, [_MESSAGE], [descriptor])


def _try_program(request: SandboxRequest) -> SandboxReply:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + request.memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        return SandboxReply(call_s=_call_s(*_load(request)))
    except Exception as error:  # noqa: BLE001 - the other side decides: it is told the type and the message
        return SandboxReply(error=type(error).__name__, message=str(error))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _load(request: SandboxRequest) -> tuple[Engine, ProbeVerifier]:
    """The engine that the actor would act with, and the probe that it has answered rightly."""
    manifest = decode_manifest(request.manifest_bytes)
    probe = decode_probe(request.files[manifest.probe.file], manifest.signature)
    verifier = ProbeVerifier(manifest, probe, request.batch_size)
    # Native code gets here only where a person allowed it: the actor asks for nothing else.
    engine = load_program(request.kind, request.files.__getitem__, manifest, trust_native=True)
    verifier.check(engine.run)
    return engine, verifier


def _call_s(engine: Engine, verifier: ProbeVerifier) -> float:
    least_s = float("inf")
    for _ in range(_CALLS):
        began_s = time.perf_counter()
        engine.run(verifier.inputs)
        least_s = min(least_s, time.perf_counter() - began_s)
    return least_s


def _warm_up(kinds: list[str]) -> None:
    """Import what will be needed first, while nobody waits for it."""
    for kind in ("llvm", "onnx"):
        if kind in kinds[:1]:
            _import_engine(kind)


def _import_engine(kind: EngineKind) -> None:
    """An import may take seconds and hundreds of megabytes, of which no program is to be blamed."""
    if kind == "llvm":
        import shared.engines.llvm
    elif kind == "onnx":
        import shared.engines.onnx
    elif kind == "torchscript":
        import shared.engines.torchscript
    elif kind == "aot":
        import shared.engines.aot  # noqa: F401


def _data_bytes() -> int:
    """What this process has of data now. Without /proc (which RLIMIT_DATA's meaning is Linux's anyhow): nothing."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[5]) * _PAGE_BYTES if status.exists() else 0


if __name__ == "__main__":
    main()
