"""The sandbox process: it loads and runs programs that may hang, crash or exhaust its memory.

Over its socket a request is one byte and the descriptor of a file that holds a SandboxRequest. The process replies with
one byte when the engine's library is imported, and with a SandboxReply at the end. All requests of a process are for
one engine: after the import of its library the process gives up every right that programs do not need.
"""

import gc
import importlib
import os
import socket
import sys
import timeit

import msgspec
from msgspec import UNSET

from actor.sandbox.confinement import ProgramLimits, confine, give_up_writing, limited
from actor.verification.probe_verifier import ModuleVerifier, ProbeVerifier
from shared.engines.engine import EngineKind
from shared.engines.load import load_program
from shared.operators.program_trust import ProgramTrust
from shared.policy.manifest import Manifest, decode_manifest
from shared.policy.probe import decode_probe
from shared.policy.weights import decode_weights
from shared.process.process_guard import die_with, parent_pid, watch_lifeline

BEGUN = b"b"  # the reply once the engine's library is imported: the program's time limit starts
_MESSAGE = b"t"
_CALLS = 5
_MOST_CHARACTERS = 2000  # of an error's message
# The actor checks operators, and the permission for native code, before it sends a program.
_CHECKED_BY_ACTOR = ProgramTrust(native=True, programs=True)


class SandboxRequest(msgspec.Struct, frozen=True):
    """One program: ``files`` by their names in the manifest."""

    kind: EngineKind
    manifest_bytes: bytes
    files: dict[str, bytes]
    batch_size: int
    limits: ProgramLimits


class SandboxReply(msgspec.Struct, frozen=True):
    """The result: ``call_s``, the fastest call at the batch size in use, or the class name and text of an error."""

    call_s: float = 0.0
    error: str | None = None
    message: str = ""


def main() -> None:
    """Run the requested programs, one after another, until the actor closes the socket."""
    die_with(parent_pid())
    if is_confined := sys.argv[2] != "aot":  # native code, which the user permits to do anything
        give_up_writing()
    channel = socket.socket(fileno=int(sys.argv[1]))
    if sys.argv[2] in ("llvm", "onnx"):
        _import_engine(sys.argv[2])  # before the first request, which is expected to need it
    is_ready = False
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not message or not descriptors:
            return
        with os.fdopen(descriptors[0], "rb") as file:
            request = msgspec.msgpack.decode(file.read(), type=SandboxRequest)
        if not is_ready:
            _import_engine(request.kind)
            if is_confined:
                confine()
            is_ready = True
            watch_lifeline()  # its thread inherits the confinement
        channel.sendall(BEGUN)
        reply = msgspec.msgpack.encode(_run_program(request))
        channel.sendall(len(reply).to_bytes(4, "little") + reply)
        del request
        gc.collect()


def send_request(channel: socket.socket, descriptor: int) -> None:
    """Send an open file that holds a SandboxRequest to the process."""
    socket.send_fds(channel, [_MESSAGE], [descriptor])


def _run_program(request: SandboxRequest) -> SandboxReply:
    try:
        with limited(request.limits):
            return SandboxReply(call_s=_call_s(request))
    except Exception as error:  # noqa: BLE001 - the actor decides by the type and the message
        return SandboxReply(error=type(error).__name__, message=str(error)[:_MOST_CHARACTERS])


def _call_s(request: SandboxRequest) -> float:
    """Verify all outputs of the program, and return the seconds of its fastest call."""
    manifest = decode_manifest(request.manifest_bytes)
    verifier = _verifier(request, manifest)
    engine = load_program(
        request.kind,
        request.files.__getitem__,
        manifest,
        trust=_CHECKED_BY_ACTOR,
        batch_size=request.batch_size,
    )
    verifier.verify(engine.run)
    if isinstance(verifier, ProbeVerifier):
        verifier.verify_purity(engine, decode_weights(request.files[manifest.weights]))
    return min(timeit.repeat(lambda: engine.run(verifier.inputs), number=1, repeat=_CALLS))


def _verifier(request: SandboxRequest, manifest: Manifest) -> ProbeVerifier | ModuleVerifier:
    data = request.files[manifest.probe.file]
    if manifest.module is not UNSET:
        return ModuleVerifier(manifest, data, manifest.module)
    probe = decode_probe(data, manifest.signature)
    return ProbeVerifier(manifest, probe, request.batch_size)


def _import_engine(kind: str) -> None:
    """Import the engine's library before the limits apply: an import may take seconds and hundreds of megabytes."""
    importlib.import_module(f"shared.engines.{kind}")


if __name__ == "__main__":
    main()
