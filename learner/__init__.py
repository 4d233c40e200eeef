"""The learner: trains policies on rollouts, publishes them as versions, and exports policies from elsewhere.

Entry point: ``learner.run`` (the process). ``rl_hotswap`` imports this package; ``actor`` and ``shared`` never do. Its
folders, top first: training, importers, sb3, publishing, export, ppo, networks. A folder imports only from folders
after it.
"""
