"""Runs programs that this machine has never seen in a separate process with limits before they may be loaded.

Entry point: ``program_sandbox.ProgramSandbox``. ``loading``, ``prefetch`` and the agent import this folder.
"""
