"""Policies that other libraries trained, as modules under the policy contract, compared with the library's inference.

One file for each library, which alone imports it: ``cleanrl``, ``rllib`` and ``torchrl``; Stable-Baselines3 is
``learner.sb3``. Entry point of the command: ``saved_policy.read_policy``. Only ``rl_hotswap`` imports this folder.
"""
