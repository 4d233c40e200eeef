"""PPO with V-trace targets: losses, advantages, and the updates of feed-forward and recurrent networks.

Entry point: ``learner.Learner``. ``learner/training`` imports this folder.
"""
