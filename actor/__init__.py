"""The actor: runs environments with the newest policy version that passes verification.

Entry points: ``actor.run`` (the process) and ``actor.agent.Agent`` (the library). ``rl_hotswap`` imports this package;
``learner`` and ``shared`` never do. Its folders, top first: session, canary, prefetch, versions, rollouts,
environments,
acting, loading, sandbox, verification, watching. A folder imports only from folders after it.
"""
