"""Files: bounded reads, small atomic writes, hashing on a thread, reused buffers, and mapping of system errors.

Everything above imports this folder; it imports only ``errors``.
"""
