"""Files: bounded reads, small atomic writes, hashing on a thread, reused buffers, and mapping of system errors.

Every folder of ``shared/`` may import this one; it imports only ``errors``.
"""
