import re
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from learner.export.module_export import export_module
from learner.export.policy_export import PolicyExporter
from learner.networks.acting_policy import CLASS_PATH
from rl_hotswap.cli.inspect import COMMAND, InspectOptions, main
from rl_hotswap.cli.rollback import roll_back
from shared.engines.importable import ImportablePolicy
from shared.policy.manifest import FileEntry, decode_manifest, encode_manifest
from shared.policy.probe import Probe, decode_probe, encode_probe
from shared.policy.signing import SigningKey
from shared.policy.weights import decode_tensors, encode_weights
from shared.process.command_line import run_command
from shared.run.run_directory import RunDirectory
from shared.store.authenticity import Authenticity
from shared.store.policy_store import LocalPolicyStore
from shared.store.version_files import describe_files
from tests.support.agent_policies import local_store, make_policy, publish, publish_run, publish_seed
from tests.support.bad_programs import Crashes, publish_program
from tests.support.impure_versions import impure_stages


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return publish_run(tmp_path_factory.mktemp("run"), "CartPole-v1", versions=2)


@pytest.fixture(scope="module")
def importable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that holds a class path, too."""
    store = local_store(tmp_path_factory.mktemp("importable"))
    policy = make_policy()
    definition = ImportablePolicy(CLASS_PATH, policy.arguments)
    publish(store, policy, PolicyExporter(policy, policy.signature, onnx=False, importable=definition))
    return store.path / "v000000"


@pytest.fixture
def version(run: RunDirectory, tmp_path: Path) -> Path:
    """A copy of version 1, to be damaged."""
    copy: Path = shutil.copytree(run.policies / "v000001", tmp_path / "v000001")
    return copy


def _inspect(path: Path, *flags: str) -> int:
    return run_command(COMMAND, InspectOptions, main, [str(path), *flags])


def _replace(version: Path, name: str, data: bytes) -> None:
    """Put other bytes into a file, with their own digest, as a publisher at fault would."""
    manifest = decode_manifest((version / "manifest.json").read_bytes())
    files: dict[str, FileEntry] = manifest.files | describe_files({name: data})
    (version / name).write_bytes(data)
    (version / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(manifest, files=files)))


def test_a_good_version_verifies(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert _inspect(run.policies / "v000001") == 0
    said = capsys.readouterr()
    for part in ("CartPole-v1", "observation", "env steps", "torchscript program", "onnx program", "21.0"):
        assert part in said.out.replace("environment steps", "env steps")
    assert said.out.endswith("verifies\n")
    assert "NO" not in said.out
    assert said.err == ""


def test_a_class_path_is_imported_only_where_it_was_allowed(
    importable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _inspect(importable) == 0
    assert "not run: imported code needs --trust-module" in capsys.readouterr().out
    assert _inspect(importable, "--trust-module", "tests", "--trust-module", "learner") == 0
    said = capsys.readouterr().out
    assert said.count("equals the probe") == 2
    assert "not run" not in said
    assert _inspect(importable, "--trust-module", "tests") == 1
    assert "importable program: NotTrusted" in capsys.readouterr().out


@pytest.mark.slow
def test_native_code_is_run_only_where_it_was_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = local_store(tmp_path)
    policy = make_policy()
    publish(store, policy, PolicyExporter(policy, policy.signature, onnx=False, aot=True))
    assert _inspect(tmp_path / "v000000") == 0
    assert "not run: native code needs --trust-native" in capsys.readouterr().out
    assert _inspect(tmp_path / "v000000", "--trust-native") == 0
    assert capsys.readouterr().out.count("equals the probe") == 2


@pytest.mark.parametrize("name", ["policy.ts", "policy.onnx", "weights.safetensors", "probe.safetensors"])
def test_a_flipped_bit_anywhere_is_found(version: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((version / name).read_bytes())
    data[len(data) // 2] ^= 1
    (version / name).write_bytes(data)
    assert _inspect(version) == 1
    assert f"does not verify: {name}: DigestMismatch" in capsys.readouterr().out


def test_a_missing_file_is_found(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (version / "policy.ts").unlink()
    assert _inspect(version) == 1
    assert "does not verify: policy.ts" in capsys.readouterr().out


def test_a_probe_that_the_programs_do_not_give_is_found(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signature = decode_manifest((version / "manifest.json").read_bytes()).signature
    probe = decode_probe((version / "probe.safetensors").read_bytes(), signature)
    value = signature.output_names.index("value")
    outputs = tuple(array + 1 if i == value else array for i, array in enumerate(probe.outputs))
    _replace(version, "probe.safetensors", encode_probe(Probe(probe.inputs, outputs), signature))
    assert _inspect(version) == 1
    said = capsys.readouterr().out
    assert "does not verify: torchscript program: ProbeMismatch: value" in said
    assert "onnx program" in said


def test_a_program_that_is_none_is_found(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _replace(version, "policy.onnx", b"not a graph")
    assert _inspect(version) == 1
    assert "does not verify: onnx program: ProgramError" in capsys.readouterr().out


def test_a_signature_whose_inputs_are_not_its_observation_is_found(
    version: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows are made for the signature, which ended the command with a StopIteration."""
    manifest = decode_manifest((version / "manifest.json").read_bytes())
    signature = msgspec.structs.replace(manifest.signature, observation=())
    (version / "manifest.json").write_bytes(encode_manifest(msgspec.structs.replace(manifest, signature=signature)))
    assert _inspect(version, "--no-sandbox") == 1
    assert "does not verify: signature: ManifestError: expected the leaves" in capsys.readouterr().out


