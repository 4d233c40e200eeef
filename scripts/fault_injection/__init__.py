"""Random faults for a real training, and the invariants that must hold.

Entry points: ``faults.Faults`` and ``run_state.RunState``. Only ``scripts/chaos.py`` and tests import this folder.
"""
