"""The life of policy versions in one actor: select, load, hold, adopt, quarantine.

Entry points: ``loader_thread.PolicyLoader`` (a thread) and ``policy_manager.PolicyManager`` (policies in memory).
The agent, ``actor/canary`` and ``actor/prefetch`` import this folder. It imports neither option: they implement its
protocols ``SelectionStrategy``, ``Assignment`` and ``VersionSource``.
"""
