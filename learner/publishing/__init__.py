"""Publishes policies as versions of a store: on a thread during training, or once.

Entry points: ``publisher.Publisher``, ``policy_publisher.PolicyPublisher`` and ``policy_publisher.publish_policy``.
``training``, ``sb3`` and ``rl_hotswap`` import this folder.
"""
