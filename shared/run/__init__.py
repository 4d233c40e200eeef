"""The files of one training run: directory, configuration, progress, and the description of its environment.

Entry point: ``run_directory.RunDirectory``. Both sides and ``transport`` import this folder.
"""
