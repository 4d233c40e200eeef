"""Transport of rollouts from actors to the learner, and the accounting of each one.

Entry points: ``zmq_transport`` (processes) and ``in_process`` (threads). Interface: ``transport``. Both sides
import this
folder.
"""
