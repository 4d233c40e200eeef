"""TorchScript archives whose code is written by hand, around the objects of one small module."""

import functools
import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.engines.eager import module_arrays
from shared.engines.torchscript import TorchScriptEngine
from shared.scripting.scripting import save_archive, save_program, script

CODE = "code/__torch__/tests/support/script_archives.py"
CLASS = "__torch__.tests.support.script_archives.Small"
_HEADER = f"""\
class Small(Module):
  __parameters__ = ["weight", ]
  __buffers__ = ["count", ]
  weight : Tensor
  count : Tensor
  training : bool
  _is_full_backward_hook : Optional[bool]
  names : List[str]
  scales : List[Tensor]
  steps : int
  def forward(self: {CLASS},
    inputs: List[Tensor]) -> List[Tensor]:
"""


class Small(nn.Module):
    """A module with a parameter, a buffer, a list of tensors, a list of strings and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("count", torch.zeros(1))
        self.names = ["a", "b"]
        self.scales = [torch.ones(3)]
        self.steps = 2

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        scaled = inputs[0] * self.weight * self.scales[0] + self.count + self.steps
        return [scaled, torch.full([len(self.names)], 1.0)]


def script_engine(module: nn.Module, *, dtypes: Sequence[np.dtype[Any]] | None = None) -> TorchScriptEngine:
    """Return the engine of ``module``, scripted and saved as a program, with its weights."""
    return TorchScriptEngine.from_bytes(save_program(script(module.eval())), module_arrays(module), dtypes=dtypes)


SMALL_WEIGHTS = {"weight": np.ones(3, np.float32), "count": np.zeros(1, np.float32)}


@functools.cache
def small_archive() -> bytes:
    """Return the archive of ``Small`` as torch writes it."""
    return save_archive(script(Small().eval()))


def with_body(body: str, *, methods: str = "", definitions: str = "") -> bytes:
    """Return the archive with another ``forward`` (its statements), more methods, and more definitions after it."""
    lines = "".join(f"    {line}\n" for line in body.strip("\n").split("\n"))
    more = "".join(f"  {line}\n" for line in methods.strip("\n").splitlines())
    return with_entries({CODE: (_HEADER + lines + more + definitions).encode()})


def with_entries(changed: Mapping[str, bytes], archive: bytes | None = None) -> bytes:
    """Return the archive with the entries in ``changed`` replaced or added, without debugging records."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive or small_archive())) as old,
        zipfile.ZipFile(buffer, "w") as new,
    ):
        contents = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, content in (contents | dict(changed)).items():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return buffer.getvalue()
