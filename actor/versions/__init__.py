"""The life of policy versions in one actor: select, load, hold, adopt, quarantine.

Entry points: ``policy_loader.PolicyLoader`` (background thread) and ``policy_manager.PolicyManager`` (policies in
memory).
The agent, ``canary`` and ``prefetch`` import this folder; it imports neither option and defines the protocols that they
implement.
"""
