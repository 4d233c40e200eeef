"""Optional: a new version acts in a share of the episodes first and is adopted unless its returns are worse.

Entry point: ``canary_evaluation.CanaryEvaluation``, a strategy of ``actor/versions``. Only ``actor/agent_builder.py``
imports this folder.
"""
