"""Pickles as in the ``data.pkl`` of a TorchScript archive, written by hand."""

import io
import pickle

import torch


class StorageId:
    """A value that is pickled as a persistent id, as torch does with storages. This one has five bytes."""

    def __init__(self, key: str, *, pid: object = None) -> None:
        self.pid = ("storage", torch.ByteStorage, key, "cpu", 5) if pid is None else pid


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return value.pid if isinstance(value, StorageId) else None


def pickled(value: object) -> bytes:
    """Return the pickle of ``value``, in which every ``StorageId`` is a persistent id."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def pickled_global(module: str, name: str, then: bytes = b"") -> bytes:
    """Return the pickle of the global ``module.name``, followed by the opcodes ``then``."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + then + b"."


def pickled_object(state: object, module: str = "__torch__.m", name: str = "Small") -> bytes:
    """Return the pickle of an object of the archive whose attributes are ``state``."""
    return pickled_global(module, name, b")\x81" + opcodes(pickled(state)) + b"b")


def opcodes(data: bytes) -> bytes:
    """Return the opcodes of a pickle between its protocol and its end."""
    return data[2:-1]
