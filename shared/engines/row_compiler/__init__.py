"""Compiler from row-wise ONNX graphs to one LLVM function. A graph is row-wise when it treats every row alike.

Entry point: ``llvm_program``, used by ``shared/engines/llvm.py`` and ``learner/ppo/gradients/handwritten.py``. This
folder imports no engine, and no other folder imports ``llvmlite``.
"""
