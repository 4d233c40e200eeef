"""Detection of new versions: file events where the system has them, polling elsewhere.

Entry point: ``policy_watcher.PolicyWatcher``. ``versions`` and ``prefetch`` import this folder.
"""
