"""Programs in the sandbox, its cache, and the life of its process."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil  # type: ignore[import-untyped]
import pytest

from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions
from actor.sandbox.program_sandbox import ProgramSandbox, SandboxCache, SandboxKey, SandboxLimits
from shared.engines.engine import EngineKind
from shared.errors import ProbeMismatch, ProgramError, ProgramUnsupported, TransientLoadError
from shared.operators.program_check import ProgramTraits
from shared.policy.manifest import WEIGHTS_FILE, Manifest
from shared.store.policy_store import LocalPolicyStore
from tests.support import bad_programs
from tests.support.agent_policies import exporter, local_store, make_policy, no_spare, publish, publish_seed
from tests.support.paths import REPOSITORY
from tests.support.waiting import until


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> LocalPolicyStore:
    return local_store(tmp_path_factory.mktemp("sandbox") / "policies")


@pytest.fixture
def sandbox() -> Iterator[ProgramSandbox]:
    sandbox = ProgramSandbox(SandboxLimits(timeout_s=60.0), batch_size=3)
    yield sandbox
    sandbox.close()


def verify(sandbox: ProgramSandbox, store: LocalPolicyStore, manifest: Manifest) -> None:
    """Run the ONNX graph where there is one: its process does not import torch, and starts in a third of the time."""
    kind: EngineKind = "torchscript" if manifest.program("onnx") is None else "onnx"
    sandbox.verify(kind, store.open(manifest.version))


def _children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "actor.sandbox.sandbox_process" in p.cmdline()]


def test_a_program_that_passed_is_known_by_its_digest(
    sandbox: ProgramSandbox, store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish_seed(store, 0, onnx=True)
    if sys.platform == "linux":
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")  # the disk is not needed
    verify(sandbox, store, manifest)
    assert _children()
    sandbox.close()
    verify(sandbox, store, publish_seed(store, 1, onnx=True))
    assert not _children(), "no process was needed"


def test_each_content_of_a_program_that_weights_steer_runs_in_the_sandbox(
    store: LocalPolicyStore, tmp_path: Path
) -> None:
    sandbox = _with_cache(tmp_path / "cache")
    contents = [bad_programs.publish_steered(store, seed) for seed in (10, 11)]
    assert len({manifest.programs for manifest in contents}) == 1, "one program"
    for number, manifest in enumerate(contents, 1):
        verify(sandbox, store, manifest)
        assert len(list((tmp_path / "cache").iterdir())) == number, "its weights are new"
    sandbox.close()
    for again in (sandbox, _with_cache(tmp_path / "cache")):
        for manifest in contents:
            verify(again, store, manifest)
        assert not _children()


def test_straight_code_runs_once_whatever_its_operators(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LLVM refuses all that weights could steer."""
    steered = ProgramTraits(data_dependent=True)
    monkeypatch.setattr("actor.sandbox.program_sandbox.check_program", lambda *_: steered)
    sandbox = ProgramSandbox(SandboxLimits(timeout_s=60.0), batch_size=3)
    for seed, engine, runs in ((0, "llvm", True), (1, "llvm", False), (0, "onnx", True), (1, "onnx", True)):
        sandbox.verify(engine, store.open(publish_seed(store, seed, onnx=True).version))
        assert bool(_children()) is runs
        sandbox.close()


