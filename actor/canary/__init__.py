"""Optional: a new version acts in a share of the episodes first and is adopted unless its returns are worse.

Entry point: ``canary_evaluation.CanaryEvaluation``. Only ``actor/agent.py`` imports this folder.
"""
