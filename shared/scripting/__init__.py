"""torch.jit.script and torch.jit.trace, and the detection of decisions that a trace would make permanent.

Entry point: ``scripting``. ``actor/loading`` and ``learner/export`` import this folder.
"""
