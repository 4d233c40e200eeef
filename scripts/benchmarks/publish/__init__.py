"""Time from publishing a version to acting with it, and the cost of publishing for the learner.

Entry point: ``publish.measure_publish``.
"""
