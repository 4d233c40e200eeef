"""Inputs of modules: the parameters of ``forward``, the sizes of its tensors, and other values for a comparison.

Only ``learner/export`` imports this folder.
"""
