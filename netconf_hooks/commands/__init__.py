"""What the command ``netconf-hooks`` does: one module a command, each with the function that the parser calls."""
