import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from learner.export.policy_export import PolicyExporter
from learner.publishing.policy_publisher import PolicyPublisher
from shared.policy.manifest import Manifest, TrainingProgress
from shared.policy.weights import decode_weights
from shared.store.policy_store import LocalPolicyStore, PolicyStore, Retention
from shared.store.version_files import Sign
from tests.support.captured_logs import CapturedLogs
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy
from tests.support.waiting import PATIENCE_S, until

Start = Callable[..., PolicyPublisher]


@pytest.fixture(scope="module")
def exporter() -> PolicyExporter:
    return PolicyExporter(TinyPolicy(), TINY_SIGNATURE, onnx=False)


@pytest.fixture
def start(exporter: PolicyExporter) -> Iterator[Start]:
    with ExitStack() as ended:

        def start(store: PolicyStore, *, synchronous: bool, keep: int = 20) -> PolicyPublisher:
            origin = {"run_id": "run", "env_id": "Env-v0"}
            retention = Retention(keep_newest=keep)
            publisher = PolicyPublisher(exporter, store, **origin, retention=retention, synchronous=synchronous)
            ended.callback(publisher.close)
            return publisher

        yield start


def update(number: int) -> TrainingProgress:
    return TrainingProgress(update=number, env_steps=number * 100)


def filled(value: float) -> TinyPolicy:
    """A policy that is recognised by its weights."""
    policy = TinyPolicy()
    with torch.no_grad():
        policy.body.bias.fill_(value)
    return policy


def value_in(store: PolicyStore, version: int) -> float:
    opened = store.open(version)
    return float(decode_weights(opened.read(opened.manifest.weights))["body.bias"][0])


