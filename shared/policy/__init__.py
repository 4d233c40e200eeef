"""The contents of a policy version: signature, manifest, weights, probe, digests, keys.

Entry point: ``manifest.Manifest``. It imports only ``files`` and
``errors``. ``output_bounds`` is reached from the actor alone, through the LLVM engine and the action check, which must
agree on it.
"""
