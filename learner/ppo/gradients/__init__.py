"""Forward and backward passes of an update: autograd as the reference, and its optional accelerators.

Entry point: ``accelerate.accelerate``. Only ``learner/ppo`` imports this folder.
"""
