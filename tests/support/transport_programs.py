"""A learner and actors as processes, which tests stop and kill (``-m tests.support.transport_programs``).

The first argument is the directory with the keys. The learner learns from every rollout and prints their numbers. At
the end of its standard input it stops the actors and prints its accounts. With a directory it keeps a journal there; a
line of input makes it save its accounts, from which it continues when it is started again. ``actor`` sends until it is
stopped; ``actor-of-five`` sends five and waits.
"""

import sys
import threading
from pathlib import Path

import msgspec

from shared.transport.arrival_journal import ArrivalJournal
from shared.transport.receiver_flow import ReceiverOptions
from shared.transport.transport_keys import ACTOR_KEY_NAME, ActorKeys, keep_learner_keys, read_actor_keys
from shared.transport.zmq_receiver import ZmqReceiver
from shared.transport.zmq_sender import ZmqSender
from tests.support.rollout_examples import RUN_ID, example_rollout, plain_layout, rich_layout

HEAVY_LAYOUT = rich_layout(length=32)


def learner(keys: str, address: str, directory: str | None = None) -> None:
    journal = None if directory is None else ArrivalJournal(Path(directory) / "arrivals.jsonl")
    options, own_keys = ReceiverOptions(heartbeat_s=0.02), keep_learner_keys(Path(keys))
    receiver = ZmqReceiver(address, plain_layout(), RUN_ID, options, keys=own_keys, journal=journal)
    saved = Path(directory or "") / "accounts"
    if directory is not None and saved.exists():
        receiver.restore(saved.read_bytes())
    ended = threading.Event()

    def wait_for_input() -> None:
        for _ in sys.stdin:
            saved.write_bytes(receiver.state())
            print("saved", flush=True)
        ended.set()

    threading.Thread(target=wait_for_input, daemon=True).start()
    print("bound", flush=True)
    while not ended.is_set():
        rollout = receiver.receive(0.05)
        if rollout is not None:
            receiver.count_learned(rollout)
            print(f"learned {rollout.header.sequence}", flush=True)
    receiver.stop_actors(10.0)
    print(msgspec.json.encode(receiver.accounts).decode(), flush=True)
    receiver.close()


def _keys(directory: str) -> ActorKeys:
    return read_actor_keys(Path(directory) / ACTOR_KEY_NAME)


def actor(keys: str, address: str) -> None:
    sender = ZmqSender(address, RUN_ID, "actor-0", keys=_keys(keys), learner_timeout_s=0.5)
    while not sender.stop_requested:
        if sender.wait_for_room(1.0):
            sender.send(example_rollout(plain_layout()))
    sender.close()


def actor_of_five(keys: str, address: str) -> None:
    sender = ZmqSender(address, RUN_ID, "five", keys=_keys(keys), learner_timeout_s=30.0)
    for _ in range(5):
        sender.send(example_rollout(plain_layout(), actor_id="five"))
    threading.Event().wait()


def heavy_actor(keys: str, address: str) -> None:
    rollout = example_rollout(HEAVY_LAYOUT, batch_size=64)
    sender = ZmqSender(address, RUN_ID, "actor-0", keys=_keys(keys), window=4, learner_timeout_s=30.0)
    while True:
        sender.send(rollout)


if __name__ == "__main__":
    programs = {"learner": learner, "actor": actor, "actor-of-five": actor_of_five, "heavy-actor": heavy_actor}
    programs[sys.argv[1]](*sys.argv[2:])
