"""Batches of environments behind one interface, and the choice of their vectorised form.

Entry point: ``environment_creation.make_environments``. ``session``, ``rollouts`` and ``rl_hotswap`` import it.
"""
