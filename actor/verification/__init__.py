"""Checks that a version passes before it acts: signature, memory, and its probe on the engine in use.

``loading``, ``sandbox``, ``acting``, ``prefetch`` and ``rl_hotswap`` import this folder.
"""
