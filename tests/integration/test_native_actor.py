"""The actor in C++: built with the machine's own compiler, then given versions that verify and versions that do not."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from learner.export.module_export import export_module
from scripts.fault_injection.impossible_manifests import IMPOSSIBLE
from shared.policy.manifest import PROBE_FILE, Manifest, ProgramEntry, encode_manifest
from shared.policy.signing import SigningKey
from shared.store.policy_store import version_name
from tests.support.agent_policies import local_store, publish_seed
from tests.support.documented_modules import NotebookNet, seeded
from tests.support.native_agent import shared_build

PROBE_ROWS = 8

Act = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "CI" not in os.environ and (shutil.which("cmake") is None or shutil.which("g++") is None),
        reason="needs CMake and g++",
    ),
]


@pytest.fixture(scope="module")
def native_actor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built as docs/guides/native-actor.md says."""
    return shared_build(tmp_path_factory) / "native_actor"


@pytest.fixture
def act(native_actor: Path) -> Act:
    """Runs the program with these arguments."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(native_actor), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run


def publish(tmp_path: Path, seed: int = 1, **kind: object) -> tuple[Path, Manifest]:
    """A version of its own store, and its directory."""
    manifest = publish_seed(local_store(tmp_path), seed, **kind)  # type: ignore[arg-type]
    return tmp_path / version_name(manifest.version), manifest


def refused(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that the program ended with."""
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("native_actor: ")
    return line


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"action": "box"},
        {"action": "multi_binary"},
        {"action": "discrete_from_5", "network": "lstm", "nested": True, "masked": True},
    ],
    ids=str,
)
def test_reproduces_the_probe_and_prints_the_digest_that_python_computes(
    tmp_path: Path, act: Act, kind: dict[str, object]
) -> None:
    directory, manifest = publish(tmp_path, **kind)
    done = act("--json", "--calls", 200, "--digest", manifest.digest, directory)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["version"], report["run_id"], report["digest"]) == (manifest.version, "run", manifest.digest)
    assert (report["files"], report["probe_rows"], report["batch_size"]) == (len(manifest.files), PROBE_ROWS, 1)
    assert report["largest_difference"] <= manifest.probe.atol
    assert 0 < report["median_us"] <= report["p99_us"]


def test_runs_a_module_that_is_no_policy_too(tmp_path: Path, act: Act) -> None:
    inputs = [torch.rand(3, 4), torch.ones(3, 3, dtype=torch.bool), (torch.rand(3, 8), torch.rand(3, 8))]
    exported = export_module(seeded(NotebookNet), (inputs,), tmp_path / "module", onnx=False)
    done = act("--json", "--calls", 50, exported.directory)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["digest"], report["probe_rows"]) == (exported.manifest.digest, 3)


def test_says_in_two_lines_that_it_verifies_and_how_fast_it_is(tmp_path: Path, act: Act) -> None:
    directory, manifest = publish(tmp_path)
    verdict, latency = act("--calls", 50, directory).stdout.splitlines()
    assert verdict.startswith(f"version 0 verifies: 3 files, digest {manifest.digest}; 8 probe rows reproduced")
    assert latency.startswith("latency at batch 1: median ")
    assert latency.endswith(" us (50 calls, 1 thread)")


@pytest.mark.parametrize("name", ["policy.ts", "weights.safetensors", "probe.safetensors"])
def test_one_flipped_bit_is_refused(tmp_path: Path, act: Act, name: str) -> None:
    directory, manifest = publish(tmp_path)
    file = directory / name
    damaged = bytearray(file.read_bytes())
    damaged[-100] ^= 1
    file.write_bytes(damaged)
    assert f"{name}: the manifest promises SHA-256 {manifest.files[name].sha256}" in refused(act(directory), 1)


