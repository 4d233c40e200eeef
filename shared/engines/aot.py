"""Engine for AOTInductor packages: native code, loaded only with explicit permission."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from shared.engines.eager import InputTensors
from shared.engines.engine import EngineKind
from shared.engines.torch_arrays import copies_of, tensor_of, weight_array
from shared.errors import NotTrusted, PolicyOutputError, ProgramError, WeightsError
from shared.policy.program_digest import program_digest
from shared.policy.weights import check_weights

# Metadata of a package, in addition to what AOTInductor writes.
BUILD_KEY = "rl_hotswap_build"
LAYOUT_KEY = "rl_hotswap_weights"

_MODEL = "model"  # torch's name of the only model of a package


def build_name() -> str:
    """Return the torch release and the processor's instruction set that a package made here needs."""
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}"


class AotEngine:
    """A loaded package with its own weights. One package serves every version."""

    kind: EngineKind = "aot"

    def __init__(
        self,
        package: bytes,
        weights: Mapping[str, np.ndarray],
        *,
        trust_native: bool,
        outputs: Sequence[int] | None = None,
    ) -> None:
        """Load ``package``, whose SHA-256 the caller has verified; ``run`` returns the outputs at ``outputs``, or all.

        Raises NotTrusted, WeightsError, and ProgramError for a package that is broken or made for another machine.
        """
        if not trust_native:
            raise NotTrusted(
                "allow native code with --trust-native if you trust the publisher: an AOTInductor package is native "
                "code without a sandbox"
            )
        self.program_digest = program_digest("aot", package)
        self._outputs = outputs
        self._inputs = InputTensors()
        # torch loads packages from files only. This private file holds the verified bytes.
        with tempfile.TemporaryDirectory(prefix="rl-hotswap-") as directory:
            path = Path(directory) / "policy.pt2"
            path.write_bytes(package)
            tensors = _expected_tensors(path)
            self._loader = _load(path)
        self._layout = {name: weight_array(torch.empty(shape, dtype=dtype)) for name, (dtype, shape) in tensors.items()}
        self._complex = {name for name, (dtype, _) in tensors.items() if dtype.is_complex}
        self._names = tuple(name for name in self._loader.get_constant_fqns() if name in self._layout)
        self.load_weights(weights)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute the outputs; see ``Engine``. Raises PolicyOutputError when the package reports an error."""
        try:
            outputs = self._loader.run(self._inputs.fill(inputs))
            kept = outputs if self._outputs is None else [outputs[position] for position in self._outputs]
            # Copied, because an output may be a view of an input, a weight or another output.
            return copies_of(kept)
        except Exception as error:  # a RuntimeError, but torch does not document that
            raise PolicyOutputError(f"AOTInductor: {type(error).__name__}: {error}") from error

    def load_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Replace the weights; see ``Engine``. The package copies the arrays and checks nothing."""
        check_weights(self._layout, weights)
        constants = {name: tensor_of(np.array(weights[name], order="C")) for name in self._names}
        constants |= {name: torch.view_as_complex(constants[name]) for name in self._names if name in self._complex}
        try:
            # Constants other than weights, such as literals in the policy's code, keep the package's values.
            self._loader.load_constants(constants, use_inactive=False, check_full_update=False)
        except Exception as error:  # as above
            raise WeightsError(f"AOTInductor: {type(error).__name__}: {error}") from error

    def has_weights(self, weights: Mapping[str, np.ndarray]) -> bool:  # noqa: ARG002
        """Return True: the package's copy cannot be read, and its code is trusted; see ``Engine``."""
        return True

    def twin(self) -> None:
        """Return None: a package can only be loaded from its file."""
        return


def _expected_tensors(path: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of each weight. A foreign package is not loaded: unknown instructions end the process."""
    try:
        loader: Any = torch._C._aoti.AOTIModelPackageLoader
        metadata = loader.load_metadata_from_package(str(path), _MODEL)
        build, layout = metadata[BUILD_KEY], metadata[LAYOUT_KEY]
        places = msgspec.json.decode(layout, type=dict[str, tuple[str, tuple[int, ...]]])
        expected = {name: (_torch_dtype(dtype), shape) for name, (dtype, shape) in places.items()}
    except Exception as error:  # RuntimeError without a package, KeyError without our metadata
        raise ProgramError(f"not an AOTInductor package of this project: {type(error).__name__}: {error}") from error
    if build != build_name():
        raise ProgramError(
            "publish from a machine like this one, or choose another engine: the AOTInductor package needs "
            f"{build}, found {build_name()}"
        )
    return expected


def _torch_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"expected a dtype of torch, found {name[:40]!r}")
    return dtype


def _load(path: Path) -> Any:
    try:
        # single-threaded, one copy of the weights, on the CPU
        return torch._C._aoti.AOTIModelPackageLoader(str(path), _MODEL, True, 1, -1)
    except Exception as error:  # RuntimeError, and any error of loading a shared library
        raise ProgramError(f"AOTInductor: {type(error).__name__}: {error}") from error