@pytest.mark.slow
def test_a_program_that_crashes_ends_the_sandbox_process_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_program(local_store(tmp_path), Crashes())
    assert _inspect(tmp_path / "v000000") == 1
    assert "torchscript program: ProgramError: the program killed the sandbox process" in capsys.readouterr().out


def test_without_the_sandbox_programs_are_loaded_directly(
    version: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/no/such/python")
    assert _inspect(version, "--no-sandbox") == 0
    capsys.readouterr()
    publish_program(local_store(version.parent / "other"), Crashes())
    assert _inspect(version.parent / "other" / "v000000") == 1
    assert "the sandbox process could not be started" in capsys.readouterr().out


@pytest.mark.parametrize("manifest", [b"", b"{}", b"[" * 100_000])
def test_a_manifest_that_is_none_is_found(version: Path, manifest: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (version / "manifest.json").write_bytes(manifest)
    assert _inspect(version) == 1
    assert "does not verify: " in capsys.readouterr().out


def test_an_abandoned_write_does_not_verify(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (version / "manifest.json").unlink()
    assert _inspect(version) == 1
    assert "no version here" in capsys.readouterr().out


def test_no_directory_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _inspect(tmp_path / "v000009") == 2
    assert capsys.readouterr().err == (
        f"{COMMAND}: expected the directory of a policy version; there is no directory {tmp_path / 'v000009'}\n"
    )


def test_it_says_who_signed_and_how_old_it_is(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    assert _inspect(version) == 0
    said = capsys.readouterr().out
    assert re.search(r"created .* \d+ (s|min) ago", said)
    assert re.search(r"signed +│ yes +│ no", said)
    assert _inspect(version, f"--public-key={key.public}") == 1
    assert "does not verify: signed: NotAuthentic" in capsys.readouterr().out
    (version / "manifest.sig").write_bytes(key.sign((version / "manifest.json").read_bytes()))
    assert _inspect(version, f"--public-key={other.public}", f"--public-key={key.public}") == 0
    assert f"by {key.public}" in capsys.readouterr().out
    assert _inspect(version, f"--public-key={other.public}") == 1
    assert _inspect(version) == 0
    assert "yes, not checked: give --public-key" in capsys.readouterr().out


def test_it_says_that_a_version_is_a_rollback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = local_store(tmp_path)
    for seed in range(2):
        publish_seed(store, seed)
    roll_back(store, 0, Authenticity(), None)
    assert _inspect(tmp_path / "v000002") == 0
    assert re.search(r"content +│? *of version 0", capsys.readouterr().out)


def test_what_an_actor_reported_is_shown(version: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = decode_manifest((version / "manifest.json").read_bytes()).digest
    LocalPolicyStore(version.parent).quarantine(digest, "its probe differs", "actor-7")
    assert _inspect(version) == 0
    said = capsys.readouterr().out
    for part in ("Quarantined: an actor", "actor-7", "its probe differs"):
        assert part in said


def test_a_module_that_is_no_policy_is_known_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_module(nn.Linear(3, 2), (torch.ones(4, 3),), tmp_path / "v000000", how="trace")
    assert _inspect(tmp_path / "v000000") == 0
    said = capsys.readouterr().out
    for part in ("an exported module: 1 inputs, 1 outputs", "None is the batch", "equals the probe"):
        assert part in said
    damaged = tmp_path / "v000000" / "probe.safetensors"
    arrays = {name: array + 1 for name, array in decode_tensors(damaged.read_bytes()).items()}
    _replace(tmp_path / "v000000", damaged.name, encode_weights(arrays))
    assert _inspect(tmp_path / "v000000") == 1
    assert "ProbeMismatch" in capsys.readouterr().out


def test_the_allowed_operators_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(COMMAND, InspectOptions, main, ["--operators"]) == 0
    printed = capsys.readouterr().out.split()
    assert {"ONNX:", "MatMul", "TorchScript:", "linear", "relu_"} <= set(printed)
    assert not {"RandomNormal", "rand", "from_file", "print"} & set(printed)


def test_a_directory_is_needed_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(COMMAND, InspectOptions, main, []) == 2
    assert "expected the directory of a policy version" in capsys.readouterr().err


def test_operators_are_refused_by_name_unless_they_are_allowed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = local_store(tmp_path / "policies")
    {name: stage for name, stage, _ in impure_stages()}["a program that draws numbers"](store, 1)
    version = store.path / "v000000"
    assert _inspect(version) == 1
    assert "replace rand, which is not on the list" in " ".join(capsys.readouterr().out.split())
    assert _inspect(version, "--allow-operator", "print") == 1
    assert _inspect(version, "--allow-operator", "rand") == 0
    assert _inspect(version, "--trust-program") == 0


def test_named_sizes_are_shown_with_their_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dynamic = {"input": {1: torch.export.Dim("n", min=1, max=9)}}
    export_module(nn.Tanh(), (torch.randn(3, 4),), tmp_path / "m", how="trace", dynamic=dynamic)
    assert _inspect(tmp_path / "m", "--no-sandbox") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "None is the batch dimension, n is 1 to 9" in said
    assert "(None, 'n')" in said
