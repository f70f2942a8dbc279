"""What all commands have in common: netconf-hooks(8), EXIT STATUS."""

OK, FAILED = 0, 1


class CommandError(Exception):
    """The command can't do what it was asked; the message says why."""
