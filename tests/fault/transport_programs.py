"""A learner and an actor as processes of their own, to be stopped and killed (``-m tests.fault.transport_programs``).

The learner learns from whatever comes, prints how many rollouts it has taken up, and at the end of its standard input
stops the actors and prints its books. The actor sends until it is told to stop.
"""

import sys
import threading

import msgspec

from shared.transport.zmq_transport import ZmqReceiver, ZmqSender
from tests.rollout_examples import RUN_ID, example_rollout, plain_layout


def learner(address: str) -> None:
    receiver = ZmqReceiver(address, plain_layout(), RUN_ID, heartbeat_s=0.02)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("bound", flush=True)
    while not ended.is_set():
        rollout = receiver.receive(0.05)
        if rollout is not None:
            receiver.count_learned(rollout)
            print(f"learned {rollout.header.sequence}", flush=True)
    receiver.stop_actors(10.0)
    print(msgspec.json.encode(receiver.accounts).decode(), flush=True)
    receiver.close()


def actor(address: str) -> None:
    sender = ZmqSender(address, RUN_ID, "actor-0", learner_timeout_s=0.5)
    while not sender.stop_requested:
        if sender.wait_for_room(1.0):
            sender.send(example_rollout(plain_layout()))
    sender.close()


if __name__ == "__main__":
    {"learner": learner, "actor": actor}[sys.argv[1]](sys.argv[2])
