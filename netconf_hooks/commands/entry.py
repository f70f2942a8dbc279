"""Common to all commands: netconf-hooks(8), EXIT STATUS."""

OK, FAILED = 0, 1


class CommandError(Exception):
    """The command failed; the message says why."""
