"""Coverage-guided fuzzing of everything that reads bytes of others: one module for each target.

``python -m scripts.fuzz TARGET --seconds 1200`` fuzzes one. A target returns, or raises a HotswapError; anything else
is a finding. The corpus is in ``tests/fuzz_corpus``, and the default tests replay it.
"""
