"""The commands: one module for each subcommand of ``rl-hotswap``.

Entry point: ``main.main``. The files in ``scripts/`` call these modules too. Nothing else imports this folder.
"""
