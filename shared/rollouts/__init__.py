"""Rollouts as data: arrays, layout, encoding and counts.

Entry point: ``rollout.Rollout``. Both sides, ``run`` and ``transport`` import this folder.
"""
