"""Environment steps per second of an agent beside the environment alone and other libraries.

Entry point: ``acting_speed.measure_acting``.
"""
