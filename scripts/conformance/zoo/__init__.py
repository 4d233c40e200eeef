"""Networks of reinforcement learning, each a small module with its example arguments.

``scripts/conformance/network_zoo.py`` exports them. Each file holds one family and lists it in ``NETWORKS``.
"""
