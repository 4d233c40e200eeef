import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from learner.export.pickled_module import load_pickled_module
from shared.errors import ConfigurationError, NotTrusted, ProgramError

EXPLOITED = []


class Exploit:
    """Does what any pickle may do."""

    def __reduce__(self) -> tuple[object, tuple[object]]:
        return EXPLOITED.append, ("code ran",)


class Vanished(nn.Module):
    pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_nothing_is_read_without_trust(file: Path) -> None:
    file.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(NotTrusted, match=r"model\.pt would be read as a pickle.*--trust-pickle"):
        load_pickled_module(file, trust_pickle=False)
    assert not EXPLOITED


def test_a_trusted_module_is_read_on_the_cpu_and_in_eval_mode(file: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
    torch.save(model, file)
    found = load_pickled_module(file, trust_pickle=True)
    assert not found.training
    assert torch.equal(found(torch.ones(3, 4)), model.eval()(torch.ones(3, 4)))


def test_a_state_dict_is_told_apart(file: Path) -> None:
    torch.save(nn.Linear(4, 2).state_dict(), file)
    with pytest.raises(ProgramError, match=r"holds an object of type OrderedDict, .*--module package\.module:Class"):
        load_pickled_module(file, trust_pickle=True)


def test_a_class_that_is_not_here_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Vanished(), file)
    monkeypatch.delitem(globals(), "Vanished")
    with pytest.raises(ProgramError, match=r"names a class that cannot be imported here: .*Vanished"):
        load_pickled_module(file, trust_pickle=True)


def test_what_is_no_pickle_and_what_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        load_pickled_module(file, trust_pickle=True)
    file.write_bytes(b"no pickle")
    with pytest.raises(ProgramError, match=r"model\.pt could not be read: UnpicklingError"):
        load_pickled_module(file, trust_pickle=True)