class GatedStore(LocalPolicyStore):
    """A local store whose ``publish`` waits for the gate, as on a slow disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, fsync=False)
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def publish(
        self,
        files: Mapping[str, bytes],
        describe: Callable[..., Manifest],
        *,
        durable: bool = True,
        sign: Sign | None = None,
    ) -> Manifest:
        self.entered.release()
        assert self.gate.acquire(timeout=PATIENCE_S)
        return super().publish(files, describe, durable=durable, sign=sign)


@pytest.mark.parametrize("synchronous", [True, False])
def test_manifest_records_run_environment_and_progress(
    start: Start, exporter: PolicyExporter, store: LocalPolicyStore, synchronous: bool
) -> None:
    publisher = start(store, synchronous=synchronous)
    assert publisher.latest_version is None
    publisher.publish(filled(0.5), update(3))
    assert publisher.flush(PATIENCE_S)
    assert (publisher.latest_version, publisher.published.count, publisher.last_error) == (0, 1, None)
    publisher.close()
    manifest = store.open(0).manifest
    assert (manifest.run_id, manifest.env_id, manifest.training) == ("run", "Env-v0", update(3))
    assert manifest.export == exporter.reports
    assert manifest.signature == TINY_SIGNATURE
    assert value_in(store, 0) == 0.5


def test_digests_of_committed_versions_are_known(start: Start, store: LocalPolicyStore) -> None:
    publisher = start(store, synchronous=True)
    assert publisher.newest_stored_version() is None
    publisher.publish(filled(0.0), update(0))
    assert publisher.published_digest(0) == store.open(0).manifest.digest
    assert publisher.published_digest(1) is None
    assert publisher.newest_stored_version() == 0


def test_synchronous_requests_are_committed_before_publish_returns(start: Start, store: LocalPolicyStore) -> None:
    publisher = start(store, synchronous=True)
    for number in range(3):
        publisher.publish(filled(number), update(number))
        assert store.newest() == publisher.latest_version == number


def test_weights_are_copied_at_the_request(start: Start, tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    publisher = start(store, synchronous=False)
    policy = filled(1.0)
    publisher.publish(policy, update(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    publisher.publish(policy, update(2))
    with torch.no_grad():
        policy.body.bias.fill_(7.0)  # training continues while both are in progress
    store.gate.release(2)
    publisher.close(PATIENCE_S)
    assert [value_in(store, version) for version in store.versions()] == [1.0, 1.0]


def test_newest_request_replaces_older_ones_and_training_never_waits(start: Start, tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    publisher = start(store, synchronous=False)
    publisher.publish(filled(0), update(0))
    assert store.entered.acquire(timeout=PATIENCE_S)
    for number in range(1, 6):
        publisher.publish(filled(number), update(number))  # returns although the store hangs
    assert not publisher.flush(0)
    store.gate.release(2)
    assert publisher.flush(PATIENCE_S)
    assert [value_in(store, version) for version in store.versions()] == [0, 5]
    assert publisher.published.count == 2


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_failure_is_logged_and_the_next_request_tries_again(
    start: Start, store: LocalPolicyStore, captured_logs: CapturedLogs, synchronous: bool
) -> None:
    store.path.write_text("a file where the store should be")
    publisher = start(store, synchronous=synchronous)
    publisher.publish(filled(1), update(1))
    until(lambda: publisher.last_error is not None)
    assert publisher.flush(PATIENCE_S)
    assert publisher.latest_version is None
    line = captured_logs.messages("ERROR")[0]
    assert "publishing fails: StoreUnavailable: " in line
    assert line.endswith("update 1 is not published, and training continues")
    store.path.unlink()
    publisher.publish(filled(2), update(2))
    until(lambda: publisher.last_error is None)
    publisher.close()
    assert value_in(store, publisher.latest_version or 0) == 2
    assert any("publishing works again" in line for line in captured_logs.messages())


def test_refused_request_is_retried_without_a_new_one(
    start: Start, store: LocalPolicyStore, captured_logs: CapturedLogs
) -> None:
    store.path.write_text("a file where the store should be")
    publisher = start(store, synchronous=False)
    publisher.publish(filled(1), update(1))
    until(lambda: publisher.last_error is not None)
    store.path.unlink()
    until(lambda: publisher.latest_version == 0)
    assert value_in(store, 0) == 1


def test_close_ends_the_retries(start: Start, store: LocalPolicyStore, captured_logs: CapturedLogs) -> None:
    store.path.write_text("a file where the store should be")
    publisher = start(store, synchronous=False)
    publisher.publish(filled(1), update(1))
    publisher.close(PATIENCE_S)
    assert publisher.latest_version is None
    assert not any("abandoned" in line for line in captured_logs.messages())


def test_diverged_weights_are_logged_and_not_published(
    start: Start, store: LocalPolicyStore, captured_logs: CapturedLogs
) -> None:
    publisher = start(store, synchronous=True)
    publisher.publish(filled(float("nan")), update(1))
    assert store.newest() is None
    assert any("WeightsError: body.bias" in line for line in captured_logs.messages())


def test_close_sweeps_old_versions(start: Start, store: LocalPolicyStore) -> None:
    publisher = start(store, synchronous=True, keep=2)
    for number in range(5):
        publisher.publish(filled(number), update(number))
    publisher.close()
    assert store.versions() == [3, 4]


def test_close_publishes_the_waiting_request_and_later_ones_are_dropped(
    start: Start, tmp_path: Path, captured_logs: CapturedLogs
) -> None:
    store = GatedStore(tmp_path)
    publisher = start(store, synchronous=False)
    store.gate.release(2)
    publisher.publish(filled(1), update(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    publisher.publish(filled(2), update(2))
    publisher.close(PATIENCE_S)
    publisher.close(PATIENCE_S)
    assert store.newest() is not None
    assert value_in(store, store.newest() or 0) == 2
    publisher.publish(filled(3), update(3))
    assert any("update 3 is not published" in line for line in captured_logs.messages())
    assert value_in(store, store.newest() or 0) == 2


def test_close_gives_up_on_a_hanging_store(start: Start, tmp_path: Path, captured_logs: CapturedLogs) -> None:
    store = GatedStore(tmp_path)
    publisher = start(store, synchronous=False)
    publisher.publish(filled(1), update(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    publisher.close(timeout_s=0.01)
    assert any("abandoned" in line for line in captured_logs.messages())
    store.gate.release()
    assert publisher.flush(PATIENCE_S)
