"""Accelerators of the update that autograd is the reference for: closed-form gradients and compiled functions.

Entry point: ``backprop``. Only ``learner/ppo`` imports this folder.
"""
