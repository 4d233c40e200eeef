"""Policies that Stable-Baselines3 and sb3-contrib trained, under the policy contract of this project.

Entry points: ``adapter.from_sb3`` and ``publish_callback.PublishCallback``. ``importers`` and
``rl_hotswap`` import this folder; it needs the extra ``sb3``.
"""
