"""Compiles ONNX graphs that treat every row of a batch alike to machine code, by LLVM."""
