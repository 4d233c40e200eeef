"""One training: the loop that receives rollouts, updates, publishes and writes checkpoints.

Entry point: ``training.train``. ``learner/run.py`` and ``rl_hotswap`` import this folder.
"""
