"""Compiler from ONNX graphs that treat every row of a batch alike to machine code, by LLVM.

Entry points: ``graph_reader.read_row_program`` and ``llvm_program.compile_program``. The LLVM engine and the learner's
accelerators import this folder; it imports no engine.
"""
