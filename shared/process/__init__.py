"""Services of a whole process: logging, command lines, and children that end with their parent.

Entry points: ``log.set_up_logging`` and ``command_line.run_command``. Programs import this folder; libraries do not.
"""
