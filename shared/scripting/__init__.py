"""torch.jit.script and torch.jit.trace, and the detection of decisions that a trace would make permanent.

Entry point: ``scripting``. ``engines`` and ``learner/export`` import this folder.
"""
