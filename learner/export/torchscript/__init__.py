"""Programs of TorchScript: script, trace, pieces of a module made by either, and canonical names.

Entry point: ``script_methods``. ``learner/export`` imports this folder only when a TorchScript program is requested:
TorchScript is deprecated upstream, and exports of other programs work without it.
"""
