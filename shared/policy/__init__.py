"""The contents of a policy version: signature, manifest, weights, probe, digests, keys.

Entry point: ``manifest.Manifest``. This folder imports only ``files`` and ``errors``.
"""
