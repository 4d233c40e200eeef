"""The benchmarks that ``scripts/benchmark.py`` runs, one file for each kind."""
