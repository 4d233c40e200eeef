"""The folders of the options can be left out."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.agent_policies import local_store, publish_seed
from tests.support.paths import REPOSITORY

_WITHOUT_OPTIONS = """
import importlib, pkgutil, sys
from pathlib import Path

OPTIONS = ("actor.canary", "actor.prefetch")

def block(option):
    for name in [name for name in sys.modules if name.startswith(option)]:
        del sys.modules[name]
    sys.modules[option] = None  # as if the folder were not there

def import_all(package):
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if found.name not in OPTIONS:
            module = importlib.import_module(found.name)
            if found.ispkg:
                import_all(module)

for option in OPTIONS:
    block(option)
import_all(importlib.import_module("actor"))

from actor.agent import Agent
from actor.agent_options import AgentOptions
from shared.store.policy_store import LocalPolicyStore

with Agent(LocalPolicyStore(Path(sys.argv[1])), AgentOptions(deadline_s=60.0)) as agent:
    agent.reset()
    print("acts", agent.policy.version)
for option, other in (OPTIONS, OPTIONS[::-1]):
    block(option)
    del sys.modules[other]
    import_all(importlib.import_module(other))
    print(other, "without", option)
"""


@pytest.mark.slow
def test_without_the_folders_of_the_options_the_rest_imports_and_acts(tmp_path: Path) -> None:
    publish_seed(local_store(tmp_path), 0)
    command = [sys.executable, "-c", _WITHOUT_OPTIONS, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "acts 0",
        "actor.prefetch without actor.canary",
        "actor.canary without actor.prefetch",
    ]
