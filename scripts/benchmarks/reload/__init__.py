"""Cost and correctness of replacing a policy while it acts: step times, prefetching, action integrity, memory.

Entry point: ``reload.measure_reload``.
"""
