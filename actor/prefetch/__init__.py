"""Optional: a process beside the actor that verifies new versions and hands over their weights in shared memory.

Entry point: ``prefetcher.Prefetcher``, a version source of ``actor/versions``. Only ``actor/agent_builder.py`` imports
this folder.
"""
