"""One actor process from its flags to its end: settings, policy source, logs for people, signals.

Entry point: ``acting_session.act``. Only ``actor/run.py`` imports this folder.
"""
