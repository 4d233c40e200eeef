"""Static check of a program's operators, before any of its bytes reaches torch or ONNX Runtime.

``program_check.check_program`` is the entry point. Allowed are pure, deterministic operators, listed in
``onnx_lists`` and ``torchscript_lists``; everything else is refused by name. ``shared/engines`` and ``learner/export``
import this folder.
"""
