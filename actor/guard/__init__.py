"""The deadline of acting calls, and the memory of contents that ended their process in a call.

Entry point: ``call_guard.CallGuard``. The agent and its builder import this folder.
"""
