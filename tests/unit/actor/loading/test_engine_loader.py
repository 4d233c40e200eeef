"""Weights that an engine receives before they are verified."""

import numpy as np
import pytest

from actor.loading.engine_loader import WeightPreloader
from shared.engines.engine import Engine, EngineKind
from shared.engines.torchscript import TorchScriptEngine
from shared.errors import WeightsError
from tests.support.agent_policies import OBSERVATIONS, exporter, make_policy, quiet_noise

FIRST: tuple[EngineKind, str] = ("torchscript", "digest")


def _files(seed: int) -> dict[str, bytes]:
    return exporter().files(make_policy(seed=seed).state_dict())[0]


class _Spares:
    """One spare engine for the first caller."""

    def __init__(self) -> None:
        self.engine: Engine | None = TorchScriptEngine.from_bytes(_files(0)["policy.ts"])

    def __call__(self, kind: EngineKind, program_digest: str) -> Engine | None:
        assert (kind, program_digest) == FIRST
        engine, self.engine = self.engine, None
        return engine


def _answers(engine: Engine) -> list[np.ndarray]:
    return list(engine.run([OBSERVATIONS, quiet_noise(make_policy(), 3)]))


def test_an_engine_is_handed_over_once_its_weights_are_verified() -> None:
    weights = _files(1)["weights.safetensors"]
    expected = TorchScriptEngine.from_bytes(_files(1)["policy.ts"])
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
