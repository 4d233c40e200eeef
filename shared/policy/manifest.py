"""The manifest of a policy version, ``manifest.json``. It is written last: a version exists when its manifest does."""

import hashlib
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from shared.errors import ManifestError
from shared.files.digests import DigestName
from shared.files.strict_json import repeated_key
from shared.policy.manifest_checks import (
    check_module_signature,
    check_policy_signature,
    check_times,
    check_tolerances,
)
from shared.policy.signature import NOT_A_POLICY, ModuleSignature, PolicySignature

FORMAT_VERSION = 1
FORMAT_VERSIONS = (1, 2)
"""Formats that are read. In format 2 a file may have a BLAKE3 digest; format 1 is written where it suffices."""
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.sig"
MAX_MANIFEST_BYTES = 4 * 2**20
MAX_VERSION_BYTES = 8 * 2**30
MAX_FILES = 10_000

ProgramKind = Literal["torchscript", "onnx", "executorch", "aot", "importable"]

WEIGHTS_FILE = "weights.safetensors"
PROBE_FILE = "probe.safetensors"
TORCHSCRIPT_FILE = "policy.ts"
ONNX_FILE = "policy.onnx"
EXECUTORCH_FILE = "policy.pte"
AOT_FILE = "policy.pt2"
IMPORTABLE_FILE = "importable.json"
PROGRAM_FILES: Mapping[ProgramKind, str] = {
    "torchscript": TORCHSCRIPT_FILE,
    "onnx": ONNX_FILE,
    "executorch": EXECUTORCH_FILE,
    "aot": AOT_FILE,
    "importable": IMPORTABLE_FILE,
}

_FORMATS = " or ".join(map(str, FORMAT_VERSIONS))
_FORMAT_OF: Mapping[DigestName, int] = {"sha256": 1, "blake3": 2}

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Text = Annotated[str, msgspec.Meta(max_length=1000)]
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Size of a file of the version, and one digest of it in hexadecimal."""

    sha256: str | UnsetType = UNSET
    size_bytes: _Count
    blake3: str | UnsetType = UNSET

    @property
    def digest_name(self) -> DigestName:
        return "sha256" if self.blake3 is UNSET else "blake3"

    @property
    def hexdigest(self) -> str:
        """The digest of the name ``digest_name``. A manifest's check has found exactly one."""
        return str(self.sha256 if self.blake3 is UNSET else self.blake3)


class ProgramEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One executable form of the policy. ``program_digest`` excludes the weights (see ``program_digest``)."""

    kind: ProgramKind
    file: str
    program_digest: str


class ProbeEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """File of golden inputs and outputs, and the allowed difference ``atol + rtol * |expected|``."""

    file: str
    atol: float
    rtol: float


class MethodReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"method": "rung"}):
    """Result of one export method: the ``largest_difference`` from eager when it was taken, else the ``error``.

    ``by_batch_size`` has the difference for each batch size tried, ``by_named_size`` that for named sizes such as
    ``n=5,m=7``, and ``input_sets`` is the number of different sets of inputs at each batch size.
    """

    method: str
    taken: bool
    error: str | None = None
    largest_difference: float | None = None
    by_batch_size: dict[str, float] | UnsetType = UNSET
    by_named_size: dict[str, float] | UnsetType = UNSET
    input_sets: int | UnsetType = UNSET


class TrainingProgress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Progress of the training at publication; seconds count from the first environment step."""

    update: _Count = 0
    env_steps: _Count = 0
    train_s: float = 0.0
    mean_return: float | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """One policy version. ``files`` lists everything in the directory but the manifest and its signature.

    ``module`` is set for an exported module; after a rollback, ``restores`` is the version that the files come from.
    """

    version: Annotated[int, msgspec.Meta(ge=0, lt=10**18)]
    run_id: _Text
    env_id: _Text | None
    created_unix_s: float
    signature: PolicySignature
    programs: Annotated[tuple[ProgramEntry, ...], msgspec.Meta(max_length=MAX_FILES)]
    files: Annotated[dict[str, FileEntry], msgspec.Meta(max_length=MAX_FILES)]
    weights: str
    probe: ProbeEntry
    export: Annotated[tuple[MethodReport, ...], msgspec.Meta(max_length=MAX_FILES)] = ()
    training: TrainingProgress = TrainingProgress()
    format_version: _Count = FORMAT_VERSION
    module: ModuleSignature | UnsetType = UNSET
    restores: _Count | UnsetType = UNSET

    @cached_property
    def digest(self) -> str:
        """SHA-256 of signature, programs, files and probe tolerances, which identifies the content of a version."""
        files = sorted(self.files.items())
        content = (self.format_version, self.signature, self.programs, files, self.weights, self.probe)
        if self.module is not UNSET:
            content = (*content, self.module)  # type: ignore[assignment]
        return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()

    def program(self, kind: ProgramKind) -> ProgramEntry | None:
        """Return the program of ``kind``, or None."""
        return next((program for program in self.programs if program.kind == kind), None)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return indented JSON in a deterministic order."""
    return msgspec.json.format(_encode(manifest), indent=1)


def decode_manifest(data: bytes) -> Manifest:
    """Parse and validate a manifest. Raises ManifestError."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"expected a manifest of at most {MAX_MANIFEST_BYTES} bytes, found {len(data)}")
    try:
        manifest = _decode(data)
        is_canonical = _without_spaces(_encode(manifest)) == _without_spaces(data)
    except _NOT_JSON as error:
        _check_format(data)  # fields of a newer format would not fit either
        raise ManifestError(f"not a manifest of format {_FORMATS}: {error}") from error
    if manifest.format_version not in FORMAT_VERSIONS:
        _check_format(data)
    _check(manifest)
    # What ``encode_manifest`` writes has unique keys, and comparing is the cheaper check.
    if not is_canonical and (key := repeated_key(data)) is not None:
        raise ManifestError(f"expected every key once, found {key!r} twice in one object")
    return manifest


