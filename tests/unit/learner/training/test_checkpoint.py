"""Checkpoints are atomic, verified, and more than one of them is kept."""

from pathlib import Path

import pytest
import torch

from learner.training.checkpoint import CheckpointStore
from shared.errors import CheckpointError
from shared.run.run_directory import RunDirectory
from tests.support.captured_logs import CapturedLogs

PAYLOAD = {"weights": {"w": torch.arange(5.0)}, "count": 7, "name": "x", "none": None, "list": [1.5, b"bytes"]}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path)


def test_a_saved_payload_is_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(3, PAYLOAD)
    step, payload = store.load_newest()
    assert step == 3
    assert torch.equal(payload.pop("weights")["w"], torch.arange(5.0))
    assert payload == {"count": 7, "name": "x", "none": None, "list": [1.5, b"bytes"]}


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 10):
        store.save(step, {"step": step})
    assert store.steps() == [2, 10]
    assert len(list(tmp_path.iterdir())) == 2
    assert store.load_newest() == (10, {"step": 10})


def test_unfinished_files_are_swept_and_are_no_checkpoints(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path).create()
    (run.checkpoints / ".tmp-abc").write_bytes(b"half")
    assert not run.has_checkpoint()
    store = CheckpointStore(run.checkpoints)
    store.save(7, {"step": 7})
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest[0] == 7
    store.sweep()
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-000000007.pt"]


@pytest.mark.parametrize(
    "damage", ["flip a bit", "truncate", "empty", "something else", "of a later release", "directory"]
)
def test_a_damaged_newest_falls_back_to_the_one_before(
    store: CheckpointStore, damage: str, captured_logs: CapturedLogs
) -> None:
    store.save(1, {"step": 1})
    path = store.save(2, {"step": 2})
    data = bytearray(path.read_bytes())
    if damage == "flip a bit":
        data[len(data) // 2] ^= 1
    elif damage == "truncate":
        del data[len(data) // 2 :]
    elif damage == "of a later release":
        data = data.replace(b"checkpoint 1\n", b"checkpoint 2\n", 1)
    else:
        data = bytearray(b"" if damage == "empty" else b"P" * 500)
    path.unlink()
    if damage == "directory":
        path.mkdir()
    else:
        path.write_bytes(data)
    assert store.load_newest() == (1, {"step": 1})
    warnings = captured_logs.messages("WARNING")
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert "falling back" in warnings[0]


def test_an_older_checkpoint_is_used_if_newer_ones_are_damaged(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    paths = [store.save(step, {"step": step}) for step in range(1, 5)]
    paths[3].write_bytes(b"")
    paths[2].unlink()
    assert store.load_newest() == (2, {"step": 2})
    warnings = captured_logs.messages("WARNING")
    assert len(warnings) == 1


def test_every_bit_is_verified(store: CheckpointStore) -> None:
    path = store.save(1, {"w": torch.zeros(3)})
    whole = path.read_bytes()
    for position in range(0, len(whole), 37):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        with pytest.raises(CheckpointError):
            store.load_newest()


def test_where_none_can_be_read_the_error_names_each(tmp_path: Path, captured_logs: CapturedLogs) -> None:
    store = CheckpointStore(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="holds no checkpoint that can be read"):
        store.load_newest()
    store.save(1, {})
    store.save(2, {})
    for path in (tmp_path / "absent").iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)000000002.*000000001"):
        store.load_newest()


class Stranger:
    """Not plain data: unpickling it would run code."""


def test_only_plain_data_is_loaded(store: CheckpointStore, captured_logs: CapturedLogs) -> None:
    store.save(1, {"step": 1})
    store.save(2, {"step": Stranger()})
    assert store.load_newest() == (1, {"step": 1})
    assert "other than plain data" in captured_logs.messages("WARNING")[0]


def test_a_write_that_fails_leaves_what_was_there(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, {"step": 1})

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", no_space)
        with pytest.raises(CheckpointError, match="No space left"):
            store.save(2, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000001.pt"]
    assert store.load_newest() == (1, {"step": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_state_that_is_not_finite_is_not_written(store: CheckpointStore, value: float) -> None:
    store.save(1, {"step": 1})
    with pytest.raises(CheckpointError, match=r"learner\.weights\.1 holds values that are not finite"):
        store.save(2, {"learner": {"weights": [torch.zeros(2), torch.tensor([0.0, value])]}})
    assert store.steps() == [1]


def test_a_checkpoint_of_a_training_that_has_diverged_is_not_resumed(
    store: CheckpointStore, captured_logs: CapturedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(1, {"step": 1})
    with monkeypatch.context() as patched:  # as releases wrote that did not look
        patched.setattr("learner.training.checkpoint._find_not_finite", lambda _payload: None)
        store.save(2, {"learner": {"w": torch.tensor([float("nan")])}})
    assert store.load_newest() == (1, {"step": 1})
    assert "diverged: learner.w holds values that are not finite" in captured_logs.messages("WARNING")[0]


def test_checkpoints_before_a_step_can_be_loaded(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        store.save(step, {"step": step})
    assert store.load_newest(before=3) == (2, {"step": 2})
    with pytest.raises(CheckpointError):
        store.load_newest(before=1)
