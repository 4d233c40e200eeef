"""Weights that an engine receives before they are verified, and the purity of programs without a sandbox."""

from typing import Any

import msgspec
import numpy as np
import pytest

from actor.loading.engine_fallback import EngineFallback
from actor.loading.engine_loader import EngineOptions, VersionMaterial, WeightPreloader
from actor.verification.probe_verifier import ProbeVerifier
from shared.engines.engine import Engine, EngineKind
from shared.engines.torchscript import TorchScriptEngine
from shared.errors import ProgramImpure, WeightsError
from shared.files.digests import BLAKE3_FROM_BYTES
from shared.policy.weights import decode_weights
from shared.store.policy_store import LocalPolicyStore
from tests.support.agent_policies import OBSERVATIONS, exporter, make_policy, publish_seed, quiet_noise
from tests.support.bad_programs import WideLogProbForSomeInputs, publish_program
from tests.support.impure_policies import ReversesLargeBatches

FIRST: tuple[EngineKind, str] = ("torchscript", "digest")


def _files(seed: int) -> dict[str, bytes]:
    return exporter().files(make_policy(seed=seed).state_dict())[0]


def _engine(seed: int) -> TorchScriptEngine:
    files = _files(seed)
    return TorchScriptEngine.from_bytes(files["policy.ts"], decode_weights(files["weights.safetensors"]))


class _Spares:
    """One spare engine for the first caller."""

    def __init__(self) -> None:
        self.engine: Engine | None = _engine(0)

    def __call__(self, kind: EngineKind, program_digest: str) -> Engine | None:
        assert (kind, program_digest) == FIRST
        engine, self.engine = self.engine, None
        return engine


def _answers(engine: Engine) -> list[np.ndarray]:
    return list(engine.run([OBSERVATIONS, quiet_noise(make_policy(), 3)]))


def test_an_engine_is_handed_over_once_its_weights_are_verified() -> None:
    weights = _files(1)["weights.safetensors"]
    expected = _engine(1)
    preloader = WeightPreloader(FIRST, _Spares())
    preloader.preload(weights)
    assert preloader.take(*FIRST) is None, "not yet"
    tensors = preloader.weights(weights)
    engine = preloader.take(*FIRST)
    assert engine is not None
    for found, wanted in zip(_answers(engine), _answers(expected), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert all(tensor.base is not None for tensor in tensors.values()), "views of the bytes, which were read once"
    assert preloader.take(*FIRST) is None, "once"


@pytest.mark.parametrize(("first", "is_right"), [(FIRST, False), (None, True)])
def test_without_a_program_or_with_weights_from_other_bytes_no_engine_is_preloaded(
    first: tuple[EngineKind, str] | None, is_right: bool
) -> None:
    unverified, verified = (_files(seed)["weights.safetensors"] for seed in (2 if is_right else 1, 2))
    preloader = WeightPreloader(first, _Spares())
    preloader.preload(unverified)
    assert preloader.weights(verified).keys() == preloader.weights(unverified).keys()
    assert preloader.take(*FIRST) is None


def test_an_engine_of_another_program_is_not_given_out() -> None:
    weights = _files(1)["weights.safetensors"]
    preloader = WeightPreloader(FIRST, _Spares())
    preloader.preload(weights)
    preloader.weights(weights)
    assert preloader.take("onnx", "digest") is None
    assert preloader.take("torchscript", "another") is None
    assert preloader.take(*FIRST) is not None


@pytest.mark.parametrize("data", [b"", b"no weights", _files(1)["weights.safetensors"][:-1]])
def test_invalid_weights_are_an_error_only_for_verified_bytes(data: bytes) -> None:
    preloader = WeightPreloader(FIRST, _Spares())
    preloader.preload(data)
    with pytest.raises(WeightsError):
        preloader.weights(data)
    assert preloader.take(*FIRST) is None


@pytest.mark.parametrize("engine", ["llvm", "onnx", "torchscript"])
@pytest.mark.parametrize("steered", [False, True])
def test_purity_is_verified_once_or_with_all_weights_that_steer_the_program(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch, *, engine: EngineKind, steered: bool
) -> None:
    if steered and engine != "torchscript":
        pytest.skip("the steered program is one of TorchScript")
    verified, verify_purity = [], ProbeVerifier.verify_purity

    def count(self: ProbeVerifier, engine: Engine, weights: dict[str, np.ndarray]) -> None:
        verified.append(engine.kind)
        verify_purity(self, engine, weights)

    monkeypatch.setattr(ProbeVerifier, "verify_purity", count)
    engines, spares = EngineFallback(EngineOptions(engine, batch_size=3, measure=False)), dict[str, Engine]()
    for seed in range(3):
        if steered:
            manifest = publish_program(store, WideLogProbForSomeInputs(seed))
        else:
            manifest = publish_seed(store, seed, onnx=True)
        result = engines.load(store.open(manifest.version), lambda _, digest: spares.pop(digest, None))
        assert result.policy.engine.kind == engine
        if seed == 1:  # the next version is a reload of this engine
            spares[result.policy.engine.program_digest] = result.policy.engine
    assert verified == [engine] * (3 if steered else 1)


def test_an_impure_program_is_refused_without_a_sandbox(store: LocalPolicyStore) -> None:
    version = publish_program(store, ReversesLargeBatches()).version
    engines = EngineFallback(EngineOptions("torchscript", batch_size=3))
    with pytest.raises(ProgramImpure, match="compute each row from that row alone"):
        engines.load(store.open(version), lambda _, __: None)


@pytest.mark.parametrize("blake3_from_bytes", [0, BLAKE3_FROM_BYTES])
def test_another_digest_of_a_program_in_the_manifest_is_noticed(
    store: LocalPolicyStore, monkeypatch: pytest.MonkeyPatch, blake3_from_bytes: int
) -> None:
    """With a SHA-256 of the file it is noticed without reading the file."""
    monkeypatch.setattr("shared.files.digests.BLAKE3_FROM_BYTES", blake3_from_bytes)
    files = store.open(publish_seed(store, 0, onnx=True).version)
    unused: Any = None
    material = VersionMaterial(files, files.manifest, unused, unused, unused, unused, unused)
    entry = files.manifest.program("onnx")
    assert entry is not None
    assert material.states_program(entry)
    assert not material.states_program(msgspec.structs.replace(entry, program_digest="0" * 64))
