import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from loguru import logger

from learner.export.policy_export import PolicyExporter
from learner.publishing.policy_publisher import PolicyPublisher
from shared.policy.manifest import Manifest, TrainingProgress
from shared.policy.weights import decode_weights
from shared.store.policy_store import LocalPolicyStore, PolicyStore, Retention
from shared.store.version_files import Sign
from tests.support.tiny_policy import TINY_SIGNATURE, TinyPolicy
from tests.support.waiting import PATIENCE_S, until


@pytest.fixture(scope="module")
def exporter() -> PolicyExporter:
    return PolicyExporter(TinyPolicy(), TINY_SIGNATURE, onnx=False)


@pytest.fixture
def store(tmp_path: Path) -> LocalPolicyStore:
    return LocalPolicyStore(tmp_path / "policies", fsync=False)


@pytest.fixture
def records() -> Iterator[list[str]]:
    """What is logged, as ``LEVEL message``."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message).strip()), format="{level} {message}", level="DEBUG")
    yield lines
    logger.remove(sink)


def publisher_of(exporter: PolicyExporter, store: PolicyStore, *, synchronous: bool, keep: int = 20) -> PolicyPublisher:
    return PolicyPublisher(
        exporter, store, run_id="run", env_id="Env-v0", retention=Retention(keep_newest=keep), synchronous=synchronous
    )


def update(number: int) -> TrainingProgress:
    return TrainingProgress(update=number, env_steps=number * 100)


def filled(value: float) -> TinyPolicy:
    """A policy that can be told by its weights."""
    policy = TinyPolicy()
    with torch.no_grad():
        policy.body.bias.fill_(value)
    return policy


def value_in(store: PolicyStore, version: int) -> float:
    opened = store.open(version)
    return float(decode_weights(opened.read(opened.manifest.weights))["body.bias"][0])


class GatedStore(LocalPolicyStore):
    """A local store that publishes when it is let, as a slow disk does."""

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
def test_a_version_says_where_it_comes_from(
    exporter: PolicyExporter, store: LocalPolicyStore, synchronous: bool
) -> None:
    publisher = publisher_of(exporter, store, synchronous=synchronous)
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


def test_what_was_never_published_is_disowned(exporter: PolicyExporter, store: LocalPolicyStore) -> None:
    before = publisher_of(exporter, store, synchronous=True)
    before.publish(filled(0.0), update(0))
    before.close()
    publisher = publisher_of(exporter, store, synchronous=True)
    old = store.open(0).manifest.digest
    assert publisher.disowns(0, old) is None  # a learner before this one published it
    assert "never published" in (publisher.disowns(1, old) or "")
    publisher.publish(filled(1.0), update(1))
    new = store.open(1).manifest.digest
    assert publisher.disowns(0, old) is None
    assert publisher.disowns(1, new) is None
    assert "has digest" in (publisher.disowns(1, old) or "")
    assert "never published" in (publisher.disowns(2, new) or "")
    publisher.close()


def test_synchronously_every_request_is_a_version_at_once(exporter: PolicyExporter, store: LocalPolicyStore) -> None:
    publisher = publisher_of(exporter, store, synchronous=True)
    for number in range(3):
        publisher.publish(filled(number), update(number))
        assert store.newest() == publisher.latest_version == number
    publisher.close()


def test_the_weights_are_those_of_the_moment(exporter: PolicyExporter, tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    publisher = publisher_of(exporter, store, synchronous=False)
    policy = filled(1.0)
    publisher.publish(policy, update(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    publisher.publish(policy, update(2))
    with torch.no_grad():
        policy.body.bias.fill_(7.0)  # training goes on while both are under way
    store.gate.release(2)
    publisher.close(PATIENCE_S)
    assert [value_in(store, version) for version in store.versions()] == [1.0, 1.0]


def test_the_newest_request_wins_and_training_never_waits(exporter: PolicyExporter, tmp_path: Path) -> None:
    store = GatedStore(tmp_path)
    publisher = publisher_of(exporter, store, synchronous=False)
    publisher.publish(filled(0), update(0))
    assert store.entered.acquire(timeout=PATIENCE_S)
    for number in range(1, 6):
        publisher.publish(filled(number), update(number))  # returns although the store hangs
    assert not publisher.flush(0)
    store.gate.release(2)
    assert publisher.flush(PATIENCE_S)
    assert [value_in(store, version) for version in store.versions()] == [0, 5]
    assert publisher.published.count == 2
    publisher.close()


@pytest.mark.parametrize("synchronous", [True, False])
def test_a_failure_is_logged_and_the_next_request_tries_again(
    exporter: PolicyExporter, store: LocalPolicyStore, records: list[str], synchronous: bool
) -> None:
    store.path.write_text("a file where the store should be")
    publisher = publisher_of(exporter, store, synchronous=synchronous)
    publisher.publish(filled(1), update(1))
    until(lambda: publisher.last_error is not None)
    assert publisher.flush(PATIENCE_S)
    assert publisher.latest_version is None
    (line, *_) = [line for line in records if line.startswith("ERROR")]
    assert "publishing fails: StoreUnavailable: " in line
    assert line.endswith("update 1 is not published, and training goes on")
    store.path.unlink()
    publisher.publish(filled(2), update(2))
    until(lambda: publisher.last_error is None)
    publisher.close()
    assert value_in(store, publisher.latest_version or 0) == 2
    assert any("publishing works again" in line for line in records)


def test_what_the_store_refused_is_tried_again_without_another_request(
    exporter: PolicyExporter, store: LocalPolicyStore, records: list[str]
) -> None:
    store.path.write_text("a file where the store should be")
    publisher = publisher_of(exporter, store, synchronous=False)
    publisher.publish(filled(1), update(1))
    until(lambda: publisher.last_error is not None)
    store.path.unlink()
    until(lambda: publisher.latest_version == 0)
    assert value_in(store, 0) == 1
    publisher.close()


def test_what_the_store_goes_on_refusing_ends_with_the_publisher(
    exporter: PolicyExporter, store: LocalPolicyStore, records: list[str]
) -> None:
    store.path.write_text("a file where the store should be")
    publisher = publisher_of(exporter, store, synchronous=False)
    publisher.publish(filled(1), update(1))
    publisher.close(PATIENCE_S)
    assert publisher.latest_version is None
    assert not any("still under way" in line for line in records)


def test_diverged_weights_are_not_published_and_training_is_not_disturbed(
    exporter: PolicyExporter, store: LocalPolicyStore, records: list[str]
) -> None:
    publisher = publisher_of(exporter, store, synchronous=True)
    publisher.publish(filled(float("nan")), update(1))
    assert store.newest() is None
    assert any("WeightsError: body.bias" in line for line in records)
    publisher.close()


def test_the_end_leaves_what_is_to_be_kept(exporter: PolicyExporter, store: LocalPolicyStore) -> None:
    publisher = publisher_of(exporter, store, synchronous=True, keep=2)
    for number in range(5):
        publisher.publish(filled(number), update(number))
    publisher.close()
    assert store.versions() == [3, 4]


def test_closing_publishes_what_waits_and_then_nothing_more(
    exporter: PolicyExporter, tmp_path: Path, records: list[str]
) -> None:
    store = GatedStore(tmp_path)
    publisher = publisher_of(exporter, store, synchronous=False)
    store.gate.release(2)
    publisher.publish(filled(1), update(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    publisher.publish(filled(2), update(2))
    publisher.close(PATIENCE_S)
    publisher.close(PATIENCE_S)
    assert store.newest() is not None
    assert value_in(store, store.newest() or 0) == 2
    publisher.publish(filled(3), update(3))
    assert any("update 3 is not published" in line for line in records)
    assert value_in(store, store.newest() or 0) == 2


def test_a_store_that_hangs_cannot_keep_a_learner_from_ending(
    exporter: PolicyExporter, tmp_path: Path, records: list[str]
) -> None:
    store = GatedStore(tmp_path)
    publisher = publisher_of(exporter, store, synchronous=False)
    publisher.publish(filled(1), update(1))
    assert store.entered.acquire(timeout=PATIENCE_S)
    publisher.close(timeout_s=0.01)
    assert any("still under way" in line for line in records)
    store.gate.release()
    assert publisher.flush(PATIENCE_S)
