"""Parts that all benchmarks share: results, rounds, plots, prepared versions, and the processes beside a benchmark.

Only the other folders of ``scripts/benchmarks`` and ``scripts/benchmark.py`` import this folder.
"""
