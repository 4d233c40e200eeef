"""The file operations of a remote store. Errors of a backend become StoreUnavailable, unless a docstring names them."""

from contextlib import suppress
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from shared.errors import ConfigurationError
from shared.files.bounded_read import NotRegularFileError
from shared.files.storage_errors import remote_storage

Details = dict[str, Any]


class RemoteFiles:
    """Files below a URL, named by relative paths; ``""`` is the root."""

    def __init__(self, url: str) -> None:
        try:
            self._fs, root = url_to_fs(url)
        except ValueError as error:
            raise ConfigurationError(
                f"expected a path or a URL, found {url!r}: {error}; protocols: "
                f"{', '.join(sorted(fsspec.available_protocols()))}"
            ) from error
        except ImportError as error:
            raise ConfigurationError(f"{url!r}: {error}") from error
        self._root = root.rstrip("/")

    def list(self, directory: str) -> dict[str, Details]:
        """Return the entries of ``directory`` by name, uncached; none if it does not exist."""
        path = self._path(directory)
        with remote_storage(f"list {path}"):
            self._fs.invalidate_cache()
            try:
                found: list[Details] = self._fs.ls(path, detail=True)
            except FileNotFoundError:
                return {}
        # Object stores list the placeholder of a directory among its entries.
        paths = ((str(details["name"]).rstrip("/"), details) for details in found)
        return {name.rpartition("/")[2]: details for name, details in paths if name != path}

    def exists(self, name: str) -> bool:
        """Return True if the file exists. Errors are not taken for absence, as ``exists`` of fsspec does."""
        try:
            self._info(name)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, size_bytes: int) -> bytes:
        """Return at most ``size_bytes + 1`` bytes. Raises FileNotFoundError or NotRegularFileError (a link, a pipe)."""
        details = self._info(name)
        if details["type"] != "file" or details.get("islink"):
            raise NotRegularFileError("a symbolic link" if details.get("islink") else f"type {details['type']!r}")
        if details.get("size") == 0:
            return b""  # object stores refuse an empty range
        path = self._path(name)
        with remote_storage(f"read {path}", expecting=FileNotFoundError):
            return bytes(self._fs.cat_file(path, start=0, end=size_bytes + 1))

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        with remote_storage(f"write {path}"):
            self._fs.pipe_file(path, data)

    def create(self, name: str, data: bytes = b"1") -> bool:
        """Create a small file; return False if it exists."""
        path = self._path(name)
        try:
            with remote_storage(f"create {path}", expecting=FileExistsError):
                self._create(path, data)
        except FileExistsError:
            return False
        return True

    def _create(self, path: str, data: bytes) -> None:
        try:
            with self._fs.open(path, "xb") as file:
                file.write(data)
        except (NotImplementedError, ValueError):  # the backend has no exclusive creation
            self._fs.pipe_file(path, data, mode="create")

    def remove(self, name: str) -> None:
        path = self._path(name)
        with remote_storage(f"remove {path}"), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def make_directory(self, directory: str) -> None:
        path = self._path(directory)
        with remote_storage(f"make {path}"):
            self._fs.makedirs(path, exist_ok=True)

    def remove_directory(self, directory: str) -> None:
        """Remove a directory and its content if it exists."""
        path = self._path(directory)
        with remote_storage(f"remove {path}"), suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(path, recursive=True)

    def _info(self, name: str) -> Details:
        path = self._path(name)
        with remote_storage(f"look at {path}", expecting=FileNotFoundError):
            info: Details = self._fs.info(path)
        return info

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root
