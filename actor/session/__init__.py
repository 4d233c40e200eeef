"""One actor process: its flags, the policies it acts with, its report and its end.

Entry point: ``acting_session.act``. ``actor.run``, ``rl_hotswap`` and scripts import this folder.
"""