def test_the_process_stays_for_the_next_program(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    verify(sandbox, store, publish_seed(store, 0))
    (first,) = _children()
    verify(sandbox, store, publish_seed(store, 0, action="box"))
    with pytest.raises(ProbeMismatch, match="differ by more than"):
        verify(sandbox, store, bad_programs.publish_program(store, bad_programs.SwappedOutputs()))
    assert _children() == [first]


def test_after_a_crash_the_next_program_runs_in_a_new_process_and_no_failure_is_recorded(
    store: LocalPolicyStore, tmp_path: Path
) -> None:
    sandbox = _with_cache(tmp_path / "cache")
    with pytest.raises(ProgramError, match=r"the program killed the sandbox process \(SIG"):
        verify(sandbox, store, bad_programs.publish_program(store, bad_programs.Crashes()))
    assert not _children()
    with pytest.raises(ProbeMismatch):
        verify(sandbox, store, bad_programs.publish_program(store, bad_programs.SwappedOutputs()))
    sandbox.close()
    assert not (tmp_path / "cache").exists()


def test_an_external_kill_counts_against_the_program_only_the_second_time(
    sandbox: ProgramSandbox, store: LocalPolicyStore
) -> None:
    manifest = bad_programs.publish_program(store, bad_programs.Hangs())
    for error in (TransientLoadError, ProgramError):
        with ThreadPoolExecutor(1) as pool:
            trying = pool.submit(verify, sandbox, store, manifest)
            until(functools.partial(_is_over, sandbox, trying))
            with pytest.raises(error, match="SIGKILL"):
                trying.result()
        assert not _children()


def _is_over(sandbox: ProgramSandbox, trying: "Future[None]") -> bool:
    sandbox.cancel()
    return trying.done()


def test_a_process_that_ended_is_replaced(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    sandbox.prepare("onnx")
    (process,) = _children()
    process.kill()
    until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    verify(sandbox, store, publish_seed(store, 2, onnx=True))


@pytest.mark.parametrize(("nested", "engine", "other"), [(False, "llvm", "onnx"), (True, "onnx", "llvm")])
def test_a_program_runs_in_the_sandbox_with_the_one_engine_that_is_used(
    sandbox: ProgramSandbox, store: LocalPolicyStore, nested: bool, engine: EngineKind, other: EngineKind
) -> None:
    """LLVM does not support a nested observation with an image."""
    version = publish_seed(store, 0, onnx=True, nested=nested).version
    engines = EngineFallback(EngineOptions("auto", batch_size=3, measure=False), sandbox)
    result = engines.load(store.open(version), no_spare)
    assert (result.policy.engine_name, result.refusals) == (engine, [])
    (process,) = _children()
    sandbox.verify(engine, store.open(version))
    assert _children() == [process]
    with suppress(ProgramUnsupported):
        sandbox.verify(other, store.open(version))
        assert _children() != [process], "a program passes for one engine, and a process runs one engine"


def test_llvm_in_the_sandbox_rejects_wrong_weights(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    """The probe was computed with other weights."""
    policy = make_policy(seed=1)
    made = exporter(onnx=True)
    weights = made.files(make_policy(seed=2).state_dict())[0][WEIGHTS_FILE]
    manifest = publish(store, policy, made, instead={WEIGHTS_FILE: weights})
    with pytest.raises(ProbeMismatch, match="differ by more than"):
        sandbox.verify("llvm", store.open(manifest.version))


def test_importable_programs_need_no_sandbox(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    files = store.open(publish_seed(store, 0).version)
    for kind in ("eager", "compile"):
        sandbox.verify(kind, files)
    assert not _children()


def _with_cache(directory: Path, batch_size: int = 3) -> ProgramSandbox:
    limits = SandboxLimits(timeout_s=60.0)
    return ProgramSandbox(limits, batch_size=batch_size, cache=SandboxCache(directory))


@pytest.fixture(scope="module")
def cached(store: LocalPolicyStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """A version whose first program has passed, and the directory of the cache."""
    directory = tmp_path_factory.mktemp("cache") / "tried-programs"
    manifest = publish_seed(store, 4, onnx=True)
    sandbox = _with_cache(directory)
    verify(sandbox, store, manifest)
    sandbox.close()
    return manifest, directory


def test_later_actors_read_the_cache_of_passed_programs(store: LocalPolicyStore, cached: tuple[Manifest, Path]) -> None:
    manifest, directory = cached
    sandbox = _with_cache(directory)
    sandbox.prepare("onnx")
    verify(sandbox, store, manifest)
    assert not _children(), "no process was needed"


@pytest.mark.parametrize(
    "what", ["another batch size", "another library", "another machine", "fewer checks", "a broken record"]
)
def test_a_record_of_another_machine_library_or_batch_size_or_of_fewer_checks_does_not_count(
    what: str, cached: tuple[Manifest, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, directory = cached
    program = manifest.program("onnx")
    assert program is not None
    copy = shutil.copytree(directory, tmp_path / "copy")
    if what == "another library":
        monkeypatch.setattr("actor.sandbox.program_sandbox.version", lambda library: "0.0.1")
    elif what == "another machine":
        monkeypatch.setattr("platform.node", lambda: "elsewhere")
    elif what == "fewer checks":
        (record,) = copy.iterdir()
        fields = msgspec.json.decode(record.read_bytes())
        del fields["checks"]  # as the last release wrote it
        record.write_bytes(msgspec.json.encode(fields))
    elif what == "a broken record":
        (record,) = copy.iterdir()
        record.write_bytes(record.read_bytes()[:-2])
    key = SandboxKey("onnx", program.program_digest, 4 if what == "another batch size" else 3)
    assert SandboxCache(copy).call_s(key) is None
    assert what != "another batch size" or SandboxCache(copy).call_s(key._replace(batch_size=3)) is not None


def test_the_sandbox_works_without_a_writable_cache(store: LocalPolicyStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sandbox = _with_cache(tmp_path / "file" / "cache")
    verify(sandbox, store, publish_seed(store, 5, onnx=True))
    sandbox.close()


@pytest.mark.slow
def test_the_oldest_of_many_records_are_deleted(tmp_path: Path) -> None:
    cache = SandboxCache(tmp_path / "cache")
    for number in range(1010):
        cache.add(SandboxKey("onnx", f"{number:064x}", 1), 1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 1000
    assert cache.call_s(SandboxKey("onnx", f"{1009:064x}", 1)) == 1e-5


def test_close_ends_the_process_and_is_idempotent() -> None:
    sandbox = ProgramSandbox(SandboxLimits(), batch_size=1)
    sandbox.prepare("onnx")
    (process,) = [p for p in _children() if "onnx" in p.cmdline()]
    sandbox.close()
    sandbox.close()
    assert not process.is_running()


_SANDBOX_PROGRAM = """
import pathlib, signal, sys
from actor.sandbox.program_sandbox import ProgramSandbox, SandboxLimits
from tests.support.agent_policies import local_store
from tests.unit.actor.sandbox.test_program_sandbox import verify

store = local_store(pathlib.Path(sys.argv[1]))
sandbox = ProgramSandbox(SandboxLimits(timeout_s=60.0), batch_size=3)
verify(sandbox, store, store.open(int(sys.argv[2])).manifest)
print(sandbox._client.process.pid, flush=True)
signal.pause()
"""


@pytest.mark.slow
def test_a_stopped_sandbox_process_ends_with_its_actor(store: LocalPolicyStore) -> None:
    """The actor is killed while the process is stopped."""
    version = publish_seed(store, 3).version
    with subprocess.Popen(
        [sys.executable, "-c", _SANDBOX_PROGRAM, str(store.path), str(version)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as actor:
        assert actor.stdout is not None
        process = psutil.Process(int(actor.stdout.readline()))
        process.suspend()
        actor.kill()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 60.0)


def test_prepare_ignores_a_process_that_cannot_start(store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader thread calls it, and must not end."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    sandbox = ProgramSandbox(SandboxLimits(), batch_size=3)
    engines = EngineFallback(EngineOptions("onnx", batch_size=3), sandbox)
    engines.prepare()
    with pytest.raises(TransientLoadError, match="could not be started"):
        verify(sandbox, store, publish_seed(store, 3))
