"""The command `graceful`: its arguments, what each command does, and how it starts in several processes.

Imports any room, each when a command needs it.
"""

from graceful_forgetting.cli.command_line import main

__all__ = ["main"]
