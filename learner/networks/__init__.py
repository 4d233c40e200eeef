"""Networks of the built-in algorithm and their action distributions.

Entry point: ``acting_policy.ActingPolicy``. ``ppo``, ``export``, ``sb3`` and ``training`` import this folder.
"""
