"""Verification of a version before it may act: its signature, its structure, and its outputs for the probe.

Entry point: ``probe_verifier.ProbeVerifier``. ``loading``, ``sandbox`` and ``prefetch`` import this folder.
"""
