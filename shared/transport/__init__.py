"""Transport of rollouts from actors to the learner, and the accounting of each one.

Entry points: ``zmq_sender`` and ``zmq_receiver`` (processes), ``in_process`` (threads). Interface: ``transport``. Both
sides import this folder.
"""
