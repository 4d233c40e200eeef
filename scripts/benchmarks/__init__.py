"""One file for each thing that ``scripts/benchmark.py`` measures."""