def test_large_files_are_verified_by_blake3(tmp_path: Path, act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.files.digests.BLAKE3_FROM_BYTES", 0)
    directory, manifest = publish(tmp_path)
    assert json.loads(act("--json", "--calls", 50, directory).stdout)["digest"] == manifest.digest
    file = directory / "policy.ts"
    damaged = bytearray(file.read_bytes())
    damaged[-100] ^= 1
    file.write_bytes(damaged)
    assert f"policy.ts: the manifest promises BLAKE3 {manifest.files['policy.ts'].blake3}" in refused(act(directory), 1)


def test_a_file_that_is_missing_short_long_or_a_link_is_refused(tmp_path: Path, act: Act) -> None:
    directory, _ = publish(tmp_path)
    file = directory / "weights.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert f"expected {len(data)} bytes, found {len(data) - 1}" in refused(act(directory), 1)
    file.write_bytes(data + b"\0")
    assert f"expected {len(data)} bytes, found more" in refused(act(directory), 1)
    elsewhere = file.rename(tmp_path / "elsewhere")
    assert "weights.safetensors: No such file or directory" in refused(act(directory), 1)
    elsewhere.write_bytes(data)
    file.symlink_to(elsewhere)
    assert "weights.safetensors: expected a regular file, found a link" in refused(act(directory), 1)


def test_a_probe_that_another_policy_answered_is_refused(tmp_path: Path, act: Act) -> None:
    directory, manifest = publish(tmp_path / "one")
    other, found = publish(tmp_path / "other", seed=2)
    shutil.copy(other / PROBE_FILE, directory / PROBE_FILE)
    mixed = replace(manifest, files=manifest.files | {PROBE_FILE: found.files[PROBE_FILE]})
    (directory / "manifest.json").write_bytes(encode_manifest(mixed))
    assert "does not verify: the probe is not reproduced: " in refused(act(directory), 1)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        (b"", "not a manifest"),
        (b"[1]", "not a manifest"),
        (b'{"format_version": 99}', "expected format 1 or 2, found 99"),
        (b"[" * 100_000, "not a manifest"),
        (b'{"format_version": 1}', "key 'probe' not found"),
        (b"\0" * (2**22 + 1), "at most 4194304 bytes"),
    ],
    ids=["empty", "no object", "another format", "nested", "incomplete", "too large"],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, act: Act, manifest: bytes, said: str) -> None:
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert said in refused(act(tmp_path), 1)


def test_another_version_than_the_directory_or_the_digest_says_is_refused(tmp_path: Path, act: Act) -> None:
    directory, _ = publish(tmp_path)
    assert "expected the version with digest 00" in refused(act("--digest", "0" * 64, directory), 1)
    moved = directory.rename(tmp_path / "v000007")
    assert "the directory v000007 holds version 0" in refused(act(moved), 1)


def sign(directory: Path, key: SigningKey) -> None:
    (directory / "manifest.sig").write_bytes(key.sign((directory / "manifest.json").read_bytes()))


def test_what_was_signed_with_the_key_is_accepted(tmp_path: Path, act: Act) -> None:
    directory, manifest = publish(tmp_path)
    key, other = SigningKey.generate(), SigningKey.generate()
    sign(directory, key)
    (tmp_path / "public_key.pem").write_bytes(key.public.pem())
    for accepted in ([str(key.public)], [tmp_path / "public_key.pem"], [other.public, key.public], []):
        flags = [word for given in accepted for word in ("--public-key", given)]
        done = act("--calls", 50, *flags, directory)
        assert done.returncode == 0, done.stderr
        assert f"digest {manifest.digest}" in done.stdout


