"""Thousands of mutated rollouts, messages and manifests: each is accepted, or refused with a project error.

No other exception occurs, and memory stays bounded; the timeout of pytest ends a hang.
"""

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from loguru import logger

from shared.errors import ConfigurationError, ManifestError, PolicyLoadError, RolloutInvalid, TransportError
from shared.policy.manifest import decode_manifest
from shared.rollouts.rollout import RolloutLayout
from shared.rollouts.rollout_codec import decode_rollout, encode_rollout
from shared.store.policy_store import LocalPolicyStore
from shared.transport import messages
from shared.transport.messages import Bye, Credit, Hello, Refused, Sender, Sending, Stop, Welcome
from shared.transport.receiver_flow import ReceiverFlow, ReceiverOptions
from shared.transport.rollout_ledger import Ledger
from shared.transport.sender_flow import SenderFlow
from shared.transport.transport_keys import ACTOR_KEY_NAME, keep_learner_keys, read_actor_keys
from tests.support.mutations import mutants
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout, rich_layout
from tests.support.sample_versions import sample_files, sample_manifest

HOW_MANY = [pytest.param(1_000), pytest.param(10_000, marks=pytest.mark.soak)]
NAME = Sender(RUN_ID, "actor-0", "session-1")
FROM_ACTOR = [Hello(NAME, 3), Sending(NAME, 0), Bye(NAME, 7)]
FROM_LEARNER = [Welcome(3, 2, 0.5), Refused("why"), Credit(4, 7), Stop()]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Bound the memory of a test, and disable its warnings."""
    logger.disable("shared")
    tracemalloc.start()
    yield
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    logger.enable("shared")
    assert peak_bytes < 32 * 2**20


def wire(layout: RolloutLayout) -> list[bytes]:
    """Return the frames of a rollout with final observations and the end of an episode."""
    rollout = example_rollout(layout, finals=2)
    rollout.header = msgspec.structs.replace(rollout.header, sequence=0, session_id=NAME.key.session_id)
    return [messages.encode(Sending(NAME, 0)), *(bytes(frame) for frame in encode_rollout(rollout))]


@pytest.mark.parametrize("how_many", HOW_MANY)
@pytest.mark.parametrize("layout", [plain_layout(), rich_layout()], ids=["plain", "rich"])
def test_a_mutated_rollout_is_valid_or_refused(layout: RolloutLayout, how_many: int) -> None:
    whole = wire(layout)
    outcomes = {"accepted": 0, "refused": 0}
    for i, mutant in enumerate(mutants(b"".join(whole), how_many, seed=1)):
        # Mutate one frame, and all frames together, in turn.
        frames = list(whole[1:])
        if i % 2:
            frames[i // 2 % len(frames)] = next(mutants(frames[i // 2 % len(frames)], 1, seed=i))
        else:
            frames = [mutant[sum(map(len, whole[:j])) :][: len(whole[j])] for j in range(1, len(whole))]
        try:
            rollout = decode_rollout(frames, layout)
        except RolloutInvalid:
            outcomes["refused"] += 1
        else:
            layout.check(rollout)
            outcomes["accepted"] += 1
    assert outcomes["accepted"] > 0  # the last bit of a float may change
    assert outcomes["refused"] > how_many / 4


@pytest.mark.parametrize("synchronous", [False, True])
@pytest.mark.parametrize("how_many", HOW_MANY)
def test_a_receiver_accepts_any_messages_and_its_accounts_balance(how_many: int, synchronous: bool) -> None:
    ledger = Ledger()
    flow = ReceiverFlow(plain_layout(), RUN_ID, ledger, ReceiverOptions(window=4, synchronous=synchronous))
    rollout = wire(plain_layout())[1:]
    for i in range(how_many):
        message = messages.encode(FROM_ACTOR[i % len(FROM_ACTOR)])
        (mutant,) = mutants(message, 1, seed=i)
        flow.process(b"route-%d" % (i % 5), [mutant, *rollout] if i % 7 else [mutant])
        if i % 3 == 0:
            flow.heartbeats()
        if i % 11 == 0:
            flow.disconnected(b"route-%d" % (i % 5))
        while flow.waiting > 2:
            arrival, _ = flow.pop()
            if flow.decode(arrival) is not None:
                ledger.settle(arrival.sender, arrival.sequence, "learned")
        flow.resume(None)
    flow.stop()
    accounts = ledger.accounts
    assert accounts.invalid > 0
    assert accounts.sent == accounts.learned + accounts.stale + accounts.invalid + accounts.lost


@pytest.mark.parametrize("how_many", HOW_MANY)
def test_a_sender_accepts_any_messages(how_many: int) -> None:
    flow = SenderFlow(4, 5.0, 0.0)
    understood = 0
    for i in range(how_many):
        (mutant,) = mutants(messages.encode(FROM_LEARNER[i % len(FROM_LEARNER)]), 1, seed=i)
        with contextlib.suppress(TransportError):
            flow.process(messages.decode_from_learner(mutant), float(i))
            understood += 1
        assert flow.wait_s(float(i)) >= 0.0
    assert 0 < understood < how_many


@pytest.mark.parametrize("how_many", HOW_MANY)
def test_a_mutated_manifest_is_refused_or_names_only_its_own_files(store: LocalPolicyStore, how_many: int) -> None:
    files = sample_files()
    store.publish(files, sample_manifest)
    path = store.path / "v000000" / "manifest.json"
    opened = refused = 0
    for mutant in mutants(path.read_bytes(), how_many, seed=3):
        with contextlib.suppress(ManifestError):
            decode_manifest(mutant)
        path.write_bytes(mutant)
        try:
            version = store.open(0)
        except PolicyLoadError:
            refused += 1
            continue
        opened += 1
        for name in version.manifest.files:
            with contextlib.suppress(PolicyLoadError):
                assert version.read(name) == files[name]
    assert opened > 0
    assert refused > how_many / 4


def test_a_mutated_key_is_refused(tmp_path: Path) -> None:
    keep_learner_keys(tmp_path)
    path = tmp_path / ACTOR_KEY_NAME
    refused = 0
    for mutant in mutants(path.read_bytes(), 200, seed=4):
        path.write_bytes(mutant)
        try:
            read_actor_keys(path)
        except ConfigurationError:
            refused += 1
    assert refused > 100
