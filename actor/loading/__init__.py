"""From a version's files to a loaded policy: the engines to try, their order, and the reuse of engines in memory.

Entry point: ``engine_fallback.EngineFallback``. ``actor/versions`` and the agent import this folder.
"""
