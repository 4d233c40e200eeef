"""Benchmarks that ``scripts/benchmark.py`` runs: a folder for each subject, and ``common`` below all of them."""
