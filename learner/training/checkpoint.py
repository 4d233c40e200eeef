"""Checkpoints that a crash cannot spoil: written whole or not at all, verified when read, and more than one of them."""

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
    """A directory of ``checkpoint-000000042.pt``: a line that says what it is, the SHA-256 of the rest, the rest.

    The rest is what ``torch.save`` makes of a dictionary of tensors, numbers, strings, bytes and containers of them;
    anything else is refused when it is read, so reading a checkpoint runs nobody's code.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"expected to keep at least one checkpoint; found {keep}")
        self._directory = directory
        self._keep = keep

    def sweep(self) -> None:
        """Remove what a learner that was killed had half written. Only for whoever alone writes here."""
        try:
            for unfinished in self._directory.glob(f"{_TEMPORARY_PREFIX}*"):
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("{}: could not remove half-written checkpoints: {}", self._directory, error)

    def save(self, step: int, payload: dict[str, Any]) -> Path:
        """Write the checkpoint of ``step`` and remove all but the newest few. Raises CheckpointError."""
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
        """Steps that have a checkpoint, ascending."""
        if not self._directory.is_dir():
            return []
        return sorted(
            int(found[1]) for path in self._directory.iterdir() if (found := CHECKPOINT_NAME.fullmatch(path.name))
        )

    def load_newest(self) -> tuple[int, dict[str, Any]]:
        """Step and payload of the newest checkpoint that is whole; each broken one is logged.

        Raises CheckpointError where none is, naming what is wrong with each.
        """
        failures = []
        for step in reversed(self.steps()):
            path = self._directory / f"checkpoint-{step:09d}.pt"
            try:
                return step, _read(path)
            except CheckpointError as error:
                logger.warning("{}; falling back to the checkpoint before it", error)
                failures.append(str(error))
        raise CheckpointError(
            f"{self._directory} holds no checkpoint that can be read"
            + "".join(f"\n  {failure}" for failure in failures)
        )


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


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error}") from error
    body = memoryview(data)[len(_MAGIC) + _DIGEST_BYTES :]
    if not data.startswith(_MAGIC):
        raise CheckpointError(f"{path} is not a checkpoint of this release")
    if hashlib.sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]:
        raise CheckpointError(f"{path} is damaged: its bytes are not those that were written ({len(data)} bytes)")
    try:
        payload: dict[str, Any] = torch.load(io.BytesIO(body), weights_only=True)
    except Exception as error:  # torch.load raises whatever its parsers do; all of it means one thing
        raise CheckpointError(
            f"{path} holds something that is no plain data: {type(error).__name__}: {error}"
        ) from error
    return payload
