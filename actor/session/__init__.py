"""One actor process from its flags to its end: settings, policy source, logs for people, signals.

Entry point: ``acting_session.act``. ``actor/run.py`` imports this folder; other processes that act use its
``switch_interval``.
"""
