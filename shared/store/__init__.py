"""Policy stores: publish, list, open and sweep versions in a directory or on a remote file system.

Entry point: ``policy_store.open_store``. Both sides import this folder.
"""
