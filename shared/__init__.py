"""Code that actors and learners must agree on: stores, transport, engines, the policy contract.

``actor``, ``learner`` and ``rl_hotswap`` import this package; it imports none of them. Its folders, top first:
transport,
store, run, process, engines, scripting, rollouts, policy, files; ``errors`` and ``retry`` are the base.
"""
