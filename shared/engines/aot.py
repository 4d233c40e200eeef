"""Runs an AOTInductor package: native code, loaded only where a person allowed that by name."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from shared.engines.eager import to_tensor
from shared.engines.engine import EngineKind
from shared.errors import NotTrusted, PolicyOutputError, ProgramError, WeightsError
from shared.policy.weights import check_finite, check_layout

# What a package says of itself, beside what AOTInductor writes.
BUILD_KEY = "rl_hotswap_build"
LAYOUT_KEY = "rl_hotswap_weights"

_MODEL = "model"  # the name that torch gives the only model of a package


def build_name() -> str:
    """What packages are made for: torch's release, whose library they call, and the instructions of this processor."""
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


def aot_program_digest(package: bytes) -> str:
    """SHA-256 of the package: it is made once, and only the weights that it is given change."""
    return hashlib.sha256(package).hexdigest()


class AotEngine:
    """One loaded package with weights of its own, so that one package serves every version."""

    kind: EngineKind = "aot"

    def __init__(
        self,
        package: bytes,
        weights: Mapping[str, np.ndarray],
        *,
        trust_native: bool,
        outputs: Sequence[int] | None = None,
    ) -> None:
        """Raises NotTrusted unless ``trust_native``, ProgramError for what is no package or not one for this machine.

        ``package`` was compared with the manifest's SHA-256 by the caller; ``weights`` are copied. Raises WeightsError.
        ``outputs`` are the positions of those that ``run`` returns.
        """
        if not trust_native:
            raise NotTrusted(
                "an AOTInductor package is native code, which nothing holds back once it is loaded. "
                "Where you trust who published it, allow it by name (--trust-native)."
            )
        self.program_digest = aot_program_digest(package)
        self._outputs = outputs
        # torch loads packages from files only: this one is nobody else's, and holds the bytes that were verified.
        with tempfile.TemporaryDirectory(prefix="rl-hotswap-") as directory:
            path = Path(directory) / "policy.pt2"
            path.write_bytes(package)
            self._layout = _expected_layout(path)
            self._loader = _load(path)
        self._names = tuple(name for name in self._loader.get_constant_fqns() if name in self._layout)
        self.load_weights(weights)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Engine. Raises PolicyOutputError where the package reports an error."""
        try:
            outputs = self._loader.run([to_tensor(array) for array in inputs])
            kept = outputs if self._outputs is None else [outputs[position] for position in self._outputs]
            # Copied, since an output may be a view of an input, of a weight, or of another output.
            return [output.numpy().copy() for output in kept]
        except Exception as error:  # a RuntimeError, but there is no promise of that
            raise PolicyOutputError(f"AOTInductor: {type(error).__name__}: {error}") from error

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """See Engine. The package copies what it is given, and checks nothing of it."""
        check_layout(self._layout, weights)
        check_finite(weights)
        constants = {name: torch.from_numpy(np.array(weights[name], order="C")) for name in self._names}
        try:
            # What is no weight (a constant that was written in the policy's code) stays as it is in the package.
            self._loader.load_constants(constants, use_inactive=False, check_full_update=False)
        except Exception as error:  # as above
            raise WeightsError(f"AOTInductor: {type(error).__name__}: {error}") from error

    def twin(self) -> None:
        """See Engine. A package is loaded from its file."""
        return


def _expected_layout(path: Path) -> dict[str, np.ndarray]:
    """Empty arrays as the package wants its weights. Raises ProgramError for a package that is not for this machine.

    Asked before its code is loaded: instructions that a processor lacks end the process.
    """
    try:
        loader: Any = torch._C._aoti.AOTIModelPackageLoader
        metadata = loader.load_metadata_from_package(str(path), _MODEL)
        build, layout = metadata[BUILD_KEY], metadata[LAYOUT_KEY]
        places = msgspec.json.decode(layout, type=dict[str, tuple[str, tuple[int, ...]]])
        expected = {name: np.empty(shape, dtype) for name, (dtype, shape) in places.items()}
    except Exception as error:  # RuntimeError for what is no package; KeyError for one that says nothing of itself
        raise ProgramError(f"not an AOTInductor package of this project: {type(error).__name__}: {error}") from error
    if build != build_name():
        raise ProgramError(
            f"the AOTInductor package was made for {build}, and this is {build_name()}: "
            "publish from such a machine, or choose another engine"
        )
    return expected


def _load(path: Path) -> Any:
    try:
        # One caller at a time, one copy of the weights, on the CPU.
        return torch._C._aoti.AOTIModelPackageLoader(str(path), _MODEL, True, 1, -1)
    except Exception as error:  # RuntimeError, and whatever loading a shared library may raise
        raise ProgramError(f"AOTInductor: {type(error).__name__}: {error}") from error
