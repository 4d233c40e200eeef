"""The contents of a policy version: signature, manifest, weights, probe, digests, keys.

Entry point: ``manifest.Manifest``. Everything above imports this folder; it imports only ``files`` and ``errors``.
"""
