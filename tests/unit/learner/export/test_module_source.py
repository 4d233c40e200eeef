import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from learner.export.module_source import load_pickled_module
from shared.errors import ConfigurationError, NotTrusted, ProgramError

EXPLOITED = []


class Exploit:
    """Runs code when it is unpickled, as any pickle may."""

    def __reduce__(self) -> tuple[object, tuple[object]]:
        return EXPLOITED.append, ("code ran",)


class Vanished(nn.Module):
    pass


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


def test_nothing_is_read_without_trust(file: Path) -> None:
    file.write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(NotTrusted, match=r"--trust-pickle.*model\.pt would be read as a pickle"):
        load_pickled_module(file, trust_pickle=False)
    assert not EXPLOITED


def test_a_trusted_module_is_read_on_the_cpu_and_in_eval_mode(file: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
    torch.save(model, file)
    found = load_pickled_module(file, trust_pickle=True)
    assert not found.training
    assert torch.equal(found(torch.ones(3, 4)), model.eval()(torch.ones(3, 4)))


def test_state_dict_is_refused(file: Path) -> None:
    torch.save(nn.Linear(4, 2).state_dict(), file)
    with pytest.raises(ProgramError, match=r"--module package\.module:Class .* holds an object of type OrderedDict"):
        load_pickled_module(file, trust_pickle=True)


def test_class_that_cannot_be_imported_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(Vanished(), file)
    monkeypatch.delitem(globals(), "Vanished")
    with pytest.raises(ProgramError, match=r"names a class that cannot be imported here: .*Vanished"):
        load_pickled_module(file, trust_pickle=True)


def test_missing_file_and_other_content_are_refused(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        load_pickled_module(file, trust_pickle=True)
    file.write_bytes(b"no pickle")
    with pytest.raises(ProgramError, match=r"model\.pt could not be read: UnpicklingError"):
        load_pickled_module(file, trust_pickle=True)
