"""Measurements of how much exports and how well engines agree, as commands."""
