"""Checkpoints: written atomically, verified when read, and several of them kept."""

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from shared.errors import CheckpointError
from shared.run.run_directory import CHECKPOINT_NAME

_TEMPORARY_PREFIX = ".tmp-"
_MAGIC = b"rl-hotswap checkpoint 1\n"
_DIGEST_BYTES = 32


class CheckpointStore:
    """Directory of files ``checkpoint-000000042.pt``: a header line, the SHA-256 of the payload, the payload.

    The payload is written by ``torch.save`` and read with ``weights_only=True``: tensors, numbers, strings, bytes and
    containers of them. Reading a checkpoint runs no code from it.
    All tensors are finite: a training that has diverged could not continue.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"expected to keep at least one checkpoint; found {keep}")
        self._directory = directory
        self._keep = keep

    def sweep(self) -> None:
        """Remove the unfinished files of a learner that was killed. The caller must be the only writer."""
        try:
            for unfinished in self._directory.glob(f"{_TEMPORARY_PREFIX}*"):
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("{}: could not remove half-written checkpoints: {}", self._directory, error)

    def save(self, step: int, payload: dict[str, Any]) -> Path:
        """Write the checkpoint of ``step`` and remove all but the newest ``keep``. Raises CheckpointError."""
        if (name := _find_not_finite(payload)) is not None:
            raise CheckpointError(f"checkpoint {step} is not written: {name} holds values that are not finite")
        buffer = io.BytesIO(_MAGIC)
        buffer.seek(len(_MAGIC) + _DIGEST_BYTES)
        torch.save(payload, buffer)
        data = buffer.getbuffer()
        data[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES] = hashlib.sha256(data[len(_MAGIC) + _DIGEST_BYTES :]).digest()
        path = self._directory / f"checkpoint-{step:09d}.pt"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            _write_atomically(path, data)
            for old in self.steps()[: -self._keep]:
                (self._directory / f"checkpoint-{old:09d}.pt").unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(f"{path} could not be written: {error}") from error
        return path

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, ascending."""
        if not self._directory.is_dir():
            return []
        return sorted(
            int(found[1]) for path in self._directory.iterdir() if (found := CHECKPOINT_NAME.fullmatch(path.name))
        )

    def load_newest(self, *, before: int | None = None) -> tuple[int, dict[str, Any]]:
        """Return step and payload of the newest intact checkpoint, of a step below ``before``; log those that are not.

        Raises CheckpointError if there is none.
        """
        failures = []
        for step in reversed(self.steps()):
            if before is not None and step >= before:
                continue
            path = self._directory / f"checkpoint-{step:09d}.pt"
            try:
                return step, _read(path)
            except CheckpointError as error:
                logger.warning("{}; falling back to the previous checkpoint", error)
                failures.append(str(error))
        raise CheckpointError("; ".join([f"{self._directory} holds no checkpoint that can be read", *failures]))


def _write_atomically(path: Path, data: memoryview) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_TEMPORARY_PREFIX, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _find_not_finite(value: object, name: str = "") -> str | None:
    """Return the name of the first tensor in nested dictionaries and lists that is not finite, or None."""
    if isinstance(value, torch.Tensor):
        return None if not value.is_floating_point() or bool(value.isfinite().all()) else name
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    parts = (_find_not_finite(item, f"{name}.{key}" if name else str(key)) for key, item in items)
    return next((found for found in parts if found is not None), None)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error}") from error
    body = memoryview(data)[len(_MAGIC) + _DIGEST_BYTES :]
    if not data.startswith(_MAGIC):
        raise CheckpointError(f"{path} is not a checkpoint of this release")
    if hashlib.sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]:
        raise CheckpointError(f"{path} is damaged: its {len(data)} bytes differ from those that were written")
    try:
        payload: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
    except Exception as error:  # torch.load raises any error of its parsers
        raise CheckpointError(
            f"{path} contains something other than plain data: {type(error).__name__}: {error}"
        ) from error
    if (name := _find_not_finite(payload)) is not None:
        raise CheckpointError(f"{path} is of a training that has diverged: {name} holds values that are not finite")
    return payload
