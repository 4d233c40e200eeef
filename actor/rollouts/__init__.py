"""The acting loop that records rollouts, and the accounting of finished episodes.

Entry point: ``rollout_worker.RolloutWorker``. The session, the agent, ``canary`` and ``rl_hotswap`` import this folder.
"""
