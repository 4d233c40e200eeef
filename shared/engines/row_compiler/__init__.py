"""Compiler from ONNX graphs that treat every row alike to one LLVM function. Entry point: ``llvm_program``.

This folder imports no engine, and no other folder imports ``llvmlite``.
"""
