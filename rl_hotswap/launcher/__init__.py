"""The processes of one training on this machine: supervisor, children, and the live display.

Entry point: ``supervisor.Supervisor``. ``rl_hotswap/cli`` imports this folder.
"""
