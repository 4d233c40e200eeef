"""A process apart in which programs from a store run before the actor loads them.

Entry point: ``program_sandbox.ProgramSandbox``. ``loading``, ``prefetch`` and the agent import this folder.
"""
