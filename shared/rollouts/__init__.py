"""Rollouts as data: arrays, layout, encoding and counts.

Entry point: ``rollout.Rollout``. Both sides and ``transport`` import this folder.
"""
