"""Conformance measurements as commands: coverage of the export, and agreement of the engines."""