def test_what_was_not_signed_as_it_is_is_refused(tmp_path: Path, act: Act) -> None:
    directory, manifest = publish(tmp_path)
    key, other = SigningKey.generate(), SigningKey.generate()
    check = ("--public-key", key.public, directory)
    manifest_file, signature_file = directory / "manifest.json", directory / "manifest.sig"
    assert "manifest.sig: not there, so the version is not signed" in refused(act(*check), 1)
    sign(directory, other)
    assert "it was made with another key" in refused(act(*check), 1)
    sign(directory, key)
    good = signature_file.read_bytes()
    for size, found in ((0, "0"), (63, "63"), (65, "more"), (2**20, "more")):
        signature_file.write_bytes((good * 2**14)[:size])
        assert f"expected a signature of 64 bytes, found {found}" in refused(act(*check), 1)
    elsewhere = signature_file.rename(tmp_path / "elsewhere")
    elsewhere.write_bytes(good)
    signature_file.symlink_to(elsewhere)
    assert "manifest.sig: expected a regular file, found a link" in refused(act(*check), 1)
    signature_file.unlink()
    signature_file.write_bytes(good)
    for changed in (replace(manifest, version=7), replace(manifest, run_id="other"), replace(manifest, env_id="x")):
        manifest_file.write_bytes(encode_manifest(changed))
        assert "manifest.json was changed since" in refused(act(*check), 1)
    manifest_file.write_bytes(b"[" * 100_000)
    assert "manifest.json was changed since" in refused(act(*check), 1)  # before any of it is parsed
    manifest_file.write_bytes(encode_manifest(manifest))
    replayed = directory.rename(tmp_path / "v000009")
    assert "the directory v000009 holds version 0" in refused(act(*check[:2], replayed), 1)
    directory = replayed.rename(tmp_path / "v000000")
    (directory / "policy.ts").write_bytes((directory / "weights.safetensors").read_bytes())
    assert "policy.ts: expected " in refused(act(*check), 1)


def test_a_key_that_is_none_is_one_line_and_exit_code_2(tmp_path: Path, act: Act) -> None:
    directory, _ = publish(tmp_path)
    key = SigningKey.generate()
    (tmp_path / "private.pem").write_bytes(key.pem())
    for given, said in (
        ("ed25519:00", "64 lower-case hexadecimal digits"),
        (tmp_path / "nowhere", "cannot read"),
        (tmp_path, "is no Ed25519 public key"),
        (tmp_path / "private.pem", "is no Ed25519 public key"),
        (directory / "weights.safetensors", "is no Ed25519 public key"),
        (f"ed25519:{(1).to_bytes(32, 'little').hex()}", "anybody could sign for"),
        (f"ed25519:{(2**255 - 19).to_bytes(32, 'little').hex()}", "anybody could sign for"),
        (f"ed25519:{'ff' * 32}", "anybody could sign for"),
        ("ed25519:26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85", "anybody could sign for"),
    ):
        assert said in refused(act("--public-key", given, directory), 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a tolerance of one", "expected probe tolerances from 0 to 0.001"),
        ("a negative tolerance", "expected probe tolerances from 0 to 0.001"),
        ("a version from 1970", "in the years 2000 to 2200"),
        ("a time beyond all calendars", "in the years 2000 to 2200"),
        ("a size of 2**63 bytes", "at most 8 GiB"),
        ("a negative size", "a size in bytes"),
        ("a shape of 2**62", "expected the size of a dimension"),
        ("a negative shape", "expected the size of a dimension"),
        ("a shape whose product overflows", "size of a dimension|too many elements"),
        ("20,000 tensors", "at most 10,000 tensors"),
        ("200,000 tensors", "a manifest has at most"),
        ("a structure of 200 levels", "nested too deeply"),
        ("a repeated key", "occurs twice"),
        ("a repeated file", "occurs twice"),
    ],
)
def test_an_impossible_manifest_is_refused(tmp_path: Path, act: Act, name: str, said: str) -> None:
    directory, _ = publish(tmp_path)
    IMPOSSIBLE[name][0](directory)
    assert re.search(said, refused(act("--calls", 50, directory), 1))


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, act: Act) -> None:
    assert "expected the directory of a policy version" in refused(act(), 2)
    assert "there is no flag --fast" in refused(act("--fast", tmp_path), 2)
    assert "--calls: expected a number" in refused(act("--calls", "0", tmp_path), 2)
    assert "--digest: expected 64" in refused(act("--digest", "F", tmp_path), 2)
    assert "cannot open the directory" in refused(act(tmp_path / "nowhere"), 2)
    directory, manifest = publish(tmp_path)
    without = replace(manifest, programs=(ProgramEntry("onnx", "policy.ts", "0" * 64),))
    (directory / "manifest.json").write_bytes(encode_manifest(without))
    assert "has no TorchScript program" in refused(act(directory), 2)
    assert act("--help").stdout.startswith("usage: native_actor")
