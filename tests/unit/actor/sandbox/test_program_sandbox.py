"""Programs tried in a process of their own: what is learned there, and what becomes of that process."""

import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions
from actor.sandbox.program_sandbox import ProgramSandbox, SandboxLimits
from actor.sandbox.sandbox_cache import SandboxCache
from shared.engines.engine import Engine, EngineKind
from shared.errors import ProbeMismatch, ProgramError, TransientLoadError
from shared.policy.manifest import WEIGHTS_FILE, Manifest
from shared.store.policy_store import LocalPolicyStore
from tests.support import bad_programs
from tests.support.agent_policies import exporter, local_store, make_policy, publish, publish_seed
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
    files = store.open(manifest.version)
    program = manifest.programs[0]
    content = {name: files.read(name) for name in manifest.files}
    sandbox.verify(program.kind, program.program_digest, files.manifest_bytes, content)


def _children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "actor.sandbox.sandbox_process" in p.cmdline()]


def test_a_right_program_passes_and_is_known_by_its_digest_from_then_on(
    sandbox: ProgramSandbox, store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = publish_seed(store, 0)
    program = manifest.programs[0]
    if sys.platform == "linux":
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")  # disks may be full
    assert not sandbox.has_passed(program.kind, program.program_digest)
    verify(sandbox, store, manifest)
    assert sandbox.has_passed(program.kind, program.program_digest)
    sandbox.close()
    verify(sandbox, store, publish_seed(store, 1))
    assert not _children(), "nobody was asked again"


def test_the_process_stays_for_the_next_program(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    verify(sandbox, store, publish_seed(store, 0))
    (first,) = _children()
    verify(sandbox, store, publish_seed(store, 0, action="box"))
    with pytest.raises(ProbeMismatch):
        verify(sandbox, store, bad_programs.publish_program(store, bad_programs.SwappedOutputs()))
    assert _children() == [first]


def test_what_a_program_raises_is_raised_here(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    with pytest.raises(ProbeMismatch, match="differ by more than"):
        verify(sandbox, store, bad_programs.publish_program(store, bad_programs.SwappedOutputs()))


def test_a_crash_is_the_programs_fault_and_the_next_one_is_tried_in_a_new_process(
    sandbox: ProgramSandbox, store: LocalPolicyStore
) -> None:
    with pytest.raises(ProgramError, match=r"the program killed the sandbox process \(SIG"):
        verify(sandbox, store, bad_programs.publish_program(store, bad_programs.Crashes()))
    assert not _children()
    with pytest.raises(ProbeMismatch):
        verify(sandbox, store, bad_programs.publish_program(store, bad_programs.SwappedOutputs()))


def test_a_process_that_is_killed_from_outside_blames_nobody_at_first(
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


def test_a_process_that_has_gone_meanwhile_is_replaced(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    sandbox.start("torchscript")
    (process,) = _children()
    process.kill()
    until(lambda: process.status() == psutil.STATUS_ZOMBIE)
    verify(sandbox, store, publish_seed(store, 2))


def test_a_program_is_tried_with_llvm_where_that_runs_it(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    version = publish_seed(store, 0, onnx=True).version
    digest = _digest(store, version)
    engines = EngineFallback(EngineOptions("auto", batch_size=3, measure=False), sandbox)
    assert engines.load(store.open(version), _no_spare).policy.engine_name == "llvm"
    assert sandbox.has_passed("llvm", digest)
    assert not sandbox.has_passed("onnx", digest), "another engine is another matter"
    (process,) = _children()
    assert process.cmdline()[-1] == "llvm"


def test_a_program_that_llvm_does_not_run_is_tried_with_the_engine_that_does_alone(
    sandbox: ProgramSandbox, store: LocalPolicyStore
) -> None:
    version = publish_seed(store, 0, onnx=True, nested=True).version
    engines = EngineFallback(EngineOptions("auto", batch_size=3, measure=False), sandbox)
    result = engines.load(store.open(version), _no_spare)
    assert (result.policy.engine_name, result.refusals) == ("onnx", [])
    assert not sandbox.has_passed("llvm", _digest(store, version))
    (process,) = _children()
    assert process.cmdline()[-1] == "onnx", "none was started before"


def test_what_llvm_makes_of_a_wrong_program_is_known_there(sandbox: ProgramSandbox, store: LocalPolicyStore) -> None:
    """With other weights than the probe was computed with."""
    policy = make_policy(seed=1)
    made = exporter(onnx=True)
    weights = made.files(make_policy(seed=2).state_dict())[0][WEIGHTS_FILE]
    manifest = publish(store, policy, made, instead={WEIGHTS_FILE: weights})
    files = store.open(manifest.version)
    content = {name: files.read(name) for name in manifest.files}
    with pytest.raises(ProbeMismatch, match="differ by more than"):
        sandbox.verify("llvm", _digest(store, manifest.version), files.manifest_bytes, content)


def _digest(store: LocalPolicyStore, version: int) -> str:
    program = store.open(version).manifest.program("onnx")
    assert program is not None
    return program.program_digest


def _no_spare(kind: EngineKind, program_digest: str) -> Engine | None:
    return None


def test_importable_programs_are_not_tried_their_code_was_allowed_by_name(sandbox: ProgramSandbox) -> None:
    assert sandbox.has_passed("eager", "0" * 64)
    assert sandbox.has_passed("compile", "0" * 64)


def _remembering(directory: Path, batch_size: int = 3) -> ProgramSandbox:
    limits = SandboxLimits(timeout_s=60.0)
    return ProgramSandbox(limits, batch_size=batch_size, cache=SandboxCache(directory))


@pytest.fixture(scope="module")
def remembered(store: LocalPolicyStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """A version whose first program has passed, and where that is remembered."""
    directory = tmp_path_factory.mktemp("cache") / "rl-hotswap" / "tried-programs"
    manifest = publish_seed(store, 4)
    sandbox = _remembering(directory)
    verify(sandbox, store, manifest)
    sandbox.close()
    return manifest, directory


def test_what_has_passed_is_remembered_by_actors_that_are_started_later(
    store: LocalPolicyStore, remembered: tuple[Manifest, Path]
) -> None:
    manifest, directory = remembered
    sandbox = _remembering(directory)
    sandbox.prepare(manifest.programs[0].kind)
    verify(sandbox, store, manifest)
    assert not _children(), "nobody was asked"


@pytest.mark.parametrize("what", ["another batch size", "another library", "another machine", "a broken record"])
def test_what_is_remembered_of_something_else_does_not_count(
    what: str, remembered: tuple[Manifest, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, directory = remembered
    program = manifest.programs[0]
    copy = shutil.copytree(directory, tmp_path / "copy")
    if what == "another library":
        monkeypatch.setattr("actor.sandbox.sandbox_cache.version", lambda library: "0.0.1")
    elif what == "another machine":
        monkeypatch.setattr("platform.node", lambda: "elsewhere")
    elif what == "a broken record":
        (record,) = copy.iterdir()
        record.write_bytes(record.read_bytes()[:-2])
    sandbox = _remembering(copy, batch_size=4 if what == "another batch size" else 3)
    assert not sandbox.has_passed(program.kind, program.program_digest)


def test_what_fails_is_not_remembered(store: LocalPolicyStore, tmp_path: Path) -> None:
    bad = bad_programs.publish_program(store, bad_programs.SwappedOutputs())
    sandbox = _remembering(tmp_path / "cache")
    with pytest.raises(ProbeMismatch):
        verify(sandbox, store, bad)
    sandbox.close()
    assert not (tmp_path / "cache").exists()


def test_where_nothing_can_be_remembered_a_program_is_tried_all_the_same(
    store: LocalPolicyStore, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    sandbox = _remembering(tmp_path / "file" / "cache")
    verify(sandbox, store, publish_seed(store, 5))
    sandbox.close()


def test_the_oldest_are_forgotten_where_there_are_very_many(tmp_path: Path) -> None:
    cache = SandboxCache(tmp_path / "cache")
    for number in range(1010):
        cache.add("onnx", f"{number:064x}", 1, 1e-5)
    assert len(list((tmp_path / "cache").iterdir())) == 1000
    assert cache.call_s("onnx", f"{1009:064x}", 1) == 1e-5


def test_closing_leaves_no_process_and_may_be_done_twice() -> None:
    sandbox = ProgramSandbox(SandboxLimits(), batch_size=1)
    sandbox.start("onnx")
    (process,) = [p for p in _children() if "onnx" in p.cmdline()]
    sandbox.close()
    sandbox.close()
    assert not process.is_running()


_TRIES = """
import pathlib, signal, sys
from actor.sandbox.program_sandbox import ProgramSandbox, SandboxLimits
from tests.support.agent_policies import local_store
from tests.unit.actor.sandbox.test_program_sandbox import verify

store = local_store(pathlib.Path(sys.argv[1]))
sandbox = ProgramSandbox(SandboxLimits(timeout_s=60.0), batch_size=3)
verify(sandbox, store, store.open(int(sys.argv[2])).manifest)
print(sandbox._client._process.pid, flush=True)
signal.pause()
"""


@pytest.mark.slow
def test_it_ends_with_its_actor_even_where_it_can_do_nothing_itself(store: LocalPolicyStore) -> None:
    """The actor is killed while the process is stopped."""
    version = publish_seed(store, 3).version
    with subprocess.Popen(
        [sys.executable, "-c", _TRIES, str(store.path), str(version)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as actor:
        assert actor.stdout is not None
        process = psutil.Process(int(actor.stdout.readline()))
        process.suspend()
        actor.kill()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 60.0)


def test_a_process_that_cannot_be_started_is_no_reason_not_to_begin(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader's thread starts it; without that thread nothing would ever be loaded."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    sandbox = ProgramSandbox(SandboxLimits(), batch_size=3)
    engines = EngineFallback(EngineOptions("onnx", batch_size=3), sandbox)
    engines.prepare()
    with pytest.raises(TransientLoadError, match="could not be started"):
        verify(sandbox, store, publish_seed(store, 3))
