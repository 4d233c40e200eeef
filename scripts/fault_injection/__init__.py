"""Random faults for a real training and the invariants that must hold; ``scripts/chaos.py`` runs them."""
