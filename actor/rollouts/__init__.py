"""The acting loop, which records rollouts, and the accounts of finished episodes.

Entry point: ``rollout_worker.RolloutWorker``. The session, the agent, ``canary`` and ``rl_hotswap`` import this folder.
"""
