"""Common to all commands: netconf-hooks(8), EXIT STATUS."""

OK, FAILED, UNREADABLE = 0, 1, 2


class CommandError(Exception):
    """The command failed; the message says why."""
