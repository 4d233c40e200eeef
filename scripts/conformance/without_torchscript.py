"""``python scripts/conformance/without_torchscript.py ARGUMENTS``: run ``python ARGUMENTS`` without TorchScript."""

import os
import subprocess
import sys
from pathlib import Path


def environment() -> dict[str, str]:
    """Return the variables of a process in which, and in whose children, every use of TorchScript raises."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent / "no_torchscript"), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, *sys.argv[1:]], check=False, env=environment()).returncode)
