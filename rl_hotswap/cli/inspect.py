"""``rl-hotswap inspect VERSION_DIR``: print the contents of a policy version and verify it."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from actor.sandbox.cache_directory import user_cache
from actor.sandbox.program_sandbox import DEFAULT_LIMITS, ProgramSandbox, SandboxCache
from actor.verification.probe_verifier import ModuleVerifier, ProbeVerifier
from actor.verification.version_checks import check_signature
from actor.versions.staleness import describe_age
from rl_hotswap.launcher.terminal import Terminal
from shared.engines.engine import NATIVE_ENGINES, Engine, EngineKind
from shared.engines.load import Read, load_program
from shared.errors import (
    ConfigurationError,
    HotswapError,
    PolicyLoadError,
    ProgramUnsupported,
    VersionNotFound,
    one_line,
)
from shared.files.digests import DIGEST_TITLES
from shared.operators.program_check import listed_operators
from shared.operators.program_trust import PURE_ONLY, ProgramTrust
from shared.policy.manifest import Manifest
from shared.policy.probe import compare, decode_probe
from shared.policy.signature import ModuleSignature
from shared.policy.signing import PublicKey, public_keys_of
from shared.policy.weights import decode_weights
from shared.process.command_line import run_command
from shared.process.log import set_up_logging
from shared.store.authenticity import Authenticity
from shared.store.policy_store import VersionFiles, open_version_directory
from shared.store.store_notes import QUARANTINE_DIRECTORY, LocalNotes, Quarantine, QuarantineAdvice

COMMAND = "rl-hotswap inspect"

_BATCH_SIZES = (1, 3, 64)
_FILE_WIDTH = 140


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Print the contents of a policy version and verify it as an actor does: every digest, every engine, the probe.

    Exit codes: 0 it verifies; 1 it does not; 2 there is no such directory.
    """

    version_dir: Annotated[Path | None, tyro.conf.Positional] = None
    """Directory of one version, such as runs/NAME/policies/v000042."""
    operators: bool = False
    """Print the operators that programs may use without permission, instead of a version."""
    public_key: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY")] = ()
    """Verify that this key signed the version (its file, or ed25519:HEX). May be repeated."""
    trust_native: bool = False
    """Permit native code (policy.pt2). Use it only if you trust the publisher."""
    trust_module: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Permit the import of the policy's class from this module and those below it. May be repeated."""
    allow_operator: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Permit this operator in programs, although it is not on the list of pure ones. May be repeated."""
    trust_program: bool = False
    """Permit programs to use any operators. Use it only if you trust the publisher."""
    sandbox: bool = True
    """Run unknown programs in a sandbox process first. --no-sandbox loads them directly, for trusted publishers."""

    @property
    def for_programs(self) -> ProgramTrust:
        """The permissions for programs."""
        return ProgramTrust(
            native=self.trust_native,
            modules=self.trust_module,
            allowed_operators=self.allow_operator,
            programs=self.trust_program,
        )


@dataclass(frozen=True)
class Check:
    """One check; ``error`` is None when it passed."""

    subject: str
    found: str
    error: str | None = None


def main(options: InspectOptions) -> int:
    """Print the version and its checks; return 0 if it verifies, else 1. Raises ConfigurationError for no directory."""
    set_up_logging("inspect", None, terminal_level="WARNING")
    console = Terminal()
    console = console if console.is_terminal else Terminal(width=_FILE_WIDTH)
    if options.operators:
        for group, names in listed_operators().items():
            console.print(f"{group}:")
            console.print(f"  {' '.join(names)}")
        return 0
    directory = options.version_dir
    if directory is None or not directory.is_dir():
        raise ConfigurationError(f"expected the directory of a policy version; there is no directory {directory or ''}")
    return _inspect(options, directory, console)


def _inspect(options: InspectOptions, directory: Path, console: Terminal) -> int:
    keys = public_keys_of(options.public_key)
    try:
        files = open_version_directory(directory)
    except (PolicyLoadError, VersionNotFound) as error:
        console.print(f"does not verify: {one_line(error)}", style="red", soft_wrap=True)
        return 1
    for table in _describe(files.manifest):
        console.print(table)
    checks = [_check("signed", partial(_read_signer, files, keys))]
    with _sandbox(options) as sandbox:
        checks += verify(files, options.for_programs, sandbox)
    notes = LocalNotes(directory.resolve().parent / QUARANTINE_DIRECTORY)
    if (advice := Quarantine(notes).advice(files.manifest.digest)) is not None:
        console.print(_advice(advice))
    results = [(check.subject, "yes" if check.error is None else "NO", check.error or check.found) for check in checks]
    console.print(_table("Verification", ("check", "passed", "result"), results))
    for check in checks:
        if check.error is not None:
            console.print(f"does not verify: {check.subject}: {check.error}", style="red", soft_wrap=True)
            return 1
    console.print("verifies", style="green")
    return 0


@contextmanager
def _sandbox(options: InspectOptions) -> Iterator[ProgramSandbox | None]:
    if not options.sandbox:
        yield None
        return
    cache = SandboxCache.below(user_cache())
    trust = options.for_programs
    with closing(ProgramSandbox(DEFAULT_LIMITS, batch_size=max(_BATCH_SIZES), cache=cache, trust=trust)) as sandbox:
        yield sandbox


def verify(
    files: VersionFiles, trust: ProgramTrust = PURE_ONLY, sandbox: ProgramSandbox | None = None
) -> Iterator[Check]:
    """Check everything for which an actor refuses a version. Programs that need a permission run only with it.

    Unknown programs run in ``sandbox`` first, if there is one.
    """
    manifest = files.manifest
    yield _check("signature", partial(_read_signature, manifest))
    for name in sorted(manifest.files):
        yield _check(name, partial(_read_file, files, name))
    yield _check("weights", partial(_read_weights, files))
    for program in manifest.programs:
        kind: EngineKind = "eager" if program.kind == "importable" else program.kind
        if kind in NATIVE_ENGINES and not trust.native:
            yield Check(f"{kind} program", "not run: native code needs --trust-native")
        elif kind == "eager" and not trust.modules:
            yield Check("importable program", "not run: imported code needs --trust-module")
        else:
            load = partial(load_program, kind, trust=trust)
            yield _check(f"{program.kind} program", partial(_run_program, files, kind, load, sandbox))
        if program.kind == "onnx":
            yield _check("onnx program by LLVM", partial(_compile_program, files, trust, sandbox))


def _check(subject: str, attempt: Callable[[], str]) -> Check:
    try:
        return Check(subject, attempt())
    except HotswapError as error:
        return Check(subject, "", one_line(f"{type(error).__name__}: {error}"))


def _read_signer(files: VersionFiles, keys: Sequence[PublicKey]) -> str:
    if keys:
        return f"by {Authenticity(keys).signer(files)}"
    return "no" if files.read_signature() is None else "yes, not checked: give --public-key"


def _read_signature(manifest: Manifest) -> str:
    if isinstance(manifest.module, ModuleSignature):
        return f"an exported module: {len(manifest.module.inputs)} inputs, {len(manifest.module.outputs)} outputs"
    check_signature(manifest.signature)
    return f"{len(manifest.signature.inputs)} inputs, {len(manifest.signature.outputs)} outputs"


def _read_file(files: VersionFiles, name: str) -> str:
    entry = files.manifest.files[name]
    return f"{len(files.read(name)):,} bytes, {DIGEST_TITLES[entry.digest_name]} {entry.hexdigest[:12]}…"


def _read_weights(files: VersionFiles) -> str:
    weights = decode_weights(files.read(files.manifest.weights))
    return f"{len(weights)} tensors, {sum(array.size for array in weights.values()):,} finite numbers"


def _run_program(
    files: VersionFiles, kind: EngineKind, load: Callable[[Read, Manifest], Engine], sandbox: ProgramSandbox | None
) -> str:
    manifest = files.manifest
    if sandbox is not None:
        sandbox.verify_now(kind, files)
    if isinstance(manifest.module, ModuleSignature):
        data = files.read(manifest.probe.file)
        ModuleVerifier(manifest, data, manifest.module).verify(load(files.read, manifest).run)
        return "equals the probe"
    check_signature(manifest.signature)  # rows are made for it
    probe = decode_probe(files.read(manifest.probe.file), manifest.signature)
    engine = load(files.read, manifest)
    for batch_size in _BATCH_SIZES:
        verifier = ProbeVerifier(manifest, probe, batch_size)
        verifier.verify(engine.run)
        verifier.verify_purity(engine, decode_weights(files.read(manifest.weights)))
    tolerance = manifest.probe
    largest = compare(probe.outputs, engine.run(probe.inputs), manifest.signature, tolerance.atol, tolerance.rtol)
    return f"equals the probe to {largest:.1e}, also at batch sizes {', '.join(map(str, _BATCH_SIZES))}"


def _compile_program(files: VersionFiles, trust: ProgramTrust, sandbox: ProgramSandbox | None) -> str:
    try:
        return _run_program(files, "llvm", partial(load_program, "llvm", trust=trust), sandbox)
    except ProgramUnsupported as error:
        return f"not supported by LLVM, so ONNX Runtime runs it: {error}"


def _describe(manifest: Manifest) -> Iterator[Table]:
    training = manifest.training
    created = _date(manifest.created_unix_s)
    mean_return = "no finished episode" if training.mean_return is None else f"{training.mean_return:.1f}"
    facts = {
        "version": str(manifest.version),
        "environment": manifest.env_id or "not recorded",
        "run": manifest.run_id,
        "created": f"{created}, {describe_age(time.time() - manifest.created_unix_s)} ago",
        **({"content": f"of version {manifest.restores}"} if isinstance(manifest.restores, int) else {}),
        "digest": manifest.digest,
        "update": f"{training.update:,}",
        "environment steps": f"{training.env_steps:,}",
        "training time": f"{training.train_s:.1f} s",
        "mean return": mean_return,
    }
    yield _table("Version", ("", ""), list(facts.items()))
    signature = manifest.module if isinstance(manifest.module, ModuleSignature) else manifest.signature
    without = "without the leading batch dimension"
    if isinstance(signature, ModuleSignature):
        ranges = (f", {size.name} is {size.smallest} to {size.largest}" for size in signature.named_sizes)
        without = "".join(["None is the batch dimension", *ranges])
    specs = [("input", spec) for spec in signature.inputs] + [("output", spec) for spec in signature.outputs]
    rows = [(way, spec.name, spec.dtype, str(spec.shape)) for way, spec in specs]
    yield _table(f"Signature (shapes: {without})", ("", "name", "dtype", "shape"), rows)
    programs = [(program.kind, program.file, program.program_digest[:12] + "…") for program in manifest.programs]
    yield _table("Programs", ("kind", "file", "digest without weights"), programs)
    reports = []
    for report in manifest.export:
        difference = "" if report.largest_difference is None else f"{report.largest_difference:.1e}"
        reports.append((report.method, "yes" if report.taken else "no", difference, report.error or ""))
    if reports:
        yield _table("Export", ("method", "published", "largest difference", "message"), reports)


def _advice(advice: QuarantineAdvice) -> Table:
    rows = [("reported by", advice.by), ("time", _date(advice.created_unix_s)), ("reason", advice.reason)]
    return _table("Quarantined: an actor reported this content", ("", ""), rows)


def _date(unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="seconds")
    except (ValueError, OverflowError, OSError):  # no calendar has it; the notes of actors are not checked
        return f"{unix_s:g} s after 1970"


def _table(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


command = partial(run_command, COMMAND, InspectOptions, main)
