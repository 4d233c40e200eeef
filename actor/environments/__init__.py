"""Batches of environments behind one interface, and the choice of how to vectorise them.

Entry point: ``environment_creation.make_environments``. The session, ``rollouts`` and ``rl_hotswap`` import this
folder.
"""
