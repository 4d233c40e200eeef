"""Optional: a process beside the actor that verifies new versions and hands over their weights in shared memory.

Entry point: ``prefetcher.Prefetcher``. Only ``actor/agent.py`` imports this folder.
"""
