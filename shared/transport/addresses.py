"""Where a learner on this machine can be reached."""

import sys
import tempfile
from pathlib import Path

from shared.errors import ConfigurationError

_LONGEST_IPC_PATH = 103  # macOS; Linux has room for 107


def local_address(name: str) -> str:
    """An ipc address for ``name`` (letters, digits, ``-``, ``_`` and ``.``).

    On Linux it is abstract: no file is left behind, and the name is free again the moment its process ends. Elsewhere
    it is a socket file in the temporary directory. Raises ConfigurationError.
    """
    if sys.platform == "linux":
        path = f"@rl-hotswap-{name}"
    else:
        path = str(Path(tempfile.gettempdir()) / f"rl-hotswap-{name}.sock")
    if not name or set("/\\\0*@:") & set(name) or len(path.encode()) > _LONGEST_IPC_PATH:
        raise ConfigurationError(
            f"{name!r} cannot name an ipc address: expected a short plain name (the address has at most "
            f"{_LONGEST_IPC_PATH} bytes), found {path!r}"
        )
    return f"ipc://{path}"