def decode_manifest_again(data: bytes) -> Manifest:
    """Parse a manifest that ``decode_manifest`` has accepted before, in this process or another, without checks."""
    return _decode(data)


class _Head(msgspec.Struct):
    format_version: _Count


_decode = msgspec.json.Decoder(Manifest).decode
_encode = msgspec.json.Encoder(order="deterministic").encode
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _without_spaces(data: bytes) -> bytes:
    return data.translate(None, b" \n")


def _check_format(data: bytes) -> None:
    try:
        head = msgspec.json.decode(data, type=_Head)
    except _NOT_JSON as error:
        raise ManifestError(f"not a manifest: {error}") from error
    if head.format_version not in FORMAT_VERSIONS:
        raise ManifestError(
            "update rl-hotswap here, or publish with the release that this actor runs: "
            f"expected manifest format {_FORMATS}, found {head.format_version}"
        )


def format_of(files: Mapping[str, FileEntry]) -> int:
    """Return the oldest format version that can state ``files``."""
    return max((_FORMAT_OF[entry.digest_name] for entry in files.values()), default=FORMAT_VERSION)


def _check_digest(name: str, entry: FileEntry, format_version: int) -> None:
    stated = [digest for digest in (entry.sha256, entry.blake3) if isinstance(digest, str)]
    if len(stated) != 1 or not _DIGEST.fullmatch(stated[0]):
        found = ", ".join(repr(digest[:80]) for digest in stated) or "none"
        raise ManifestError(f"{name}: expected one SHA-256 or BLAKE3 digest in hexadecimal, found {found}")
    if format_version < _FORMAT_OF[entry.digest_name]:
        raise ManifestError(f"{name}: expected a SHA-256 in format {format_version}, found a BLAKE3 digest")


def _check(manifest: Manifest) -> None:
    for name, entry in manifest.files.items():
        if not _PLAIN_NAME.fullmatch(name) or name in (MANIFEST_NAME, SIGNATURE_NAME):
            raise ManifestError(f"expected the plain name of a file in the version's directory, found {name[:200]!r}")
        _check_digest(name, entry, manifest.format_version)
    if (total := sum(entry.size_bytes for entry in manifest.files.values())) > MAX_VERSION_BYTES:
        raise ManifestError(f"expected a version of at most {MAX_VERSION_BYTES:,} bytes, found {total:,}")
    if not manifest.programs:
        raise ManifestError("expected at least one program, found none")
    for needed in (manifest.weights, manifest.probe.file, *(program.file for program in manifest.programs)):
        if needed not in manifest.files:
            raise ManifestError(f"expected {needed[:200]!r} among the manifest's files")
    check_times(manifest.created_unix_s, manifest.training.train_s)
    check_tolerances(manifest.probe.atol, manifest.probe.rtol)
    check_policy_signature(manifest.signature)
    if isinstance(manifest.module, ModuleSignature):
        check_module_signature(manifest.module)
        if manifest.signature != NOT_A_POLICY:  # modules may do what policies may not, such as mix rows
            raise ManifestError("publish a policy or a module: the manifest has the signatures of both")
