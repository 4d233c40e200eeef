"""Growth of these costs with the size of the policy, the number of actors and the number of versions.

Entry point: ``scale.measure_scale``.
"""
