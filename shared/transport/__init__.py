"""Transport of rollouts from actors to the learner, and the accounting of each one.

Interface: ``transport``. Entry points: ``zmq_sender``, ``zmq_receiver``, ``in_process``. Both sides import this folder.
"""
